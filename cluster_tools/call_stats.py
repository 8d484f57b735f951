"""What is known about a call (`future.cluster_stats`) and about all of an executor (`stats()`).

    measured in the job or worker --Measured--> call_stats() --> CallStats
    known to the client (submission, job, log) ------^

Records only, made when somebody asks. They are public: fields may be added, none changes its
meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster_tools.format.measured import Measured


@dataclass(frozen=True, slots=True)
class CallStats:
    """What is known about a call by now: of its last attempt, where there were several.

    What is not known, or not yet, is None. Times are seconds since the epoch, as of `time.time()`.
    They are of two clocks, which may differ: times of the same clock can be subtracted from each
    other, the time that a call has waited is as good as the clocks agree.

    Attributes:
        submitted_at: When the call was submitted, by the client's clock.
        started_at: When a worker began with it, by the clock of the node: before it loads the
            function and its arguments.
        ended_at: When its output was there, by the clock of the node: after the result was pickled.
            `ended_at - started_at` is the duration, even if the clock was set meanwhile.
        node: The name of the node, as the node itself has it.
        job_id: The scheduler's id of the job or of the array's element; None where there is no
            scheduler. On a pilot, the pilot's.
        attempt: Which attempt this is, from 1.
        peak_memory_bytes: The most memory that the call's process has had resident until the end of
            the call. In a process that has run other calls before (a pilot, a pool's worker,
            `sequential`) it may have been for one of those.
        cpu_s: User and system time, in seconds, that the call's process has used during the call,
            with that of child processes which it has waited for. Right to ten milliseconds.
        log: The path of the file with what the call has printed; None where calls have no logs.
    """

    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    node: str | None = None
    job_id: str | None = None
    attempt: int = 1
    peak_memory_bytes: int | None = None
    cpu_s: float | None = None
    log: str | None = None


def call_stats(
    measured: Measured | None = None,
    *,
    submitted_at: float | None = None,
    started_at: float | None = None,
    node: str | None = None,
    job_id: str | None = None,
    attempt: int = 1,
    log: str | None = None,
) -> CallStats:
    """Makes the record of a call from its parts.

    Arguments:
        measured: What the job has measured, once the call has ended.
        started_at, node: Used where there is no `measured` yet: of a call that runs.
        others: As in `CallStats`.
    """
    if measured is None:
        return CallStats(submitted_at, started_at, None, node, job_id, attempt, log=log)
    return CallStats(
        submitted_at,
        measured.started_at,
        measured.ended_at,
        measured.node,
        job_id,
        attempt,
        measured.peak_memory_bytes,
        measured.cpu_s,
        log,
    )


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """What has become of the calls of an executor, at one time.

    Each call is counted in one of the first five; of a `map`, each item is a call.

    Attributes:
        waiting: Calls that are submitted and are not known to run.
        running: Calls that run.
        done: Calls that have returned.
        failed: Calls that have raised, or were ended from outside.
        cancelled: Calls that were cancelled before they ran.
        rate: How many calls end in a second, lately: over about ten seconds, and where fewer end,
            over the time in which the last twenty ended. Time in which there were none is not
            counted. 0.0 where none has.
        time_left_s: How long what waits and runs will take at that rate, in seconds; None where the
            rate is not known.
    """

    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    rate: float
    time_left_s: float | None
