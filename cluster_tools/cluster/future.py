"""The future of a call that runs on a cluster.

A future knows its array and its position there. It asks the objects in `Owner` for everything else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from cluster_tools.call_stats import CallStats
from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.futures import RaisingFuture

_T = TypeVar("_T")

_logger = logging.getLogger("cluster_tools")

# The names of the states in concurrent.futures._base.
_PENDING = "PENDING"
_RUNNING = "RUNNING"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"

# Guards the states of futures that have no condition yet, and the creation of their conditions.
# Reentrant: a signal handler may use a future while its own thread holds the lock.
_unwatched_lock = threading.RLock()


def _renew_lock_in_child() -> None:
    global _unwatched_lock
    _unwatched_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_child)


class JobsOfFutures(Protocol):
    """What a future needs from `cluster.jobs.Jobs`."""

    def job_of(self, future: ClusterFuture[Any]) -> tuple[str, int | None]:
        """The job id of the task, and its index if it has one. Waits until it is submitted."""
        ...

    def announce(self) -> None:
        """Wakes the threads in `job_of`: a future is done, or its task has a job."""
        ...

    def stats_of(self, future: ClusterFuture[Any]) -> CallStats:
        """What is known about the call now."""
        ...


class CancellationOfFutures(Protocol):
    """What a future needs from `cluster.cancellation.Cancellation`."""

    def is_taken(self, future: ClusterFuture[Any]) -> bool:
        """Whether a pilot has taken the future's task, or may have taken it."""
        ...

    def on_cancelled(self, future: ClusterFuture[Any]) -> None:
        """Called immediately before the future's state becomes cancelled."""
        ...

    def after_cancelling(self, future: ClusterFuture[Any]) -> None:
        """Called after the future was cancelled: revokes its task."""
        ...


@dataclass(frozen=True)
class Owner:
    """The objects that all futures of one executor use."""

    jobs: JobsOfFutures
    cancellation: CancellationOfFutures


def end_quietly(end: Callable[[], object], name: str) -> None:
    """Calls `end`, which ends a future, and logs what it raises.

    `name`: the name of the called function. A callback of the future may raise even SystemExit.
    """
    try:
        end()
    except BaseException:
        _logger.exception("a callback of a future of %s raised", name)


class _Condition:
    """A lock that makes a `threading.Condition` when a thread first waits for it.

    A condition takes 1,500 bytes. For most futures, `as_completed` and `wait` need only the lock.
    """

    __slots__ = ("_lock", "_waited_for")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Guarded by `_lock`.
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
    """A `concurrent.futures.Future` that knows its job and takes little memory.

    An executor may have 100,000 of them.
    """

    # The next four are class attributes: most futures never set them, and so need no memory for
    # them.
    # The part of the pilot's log that the call has written: first byte, and the byte after the last
    # (None while the call runs). None: nothing is known to be written, or no pilot runs the call.
    log_range: tuple[int, int | None] | None = None
    # The node, and what the job has measured there; None until the output was read.
    measured: tuple[str, bytes] | None = None
    # The node on which a pilot has begun the call, and when, in seconds since the epoch.
    begun: tuple[str, float] | None = None
    # The attempt from which the output comes.
    attempt = 1

    # Does not call the base class, which makes a condition at once: that is most of a future's size
    # and cost. Here it is made when a thread first waits, asks or adds a callback.
    def __init__(self, owner: Owner, submitted_at: float) -> None:
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
        self.submitted_at = submitted_at

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
        """The id of the job. Waits until the job is submitted.

        For futures of `map_to_futures` and `map` this is the id of the array; `cluster_jobindex`
        has the index. For calls of `submit` that were gathered into an array it is
        `<jobid>_<index>`.
        Raises: the future's own exception, if no job was made.
        """
        return self._owner.jobs.job_of(self)[0]

    @property
    def cluster_jobindex(self) -> int:
        """The index of the element in its array. Waits until the job is submitted.

        Raises: AttributeError, for futures of `submit`; the future's own exception, if no job was
        made.
        """
        index = self._owner.jobs.job_of(self)[1]
        if index is None:
            raise AttributeError("a future of submit() has no cluster_jobindex")
        return index

    @property
    def cluster_stats(self) -> CallStats:
        """What is known about the call now: when and where it ran, and what it used."""
        return self._owner.jobs.stats_of(self)

    def result(self, timeout: float | None = None) -> _T:
        """The call's result.

        Raises: what the call has raised; TimeoutError after `timeout` seconds; CancelledError.
        """
        if self._state == _FINISHED and self._exception is None:  # final, so no lock is needed
            return cast(_T, self._result)
        return super().result(timeout)

    def cancel(self) -> bool:
        """Cancels the call unless it is known to run. Returns: whether the future is cancelled."""
        if self._state != _PENDING:
            return self.cancelled()
        if self._owner.cancellation.is_taken(self):
            self.start()
            return self.cancelled()
        return self.cancel_waiting()

    def cancel_waiting(self) -> bool:
        """Cancels a call that no pilot has taken. Returns: whether the future is cancelled."""
        is_ours = self._end_as_cancelled((_PENDING,), self._owner.cancellation.on_cancelled)
        if is_ours:
            self._owner.cancellation.after_cancelling(self)
            self._call_back()
        return is_ours or self.cancelled()

    def cancel_for_shutdown(self) -> None:
        """Ends the future as cancelled, even if its call runs: its executor is shutting down.

        Does not revoke the task.
        """
        if self._end_as_cancelled((_PENDING, _RUNNING), lambda _: None):
            self._call_back()

    def _end_as_cancelled(
        self,
        from_states: tuple[str, ...],
        tell: Callable[[ClusterFuture[Any]], None],
    ) -> bool:
        """Changes the state to cancelled if it is one of `from_states`. Returns: whether it did.

        It calls `tell` before the change, because Ctrl-C or a RecursionError may interrupt what
        comes afterwards. The resolver, which is told, calls `was_cancelled`; that waits for the
        lock and so knows whether the change was made.
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
        """Whether the future is cancelled. Waits for a thread that is cancelling it now."""
        with _unwatched_lock:
            if self._own_condition is None:
                return self._state == _CANCELLED_AND_NOTIFIED
        with self._condition:
            return self._state == _CANCELLED_AND_NOTIFIED

    def start(self) -> None:
        """Changes the state from pending to running: the call is known to run."""
        with _unwatched_lock:
            if self._own_condition is None:
                if self._state == _PENDING:
                    self._state = _RUNNING
                return
        with self._condition:
            if self._state == _PENDING:
                self._state = _RUNNING

    def resolve(self, result: _T | None, exception: BaseException | None) -> None:
        """Sets the exception, or the result if `exception` is None, unless the future is done."""
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
        except InvalidStateError:  # another thread has cancelled the future
            pass
        finally:  # a callback may raise SystemExit
            self._owner.jobs.announce()

    def has_started(self) -> bool:
        """Like `running()`, but makes no condition."""
        return self._state == _RUNNING

    def is_done(self) -> bool:
        """Like `done()`, but makes no condition."""
        return self._state not in (_PENDING, _RUNNING)

    def _call_back(self) -> None:
        self._invoke_callbacks()  # pyright: ignore - typeshed does not have it
