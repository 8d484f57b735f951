"""Cancels jobs, as a helper (`detached`): nobody has to wait for it, and it goes on when the client has ended.

    main([elements|all, TOKEN, GRACE_S, CLUSTER_OPTION...], begun) < ids, one a line

Only jobs whose commands or scripts name the TOKEN, an executor's: a slurmctld that has lost its state gives
the ids that we know to other jobs. `elements`: those of the ids are cancelled at once. `all`: all jobs of
the executor, of which the ids are those that it knows: those that have not started are cancelled at once;
those that run get SIGINT first, with --full, without which the batch step hears nothing, and are cancelled
`GRACE_S` seconds later; and so is what shows up after that, for a submission may have been on its way.

Filters such as --state are for whole jobs only: with an element's id, Slurm 22.05 takes the whole pending
rest of its array. https://slurm.schedmd.com/scancel.html
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence

from cluster_tools.schedulers.base import SchedulerError
from cluster_tools.schedulers.slurm.commands import (
    CommandFailed,
    is_of,
    query,
    queue,
    run,
    script_of,
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


def _listed_jobs(token: str, known: Collection[str], cluster_options: Sequence[str]) -> set[str]:
    """The executor's jobs in the queue. Raises: SchedulerError.

    `known`: ids that it knows of its jobs: in a queue that does not tell so, their scripts do.
    """
    rows = queue(*cluster_options)
    ours = {row.job_id for row in rows if is_of(row.command, token)}
    unclear = {row.job_id for row in rows}.intersection(known) - ours
    return ours | {job for job in unclear if is_of(script_of(job, *cluster_options), token)}


def _jobs_of(
    token: str, known: Collection[str], cluster_options: Sequence[str], deadline: float
) -> set[str]:
    """The same, waiting for a slurmctld that does not answer; empty where it does not until the deadline."""
    while True:
        try:
            return _listed_jobs(token, known, cluster_options)
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
                query("scancel", *cluster_options, *options, *some)  # may be said twice
                break
            except CommandFailed:  # also said of a job that has ended meanwhile
                break
            except SchedulerError:
                if time.monotonic() > deadline:
                    break
            time.sleep(_RETRY_INTERVAL_S)


def stop_at_once(token: str, known: Collection[str], cluster_options: Sequence[str]) -> None:
    """The same from inside a job, whose end is the end of all its processes: nothing can stay for the rest.

    slurmctld itself ends by force what does not heed plain scancel's SIGTERM, after KillWait.
    Raises: SchedulerError, where Slurm does not answer.
    """
    jobs = sorted(_listed_jobs(token, known, cluster_options))
    if jobs:
        try:
            run(["scancel", *cluster_options, *jobs], timeout_s=_IN_A_JOB_TIMEOUT_S)
        except CommandFailed:  # also said of a job that has ended meanwhile
            pass


def main(arguments: Sequence[str], begun: Callable[[], None]) -> None:
    what, token, grace_s, *cluster_options = arguments
    # A client that is killed while it writes leaves the beginning of an id, which may be another's.
    lines = sys.stdin.read().splitlines(keepends=True)
    ids = [line.rstrip("\n") for line in lines if line.endswith("\n")]
    known = {element.partition("_")[0] for element in ids}
    deadline = time.monotonic() + _PATIENCE_S

    def jobs_now() -> set[str]:
        return _jobs_of(token, known, cluster_options, deadline)

    jobs = jobs_now()
    if what == "elements":
        ours = [element for element in ids if element.partition("_")[0] in jobs]
        _scancel(ours, cluster_options, deadline)
        begun()
        return
    _scancel(jobs, cluster_options, deadline, "--state=PENDING")
    _scancel(jobs, cluster_options, deadline, "--full", "--signal=INT", "--state=RUNNING")
    begun()
    time.sleep(float(grace_s))
    _scancel(jobs_now(), cluster_options, deadline)
    time.sleep(_LATE_ARRIVAL_S)
    _scancel(jobs_now(), cluster_options, deadline)
