"""Cancels jobs, as a process of its own: nobody has to wait for it, and it goes on when the client has ended.

    python -m cluster_tools.schedulers.slurm_stop TOKEN GRACE_S [CLUSTER_OPTION] < ids, one a line

Only jobs whose names carry the TOKEN, an executor's: a slurmctld that has lost its state gives the ids that
we know to other jobs. With ids, these are elements that are cancelled at once. Without, all jobs of the
executor: those that have not started are cancelled at once; those that run get SIGINT first, with --full,
without which the batch step hears nothing, and are cancelled `GRACE_S` seconds later; and so is what shows
up after that, for a submission may have been on its way.

Filters such as --state are for whole jobs only: with an element's id, Slurm 22.05 takes the whole pending
rest of its array. https://slurm.schedmd.com/scancel.html
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence

from cluster_tools.schedulers.base import SchedulerError
from cluster_tools.schedulers.slurm_commands import (
    CommandFailed,
    queue,
    run,
)

# How long to wait in all for a slurmctld that does not answer.
_PATIENCE_S = 600.0
_RETRY_INTERVAL_S = 5.0
# A job that is being cancelled itself has SIGTERM_WAIT_IN_S left, then KillWait.
_IN_A_JOB_TIMEOUT_S = 10.0
# A submission that was on its way has arrived by then.
_LATE_ARRIVAL_S = 10.0
# Each may list a thousand indexes, and the kernel limits the length of a command line.
_MAX_IDS_PER_COMMAND = 20


def _listed_jobs(token: str, cluster_options: Sequence[str]) -> set[str]:
    """The jobs in the queue whose name carries the token. Raises: SchedulerError."""
    return {row.job_id for row in queue(*cluster_options) if f".{token}." in row.name}


def _jobs_of(token: str, cluster_options: Sequence[str], deadline: float) -> set[str]:
    """The same, waiting for a slurmctld that does not answer; empty where it does not until the deadline."""
    while True:
        try:
            return _listed_jobs(token, cluster_options)
        except SchedulerError:
            if time.monotonic() > deadline:
                return set()
            time.sleep(_RETRY_INTERVAL_S)


def _scancel(
    ids: Collection[str], cluster_options: Sequence[str], deadline: float, *options: str
) -> None:
    ordered = sorted(ids)
    for start in range(0, len(ordered), _MAX_IDS_PER_COMMAND):
        some = ordered[start : start + _MAX_IDS_PER_COMMAND]
        while True:
            try:
                run(["scancel", *cluster_options, *options, *some])
                break
            except CommandFailed as exc:  # also said of a job that has ended meanwhile
                if "contact" not in str(exc) or time.monotonic() > deadline:
                    break
            except SchedulerError:
                if time.monotonic() > deadline:
                    break
            time.sleep(_RETRY_INTERVAL_S)


def stop_at_once(token: str, cluster_options: Sequence[str]) -> None:
    """The same from inside a job, whose end is the end of all its processes: nothing can stay for the rest.

    slurmctld itself ends by force what does not heed plain scancel's SIGTERM, after KillWait.
    Raises: SchedulerError, where Slurm does not answer.
    """
    jobs = sorted(_listed_jobs(token, cluster_options))
    if jobs:
        try:
            run(["scancel", *cluster_options, *jobs], timeout_s=_IN_A_JOB_TIMEOUT_S)
        except CommandFailed:  # also said of a job that has ended meanwhile
            pass


def main(arguments: Sequence[str]) -> None:
    token, grace_s, *cluster_options = arguments
    elements = sys.stdin.read().split()
    deadline = time.monotonic() + _PATIENCE_S
    jobs = _jobs_of(token, cluster_options, deadline)
    if elements:
        ours = [element for element in elements if element.partition("_")[0] in jobs]
        _scancel(ours, cluster_options, deadline)
        return
    _scancel(jobs, cluster_options, deadline, "--state=PENDING")
    _scancel(jobs, cluster_options, deadline, "--full", "--signal=INT", "--state=RUNNING")
    time.sleep(float(grace_s))
    _scancel(_jobs_of(token, cluster_options, deadline), cluster_options, deadline)
    time.sleep(_LATE_ARRIVAL_S)
    _scancel(_jobs_of(token, cluster_options, deadline), cluster_options, deadline)


if __name__ == "__main__":
    main(sys.argv[1:])
