"""Calls that run at once, in the caller's thread. For debugging, and where one process is enough."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from os import PathLike
from typing import Any, TypeVar

from typing_extensions import ParamSpec

from cluster_tools.executors.calls import KeptOutput, call_and_keep
from cluster_tools.failure_log import FailureLog
from cluster_tools.function_name import function_name
from cluster_tools.futures import RaisingFuture
from cluster_tools.mapping import check_map_arguments, iterate_results
from cluster_tools.output_options import pop_output_key, resolve_output_key_getter
from cluster_tools.output_store import FileOutputStore, OutputStore

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")


class SequentialExecutor(concurrent.futures.Executor):
    """Runs each call before `submit` returns.

    Arguments:
        output_store: Where outputs are kept for which the caller names a key.
        other: Keywords that other strategies take; they have no effect here.
    """

    def __init__(self, output_store: OutputStore | None = None, **other: Any) -> None:
        self.output_store = FileOutputStore() if output_store is None else output_store
        self._is_shut_down = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Runs `fn(*args, **kwargs)`; an exception is in the future.

        `KeyboardInterrupt` is raised here: it was meant for the program and not for the call.
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

        `timeout` and `chunksize` have no effect: nothing is waited for, and nothing is sent.
        """
        check_map_arguments(chunksize=chunksize, buffersize=buffersize)
        calls = iter(zip(*iterables))
        where = f"Call of {function_name(fn)}"
        if buffersize is None:
            all_calls = list(calls)
            failure_log = FailureLog(len(all_calls))
            return iterate_results(
                deque([self._run(fn, call, {}, None, failure_log, where) for call in all_calls]),
                timeout=timeout,
            )

        def submit_next() -> Future[_T] | None:
            for call in calls:
                return self._run(fn, call, {}, None, FailureLog(1), where)
            return None

        futures: deque[Future[_T]] = deque()
        while len(futures) < buffersize and (future := submit_next()) is not None:
            futures.append(future)
        return iterate_results(futures, timeout=timeout, submit_next=submit_next)

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

    def forward_log(self, fut: Future[_T]) -> _T:
        """Returns the result; the log was written here when the call ran."""
        return fut.result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. There is nothing to wait for, and nothing to cancel."""
        self._is_shut_down = True

    def _run(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        key: str | None,
        failure_log: FailureLog,
        where: str,
    ) -> Future[_T]:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[_T] = RaisingFuture()
        future.set_running_or_notify_cancel()
        result, error = self._outcome(fn, args, kwargs, key)
        if error is None:
            future.set_result(result)  # pyright: ignore[reportArgumentType]
        else:
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
        # Not in _run: the exception's traceback refers to this frame, and with it to no future.
        try:
            keep = None
            if key is not None:
                key = self.output_store.resolve_key(key)
                self.output_store.delete(key)
                keep = (self.output_store, key)
            return self._call(fn, args, kwargs, keep), None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return None, error

    def _call(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        keep: KeptOutput | None,
    ) -> _T:
        return call_and_keep(fn, args, kwargs, keep)
