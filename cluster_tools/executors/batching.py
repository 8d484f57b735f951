"""Turns many short calls into few long ones: hands items in batches to another executor.

Knows the `Executor` protocol, no strategies.
"""

from __future__ import annotations

import concurrent.futures
import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from os import PathLike
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from typing_extensions import ParamSpec, Self

from cluster_tools.call_stats import CallStats, ExecutorStats
from cluster_tools.caller import warn_caller
from cluster_tools.counts import check_count
from cluster_tools.executor_protocol import Executor
from cluster_tools.executor_stub import StaysHere
from cluster_tools.function_name import function_name
from cluster_tools.futures import RaisingFuture
from cluster_tools.mapping import check_map_arguments

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")


class BatchingExecutor(StaysHere, concurrent.futures.Executor):
    """Hands items to another executor in batches, each of which is one call there.

    A batch is a list of items; with several iterables of `map`, a list of tuples. On a cluster, the
    future of an item has the `cluster_jobid` and the `cluster_jobindex` of its batch.

    Arguments:
        executor: Runs the batches. It is shut down with this one.
        batch_size: How many items a batch has, at least 1.
        target_job_count: How many batches, at most, are made of the items of one `map` or
            `map_to_futures`, at least 1.

    Raises:
        ValueError: Not exactly one of the two is given, or it is less than 1.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        batch_size: int | None = None,
        target_job_count: int | None = None,
    ) -> None:
        if batch_size is None and target_job_count is None:
            raise ValueError("Either batch_size or target_job_count must be given")
        if batch_size is not None and target_job_count is not None:
            raise ValueError("give batch_size or target_job_count, not both")
        self._batch_size = check_count("batch_size", batch_size)
        self._target_job_count = check_count("target_job_count", target_job_count)
        self._executor = executor

    @property
    def batch_size(self) -> int | None:
        """How many items a batch has; None if `target_job_count` was given."""
        return self._batch_size

    @property
    def target_job_count(self) -> int | None:
        """How many batches are made at most; None if `batch_size` was given."""
        return self._target_job_count

    @property
    def max_workers(self) -> int:
        """How many batches can run at a time: `max_workers` of the inner executor."""
        return self._executor.max_workers

    # Names under which libraries read it, as in the standard library's pools and in others.
    @property
    def _max_workers(self) -> int:
        return self.max_workers

    @property
    def size(self) -> int:
        """`max_workers`."""
        return self.max_workers

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Submits one call to the inner executor, with a warning, since it is in no batch."""
        warn_caller(
            "BatchingExecutor.submit bypasses batching: each call is a job of its own; "
            "map and map_to_futures make batches"
        )
        return self._executor.submit(fn, *args, **kwargs)

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """See `cluster_tools.Executor.map`. `buffersize` is rounded up to whole batches.

        Raises:
            ValueError: `chunksize` is given: batches are chunks already.
        """
        if chunksize is not None:
            raise ValueError("BatchingExecutor takes no chunksize; its batch_size is one")
        check_map_arguments(chunksize=None, buffersize=buffersize)
        is_of_one = len(iterables) == 1
        calls: Iterator[Any] = iter(iterables[0]) if is_of_one else zip(*iterables)
        if self._batch_size is not None:
            batch_size = self._batch_size
        else:
            all_calls = list(calls)
            batch_size = self._batch_size_for(len(all_calls))
            calls = iter(all_calls)
        batches_ahead = None if buffersize is None else math.ceil(buffersize / batch_size)
        results = self._executor.map(
            (_Batch if is_of_one else _BatchOfTuples)(fn),
            _batches(calls, batch_size),
            timeout=timeout,
            buffersize=batches_ahead,
        )
        return _flattened(results)

    def map_to_futures(
        self,
        fn: Callable[[_S], _T],
        args: Iterable[_S],
        output_pickle_path_getter: Callable[[_S], str | PathLike[str]] | None = None,
        output_key_getter: Callable[[_S], str] | None = None,
    ) -> list[Future[_T]]:
        """Returns a future for each item. If a batch fails, the futures of all its items do.

        Raises:
            NotImplementedError: A getter is given: a batch has one output for all its items.
        """
        if output_pickle_path_getter is not None or output_key_getter is not None:
            raise NotImplementedError(
                "BatchingExecutor keeps no outputs: a batch has one output for all its items"
            )
        items = list(args)
        futures: list[Future[_T]] = []
        for batch in _batches(iter(items), self._batch_size_for(len(items))):
            (batch_future,) = self._executor.map_to_futures(_Batch(fn), [batch])
            batch_run = _BatchRun(batch_future, len(batch))
            futures.extend(batch_run.item_futures)
            batch_run.follow()
        return futures

    @classmethod
    def as_completed(cls, futures: Iterable[Future[_T]]) -> Iterator[Future[_T]]:
        """See `concurrent.futures.as_completed`."""
        return concurrent.futures.as_completed(futures)

    def share(self, value: _T) -> _T:
        """The inner executor shares it: see `cluster_tools.Executor.share`."""
        return self._executor.share(value)

    def forward_log(self, fut: Future[_T]) -> _T:
        """Forwards the log of the batch that `fut` is in, and returns the result of `fut`."""
        if not isinstance(fut, _ItemFuture):
            return self._executor.forward_log(fut)
        if not fut.cancelled():
            self._executor.forward_log(fut.batch_future)
        return fut.result()

    def stats(self) -> ExecutorStats:
        """The inner executor's: it counts batches."""
        return self._executor.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shuts the inner executor down."""
        self._executor.shutdown(wait=wait, cancel_futures=cancel_futures)

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return self._executor.__exit__(exc_type, exc_val, exc_tb)

    def _batch_size_for(self, item_count: int) -> int:
        if self._batch_size is not None:
            return self._batch_size
        assert self._target_job_count is not None
        return max(1, math.ceil(item_count / self._target_job_count))


def _batches(items: Iterator[_S], batch_size: int) -> Iterator[list[_S]]:
    return iter(lambda: list(islice(items, batch_size)), [])


class _Batch:
    """The function that is submitted for a batch: calls `fn` with each of its items."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self.__name__ = f"batch_{function_name(fn)}"  # the name of the job

    def __call__(self, batch: list[Any]) -> list[Any]:
        return [self._fn(item) for item in batch]


