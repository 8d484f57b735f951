"""Cancels jobs, in a helper process (`detached`) that goes on when the client has ended.

    main([elements|all, TOKEN, GRACE_S, CLUSTER_OPTION...], begun) < ids, one a line

Only jobs with this TOKEN, an executor's, are cancelled: a slurmctld that has lost its state gives
the same ids to other jobs.

`elements`: the ids are those of elements, which are cancelled at once.

`all`: all jobs of the executor, also those whose ids it does not know. Jobs that have not started
are cancelled at once. Jobs that run get SIGINT (with --full, without which the batch step does not
get it), and are cancelled GRACE_S seconds later. So are jobs that show up after that: a submission
may have been on its way.

Filters such as --state are used with whole jobs only: with the id of an element, Slurm 22.05
cancels all elements of its array that are pending. https://slurm.schedmd.com/scancel.html
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence

from cluster_tools.schedulers.base import SchedulerError
from cluster_tools.schedulers.slurm.commands import (
    CommandFailed,
    has_token,
    query,
    queue,
    run,
    script_of,
)

# How long to wait for a slurmctld that does not answer: it may be started again meanwhile.
_PATIENCE_S = 600.0
_RETRY_INTERVAL_S = 5.0
# Time limit of scancel in a job: if that is being cancelled, it has SIGTERM_WAIT_IN_S and KillWait.
_IN_A_JOB_TIMEOUT_S = 10.0
# By then a submission that was on its way has arrived.
_LATE_ARRIVAL_S = 10.0
# Each id may list thousands of indexes, and the kernel limits the length of a command line.
_MAX_IDS_PER_COMMAND = 20


def _listed_jobs(token: str, known: Collection[str], cluster_options: Sequence[str]) -> set[str]:
    """The ids of the executor's jobs in the queue. Raises: SchedulerError.

    `known`: ids of its jobs. If the queue does not show the token of one, its script is asked for.
    """
    rows = queue(*cluster_options)
    ours = {row.job_id for row in rows if has_token(row.command, token)}
    unclear = {row.job_id for row in rows}.intersection(known) - ours
    return ours | {job for job in unclear if has_token(script_of(job, *cluster_options), token)}


def _jobs_of(
    token: str, known: Collection[str], cluster_options: Sequence[str], deadline: float
) -> set[str]:
    """The same, again while slurmctld does not answer; empty if it does not until the deadline."""
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
    """Runs scancel, again while slurmctld does not answer, until the deadline."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), _MAX_IDS_PER_COMMAND):
        some = ordered[start : start + _MAX_IDS_PER_COMMAND]
        while True:
            try:
                query("scancel", *cluster_options, *options, *some)
                break
            except CommandFailed:  # a job has ended meanwhile
                break
            except SchedulerError:
                if time.monotonic() > deadline:
                    break
            time.sleep(_RETRY_INTERVAL_S)


def stop_at_once(token: str, known: Collection[str], cluster_options: Sequence[str]) -> None:
    """Cancels all jobs of the executor from inside a job, where a helper would end with that job.

    Of a job that ignores the SIGTERM of a plain scancel, slurmctld kills the processes after
    KillWait (slurm.conf). Raises: SchedulerError, where Slurm does not answer.
    """
    jobs = sorted(_listed_jobs(token, known, cluster_options))
    if jobs:
        try:
            run(["scancel", *cluster_options, *jobs], timeout_s=_IN_A_JOB_TIMEOUT_S)
        except CommandFailed:  # a job has ended meanwhile
            pass


def main(arguments: Sequence[str], begun: Callable[[], None]) -> None:
    """What the helper runs. Calls `begun` when running jobs were sent SIGINT."""
    what, token, grace_s, *cluster_options = arguments
    # A client that is killed while it writes leaves a part of an id, which may be another job's id.
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
