"""Records of what is known about a call (`future.cluster_stats`) and an executor (`stats()`).

    measured in the job or worker --Measured--> call_stats() --> CallStats
    known to the client (submission, job, log) ------^

A record is made when it is asked for, and does not change afterwards. Records are public: fields
may be added, but no field changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster_tools.format.measured import Measured


@dataclass(frozen=True, slots=True)
class CallStats:
    """What is known about a call now. If it had several attempts, this is about the last.

    An attribute that is not known, or not yet, is None. Times are seconds since the epoch, as from
    `time.time()`. The client and the node have different clocks. So the difference of `started_at`
    and `submitted_at` is only as exact as these two clocks agree.

    Attributes:
        submitted_at: When the call was submitted, by the client's clock. For calls of `map` and
            `map_to_futures`: when that was called.
        started_at: When a worker began with the call, by the node's clock. This is before it loads
            the function and its arguments.
        ended_at: When the call's output was complete, by the node's clock. This is after the result
            was pickled. `ended_at - started_at` is the duration, even if the clock was set
            meanwhile.
        node: The name of the node, as the node itself reports it.
        job_id: The scheduler's id of the job, or of the array's element; of the pilot, if a pilot
            runs the call. None if there is no scheduler.
        attempt: The number of this attempt, from 1.
        peak_memory_bytes: The largest resident memory of the call's process until the end of the
            call. If the process has run other calls before (a pilot, a pool's worker,
            `sequential`), one of those may have needed it.
        cpu_s: User and system CPU time, in seconds, of the call's process during the call. Includes
            child processes that have ended and were waited for. Exact to ten milliseconds.
        log: The path of the file with what the call has printed; None if calls have no logs.
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
        measured: What the job has measured; None until the call has ended.
        started_at, node: Used if `measured` is None, so of a call that runs.
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
    """How many calls of an executor are in each state, at one time.

    Each call is counted in exactly one of the first five attributes. Each item of a `map` is a
    call.

    Attributes:
        waiting: Calls that were submitted and are not known to run.
        running: Calls that run.
        done: Calls that have returned.
        failed: Calls that have raised an exception, or were ended from outside.
        cancelled: Calls that were cancelled before they ran.
        rate: How many calls end in a second. Measured over about the last ten seconds; if calls end
            rarely, over the time since about the last twenty. Time in which the executor had no
            open calls does not count. 0.0 if no call has ended.
        time_left_s: How many seconds the waiting and running calls will take at this rate; None if
            the rate is not known.
    """

    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    rate: float
    time_left_s: float | None
