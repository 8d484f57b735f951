"""Runs each call at once, in the caller's thread: for debugging, or where one process is enough."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import ParamSpec

from cluster_tools._keywords import check_keywords
from cluster_tools.call_stats import ExecutorStats
from cluster_tools.counts import check_count
from cluster_tools.executor_stub import StaysHere
from cluster_tools.executors.calls import KeptOutput, call_and_keep
from cluster_tools.executors.initializing import Initialization
from cluster_tools.failure_log import FailureLog
from cluster_tools.function_name import function_name
from cluster_tools.futures import LocalFuture
from cluster_tools.mapping import check_map_arguments, iterate_results
from cluster_tools.output_options import pop_output_key, resolve_output_key_getter
from cluster_tools.output_store import FileOutputStore, OutputStore
from cluster_tools.tally import Tally
from cluster_tools.usage import Meter

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")


class SequentialExecutor(StaysHere, concurrent.futures.Executor):
    """Runs each call before `submit` returns.

    Arguments:
        output_store: Where outputs are kept for which the caller names a key.
        initializer: Called once, before the first call. If it fails, all calls raise its
            exception.
        initargs: The arguments of `initializer`.
        max_workers: How many calls may run at a time if several threads use this executor; the
            others wait in `submit`. One thread never runs more than one.
        other: Keywords that other strategies take; they have no effect here.

    Raises:
        ValueError: `max_workers` is not an int of 1 or more.
        TypeError: `initializer` cannot be called.
    """

    def __init__(
        self,
        output_store: OutputStore | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_workers: int | None = None,
        **other: Any,
    ) -> None:
        check_keywords(other)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self.output_store = FileOutputStore() if output_store is None else output_store
        self._initialization = Initialization(
            None if initializer is None else self._prepared(initializer, tuple(initargs)),
            function_name(initializer) if initializer is not None else "",
        )
        self._slots = _Slots(check_count("max_workers", max_workers))
        self._is_shut_down = False
        self._meter = Meter()
        self._tally = Tally()

    @property
    def max_workers(self) -> int:
        """How many calls run at a time for one thread."""
        return 1

    # Names under which libraries read it, as in the standard library's pools and in others.
    @property
    def _max_workers(self) -> int:
        return self.max_workers

    @property
    def size(self) -> int:
        """`max_workers`."""
        return self.max_workers

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Runs `fn(*args, **kwargs)`. Its exception is the future's.

        But `KeyboardInterrupt` is raised here: it is meant for the program, not for the call.
        """
        key = pop_output_key(kwargs)
        return self._run(fn, args, kwargs, key, FailureLog(1), f"Call of {function_name(fn)}")

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Runs the calls, all of them or the first `buffersize`, and yields their results.

        If a result is there only after `timeout`, the iterator raises TimeoutError in its place;
        later calls are run all the same. `chunksize` has no effect.
        """
        check_map_arguments(chunksize=chunksize, buffersize=buffersize)
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = iter(zip(*iterables))
        where = f"Call of {function_name(fn)}"
        futures: deque[Future[_T]] = deque()
        if buffersize is None:
            all_calls = list(calls)
            failure_log = FailureLog(len(all_calls))
            for call in all_calls:
                futures.append(
                    _in_time(self._run(fn, call, {}, None, failure_log, where), deadline)
                )
            return iterate_results(futures, timeout=_left(deadline))

        def submit_next() -> Future[_T] | None:
            for call in calls:
                return _in_time(self._run(fn, call, {}, None, FailureLog(1), where), deadline)
            return None

        while len(futures) < buffersize and (future := submit_next()) is not None:
            futures.append(future)
        return iterate_results(futures, timeout=_left(deadline), submit_next=submit_next)

    def map_to_futures(
        self,
        fn: Callable[[_S], _T],
        args: Iterable[_S],
        output_pickle_path_getter: Callable[[_S], str | PathLike[str]] | None = None,
        output_key_getter: Callable[[_S], str] | None = None,
    ) -> list[Future[_T]]:
        """See `cluster_tools.Executor.map_to_futures`."""
        key_of = resolve_output_key_getter(output_pickle_path_getter, output_key_getter)
        items = list(args)
        keys = [None if key_of is None else key_of(item) for item in items]
        failure_log = FailureLog(len(items))
        name = function_name(fn)
        return [
            self._run(fn, (item,), {}, key, failure_log, f"Call {index} of {name}")
            for index, (item, key) in enumerate(zip(items, keys))
        ]

    @classmethod
    def as_completed(cls, futures: Iterable[Future[_T]]) -> Iterator[Future[_T]]:
        """See `concurrent.futures.as_completed`."""
        return concurrent.futures.as_completed(futures)

    def share(self, value: _T) -> _T:
        """Returns the value itself: calls get their arguments uncopied.

        Raises: RuntimeError after shutdown.
        """
        self._check_open("cannot share a value after shutdown")
        return value

    def forward_log(self, fut: Future[_T]) -> _T:
        """Returns the result; the call's log was written when it ran."""
        return fut.result()

    def stats(self) -> ExecutorStats:
        """What has become of the calls. All run, but for those beyond `max_workers`."""
        return self._tally.stats(self._slots.count)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses further calls. There is nothing to wait for, and nothing to cancel."""
        self._is_shut_down = True

    def _check_open(self, message: str) -> None:
        if self._is_shut_down:
            raise RuntimeError(message)

    def _run(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        key: str | None,
        failure_log: FailureLog,
        where: str,
    ) -> Future[_T]:
        self._check_open("cannot schedule new futures after shutdown")
        future: LocalFuture[_T] = LocalFuture()
        future.set_running_or_notify_cancel()
        self._tally.note_submitted()
        try:
            with self._slots:
                began = self._meter.begin()
                result, error = self._outcome(fn, args, kwargs, key)
                future.used = self._meter.end(began)
        except KeyboardInterrupt:
            self._tally.note_ended(failed=1)
            raise
        if self._initialization.has_failed:
            where = f"{where}, for which the initializer {self._initialization.name} was called,"
        if error is None:
            self._tally.note_ended(done=1)
            future.set_result(result)  # pyright: ignore[reportArgumentType]
        else:
            self._tally.note_ended(failed=1)
            future.set_exception(error)
        failure_log.watch(future, where)
        return future

    def _outcome(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        key: str | None,
    ) -> tuple[_T | None, BaseException | None]:
        """(result, None) or (None, exception) of the call."""
        # Not in `_run`: the exception's traceback refers to this frame, which must have no future.
        try:
            keep = None
            if key is not None:
                key = self.output_store.resolve_key(key)
                self.output_store.delete(key)
                keep = (self.output_store, key)
            self._initialization.ensure()
            return self._call(fn, args, kwargs, keep), None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return None, error

    def _prepared(
        self, initializer: Callable[..., object], initargs: tuple[Any, ...]
    ) -> Callable[[], object]:
        """The initializer with its arguments."""
        return partial(initializer, *initargs)

    def _call(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        keep: KeptOutput | None,
    ) -> _T:
        return call_and_keep(fn, args, kwargs, keep)


def _in_time(future: Future[_T], deadline: float | None) -> Future[_T]:
    """This future of a call that has just run; or, after the deadline, one that is never done."""
    return future if deadline is None or time.monotonic() <= deadline else Future()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


class _Slots:
    """Lets `count` threads in at a time (`with`). Reentrant, since calls may submit calls."""

    def __init__(self, count: int | None) -> None:
        self.count = count
        self._free = None if count is None else threading.Semaphore(count)
        self._of_thread = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._of_thread, "depth", 0)
        if depth == 0 and self._free is not None:
            self._free.acquire()
        self._of_thread.depth = depth + 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._of_thread.depth -= 1
        if self._of_thread.depth == 0 and self._free is not None:
            self._free.release()