class _BatchOfTuples(_Batch):
    """The same for batches of argument tuples."""

    def __call__(self, batch: list[tuple[Any, ...]]) -> list[Any]:
        return [self._fn(*args) for args in batch]


def _flattened(batches: Iterator[list[_T]]) -> Iterator[_T]:
    """Yields the results of the batches, and keeps no reference to one that was yielded."""
    try:
        for batch in batches:
            batch.reverse()
            while batch:
                yield batch.pop()
    finally:
        if isinstance(batches, Generator):
            batches.close()  # cancels what has not started


class _BatchRun(Generic[_T]):
    """A submitted batch: ends the futures of its items when it is done. `future`: the batch's."""

    def __init__(self, future: Future[list[_T]], item_count: int) -> None:
        self.future = future
        self.item_futures = [_ItemFuture(self) for _ in range(item_count)]
        self._undecided = set(self.item_futures)
        self._undecided_lock = threading.Lock()

    def follow(self) -> None:
        """Lets the futures of the items end from now on."""
        self.future.add_done_callback(self._resolve)

    def take_item(self, item: _ItemFuture[_T]) -> bool:
        """Whether the caller may end the future of this item: True once for each item."""
        with self._undecided_lock:
            if item not in self._undecided:
                return False
            self._undecided.remove(item)
            return True

    def cancel_if_unwanted(self) -> None:
        """Cancels the batch when all its items are cancelled."""
        if not self._undecided:
            self.future.cancel()

    def _resolve(self, future: Future[list[_T]]) -> None:
        results: list[_T] = []
        error: BaseException | None = None
        if not future.cancelled() and (error := future.exception()) is None:
            results = future.result()
        for index, item in enumerate(self.item_futures):
            if not self.take_item(item):
                continue
            if future.cancelled():
                item.end_cancelled()
            elif error is not None:
                item.set_running_or_notify_cancel()
                item.set_exception(error)
            else:
                item.set_running_or_notify_cancel()
                item.set_result(results[index])
        # Futures of items refer to it for its job and its log. It must not keep all results.
        cast(Any, future)._result = None  # noqa: SLF001
        self.item_futures = []


class _ItemFuture(RaisingFuture[_T]):
    """The future of one item of a batch."""

    def __init__(self, batch_run: _BatchRun[_T]) -> None:
        super().__init__()
        self._batch_run = batch_run

    @property
    def batch_future(self) -> Future[list[_T]]:
        """The future of its batch, which keeps no result once it is done."""
        return self._batch_run.future

    @property
    def cluster_jobid(self) -> str:
        """The batch's. Raises: AttributeError, if the inner executor makes no jobs."""
        return cast(Any, self.batch_future).cluster_jobid

    @property
    def cluster_jobindex(self) -> int:
        """The batch's; see `cluster_jobid`."""
        return cast(Any, self.batch_future).cluster_jobindex

    @property
    def cluster_stats(self) -> CallStats:
        """The batch's."""
        return cast(Any, self.batch_future).cluster_stats

    def cancel(self) -> bool:
        """Cancels this future, and the batch once all its items are cancelled.

        Returns:
            False if the batch is known to run, or is done.
        """
        batch_future = self.batch_future
        may_still_cancel = not (batch_future.running() or batch_future.done())
        if may_still_cancel and self._batch_run.take_item(self):
            self.end_cancelled()
            self._batch_run.cancel_if_unwanted()
        return self.cancelled()

    def running(self) -> bool:
        return not self.done() and self.batch_future.running()

    def end_cancelled(self) -> None:
        """Cancels this future, and wakes those who wait for it."""
        super().cancel()
        self.set_running_or_notify_cancel()
