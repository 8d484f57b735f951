"""The future of a task on a cluster.

Knows its place in its array; everything else it asks those who are named in `Owner`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from cluster_tools.call_stats import CallStats
from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.futures import RaisingFuture

_T = TypeVar("_T")

_logger = logging.getLogger("cluster_tools")

# As concurrent.futures._base names them.
_PENDING = "PENDING"
_RUNNING = "RUNNING"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"

# Guards the states of futures that nobody has waited for yet, and the making of their conditions.
# Reentrant, since a signal handler may ask a future while it is held.
_unwatched_lock = threading.RLock()


def _renew_lock_in_child() -> None:
    global _unwatched_lock
    _unwatched_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_child)


class JobsOfFutures(Protocol):
    def job_of(self, future: ClusterFuture[Any]) -> tuple[str, int | None]:
        """The job id of the task, and its index where it has one; waits for the submission."""
        ...

    def announce(self) -> None:
        """A future is done, or its call has a job: whoever waits for that is to look."""
        ...

    def stats_of(self, future: ClusterFuture[Any]) -> CallStats:
        """What is known about the call by now."""
        ...


class CancellationOfFutures(Protocol):
    def is_taken(self, future: ClusterFuture[Any]) -> bool:
        """Whether a pilot has taken its task, or may have."""
        ...

    def on_cancelled(self, future: ClusterFuture[Any]) -> None:
        """It is about to be cancelled."""
        ...

    def after_cancelling(self, future: ClusterFuture[Any]) -> None:
        """It is cancelled: nobody is to begin its task."""
        ...


@dataclass(frozen=True)
class Owner:
    """Whom the futures of one executor ask."""

    jobs: JobsOfFutures
    cancellation: CancellationOfFutures


def end_quietly(end: Callable[[], object], name: str) -> None:
    """Ends a future of calls of `name` where nothing may be raised: its callbacks may raise
    SystemExit.
    """
    try:
        end()
    except BaseException:
        _logger.exception("a callback of a future of %s raised", name)


class _Condition:
    """A lock that becomes a whole `threading.Condition` once somebody waits.

    A condition takes 1,500 bytes, and of most futures `as_completed` and `wait` need only the lock.
    """

    __slots__ = ("_lock", "_waited_for")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Only touched while the lock is held.
        self._waited_for: threading.Condition | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        if self._waited_for is None:
            self._waited_for = threading.Condition(self._lock)
        return self._waited_for.wait(timeout)

    def notify_all(self) -> None:
        if self._waited_for is not None:
            self._waited_for.notify_all()


class ClusterFuture(RaisingFuture[_T]):
    """A `concurrent.futures.Future` that knows its job, and of which 100,000 fit into little
    memory.
    """

    # On a pilot: where in its log what the call has printed is, (from, to); None: nothing. Of few,
    # so of the class.
    log_range: tuple[int, int | None] | None = None
    # What its job has measured; None until the output was read.
    measured: tuple[str, bytes] | None = None
    # On a pilot: where and when the call has begun.
    begun: tuple[str, float] | None = None
    # The attempt that the output is of.
    attempt = 1

    # The standard library's future makes a condition at once, which is most of its size and cost.
    # Here it is made when somebody first waits, asks or adds a callback.
    def __init__(self, owner: Owner) -> None:
        self._own_condition: _Condition | None = None
        self._state = _PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._owner = owner
        # Set when the task joins an array.
        self.array: TaskArray | None = None
        self.position = 0
        self.submitted_at = time.time()

    @property
    def _condition(self) -> _Condition:  # pyright: ignore[reportIncompatibleVariableOverride]
        condition = self._own_condition
        if condition is None:
            with _unwatched_lock:
                condition = self._own_condition
                if condition is None:
                    condition = self._own_condition = _Condition()
        return condition

    def __reduce__(self) -> Any:
        raise TypeError("a future can't be pickled: its result arrives in this process")

    @property
    def cluster_jobid(self) -> str:
        """The id of the job; waits until it is submitted.

        In an array made by `map_to_futures` or `map` the array's id, with `cluster_jobindex` beside
        it; for calls of `submit` that went in together `<jobid>_<index>`.
        Raises: the future's own exception, where no job was made.
        """
        return self._owner.jobs.job_of(self)[0]

    @property
    def cluster_jobindex(self) -> int:
        """The index in the array. Only futures of `map_to_futures` and `map` have one."""
        index = self._owner.jobs.job_of(self)[1]
        if index is None:
            raise AttributeError("a future of submit() has no cluster_jobindex")
        return index

    @property
    def cluster_stats(self) -> CallStats:
        """What is known about the call by now: when and where it ran, and what it used."""
        return self._owner.jobs.stats_of(self)

    def result(self, timeout: float | None = None) -> _T:
        """The call's result. Raises: what the call raised; TimeoutError after `timeout` seconds."""
        if self._state == _FINISHED and self._exception is None:  # it stays so: no lock
            return cast(_T, self._result)
        return super().result(timeout)

    def cancel(self) -> bool:
        """Cancels the call unless it is known to run; True means that the future is done."""
        if self._state != _PENDING:
            return self.cancelled()
        if self._owner.cancellation.is_taken(self):
            self.start()
            return self.cancelled()
        return self.cancel_waiting()

    def cancel_waiting(self) -> bool:
        """`cancel` of a call that no pilot has taken."""
        is_ours = self._end_as_cancelled((_PENDING,), self._owner.cancellation.on_cancelled)
        if is_ours:
            self._owner.cancellation.after_cancelling(self)
            self._call_back()
        return is_ours or self.cancelled()

    def cancel_for_shutdown(self) -> None:
        """Ends the future as cancelled even if its call runs: its executor is shutting down."""
        if self._end_as_cancelled((_PENDING, _RUNNING), lambda _: None):
            self._call_back()

    def _end_as_cancelled(
        self,
        from_states: tuple[str, ...],
        tell: Callable[[ClusterFuture[Any]], None],
    ) -> bool:
        """Returns: whether this has ended it.

        `tell` is called first, since Ctrl-C or a RecursionError may cut short what follows. Whoever
        is told calls `was_cancelled`, which waits until it is clear whether the future was
        cancelled.
        """
        with _unwatched_lock:
            unwatched = self._own_condition is None
            if unwatched:
                if self._state not in from_states:
                    return False
                tell(self)
                self._state = _CANCELLED_AND_NOTIFIED
        if not unwatched:
            with self._condition:
                if self._state not in from_states:
                    return False
                tell(self)
                self._state = _CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
                self._condition.notify_all()
        self._owner.jobs.announce()
        return True

    def was_cancelled(self) -> bool:
        """Whether it is cancelled. Waits for a thread that is just about to cancel it."""
        with _unwatched_lock:
            if self._own_condition is None:
                return self._state == _CANCELLED_AND_NOTIFIED
        with self._condition:
            return self._state == _CANCELLED_AND_NOTIFIED

    def start(self) -> None:
        """The call is known to run."""
        with _unwatched_lock:
            if self._own_condition is None:
                if self._state == _PENDING:
                    self._state = _RUNNING
                return
        with self._condition:
            if self._state == _PENDING:
                self._state = _RUNNING

    def resolve(self, result: _T | None, exception: BaseException | None) -> None:
        """Sets the result, or the exception where there is one, unless the future is done."""
        with _unwatched_lock:
            unwatched = self._own_condition is None
            if unwatched:
                if self._state not in (_PENDING, _RUNNING):
                    return
                self._result, self._exception = result, exception
                self._state = _FINISHED
        try:
            if not unwatched:
                if exception is not None:
                    self.set_exception(exception)
                else:
                    self.set_result(result)  # pyright: ignore[reportArgumentType]
        except InvalidStateError:  # cancelled meanwhile
            pass
        finally:  # a callback may raise SystemExit
            self._owner.jobs.announce()

    def has_started(self) -> bool:
        """`running()` without making a condition."""
        return self._state == _RUNNING

    def is_done(self) -> bool:
        """`done()` without making a condition."""
        return self._state not in (_PENDING, _RUNNING)

    def _call_back(self) -> None:
        self._invoke_callbacks()  # pyright: ignore - typeshed does not have it
