"""Runs calls in worker processes of this machine: the standard library's pool, with what it lacks.

    caller                         pool's thread (standard library)       worker process
    submit: packs the call ------> waits in the pool's queue ------------> run_measured_call
                                   many short ones go together ----------> run_batch
    _CallFuture <--- unpacks ----- the pool's future of two values <------ packed outcome
    map: see chunks.py

Calls and outcomes are sent as bytes that are pickled and unpickled here. So an object that can't be
pickled is an error of its call, while in the standard library it may break the pool. (The module's
name ends with `_`, as `multiprocessing` is the standard library's.)
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing.context import BaseContext
from multiprocessing.heap import Arena
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import ParamSpec

from cluster_tools.call_stats import ExecutorStats
from cluster_tools.executor_stub import StaysHere
from cluster_tools.executors.call_packer import CallPacker
from cluster_tools.executors.call_queue import CallQueue
from cluster_tools.executors.calls import (
    Dumps,
    PackedCall,
    forget_arguments,
    pack_call,
    unpack_outcome,
)
from cluster_tools.executors.chunk_progress import ChunkProgress
from cluster_tools.executors.chunks import ChunkedMap, PendingWork, WorkQueue
from cluster_tools.executors.log_forwarding import LogForwarding
from cluster_tools.executors.pool_future import PoolFuture, add_initializer_error
from cluster_tools.executors.pool_worker import (
    Initializer,
    dumps_for_relatives,
    run_measured_call,
    start_worker,
)
from cluster_tools.executors.thread_wakeup import ThreadWakeup
from cluster_tools.failure_log import FailureLog
from cluster_tools.function_name import function_name
from cluster_tools.futures import LocalFuture
from cluster_tools.mapping import check_map_arguments, iterate_results
from cluster_tools.output_options import pop_output_key, resolve_output_key_getter
from cluster_tools.output_store import FileOutputStore, OutputStore
from cluster_tools.tally import Tally

if TYPE_CHECKING:
    from cluster_tools.usage import Used

    # What `run_measured_call` returns.
    _Outcome = tuple[bool, bytes, Used]

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")

_CLOSED_MESSAGE = "cannot schedule new futures after shutdown"
_MISSING_GUARD_MESSAGE = """
    A MultiprocessingExecutor was made before the
    current process has finished its bootstrapping phase.

    This process is a worker that imports the script which started it, and
    the script makes an executor whenever it is imported. Put what only the
    first process should do below this line:

        if __name__ == "__main__":
"""


class MultiprocessingExecutor(StaysHere, ProcessPoolExecutor):
    """A `concurrent.futures.ProcessPoolExecutor` with `map_to_futures`, kept outputs and logs.

    A worker that dies breaks the pool, as in the standard library: all futures raise
    `concurrent.futures.process.BrokenProcessPool`. An error in pickling is that of its call alone.

    Arguments:
        max_workers: How many processes; default: the number of CPUs.
        mp_context: A context of `multiprocessing`, instead of `start_method`.
        initializer: Called in each worker before its first call.
        initargs: The arguments of `initializer`.
        start_method: `spawn`, `forkserver` or `fork`; default: the environment variable
            MULTIPROCESSING_DEFAULT_START_METHOD, else `spawn`.
        max_tasks_per_child: After how many calls a worker is replaced. From Python 3.11 on.
        output_store: Where outputs are kept for which the caller names a key.
        other: Keywords that other strategies take; they have no effect here.

    Raises:
        ValueError: Both `start_method` and `mp_context` are given, or a number is out of range.
        NotImplementedError: `max_tasks_per_child` on Python 3.10.
        RuntimeError: The script that made it has no `if __name__ == "__main__"`.
    """

    _dumps: Dumps = staticmethod(dumps_for_relatives)

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        start_method: str | None = None,
        max_tasks_per_child: int | None = None,
        output_store: OutputStore | None = None,
        **other: Any,
    ) -> None:
        if mp_context is None:
            mp_context = multiprocessing.get_context(
                start_method or os.environ.get("MULTIPROCESSING_DEFAULT_START_METHOD", "spawn")
            )
        elif start_method is not None:
            raise ValueError("give start_method or mp_context, not both")
        is_forked = mp_context.get_start_method() == "fork"
        if not is_forked and getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(_MISSING_GUARD_MESSAGE)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self.output_store = FileOutputStore() if output_store is None else output_store
        _executors.add(self)
        self._closing_lock = threading.Lock()
        self._is_closed = False
        self._unfinished: set[Future[Any]] = set()
        self._tally = Tally()
        self._closing_thread: threading.Thread | None = None
        self._log_forwarding: LogForwarding | None = None
        sender = None
        if not is_forked:
            self._log_forwarding = LogForwarding(mp_context)
            sender = self._log_forwarding.sender()
        try:
            super().__init__(
                max_workers, mp_context, start_worker, **_max_tasks_keyword(max_tasks_per_child)
            )
        except BaseException:
            if self._log_forwarding is not None:
                self._log_forwarding.close()
            raise
        self._makes_chunks = max_tasks_per_child is None
        pool: Any = self
        wrapped = None if initializer is None else Initializer(initializer, initargs)
        pool._initargs = (pool._result_queue, None, sender, wrapped)
        pool._call_queue = CallQueue.of(pool._call_queue)
        pool._executor_manager_thread_wakeup.__class__ = ThreadWakeup
        pool._pending_work_items = pool._call_queue.pending_work_items = PendingWork()
        self._progress: list[ChunkProgress] = []
        self._progress_buffer: Arena | None = None
        wake_pool = partial(_wake, pool._shutdown_lock, pool._executor_manager_thread_wakeup)
        self._work_queue = pool._work_ids = WorkQueue(
            pool._pending_work_items, pool._max_workers, self._progress, wake_pool
        )

    @property
    def max_workers(self) -> int:
        """How many processes there are at most. `_max_workers` is the standard library's name."""
        pool: Any = self
        return pool._max_workers

    @property
    def size(self) -> int:
        """`max_workers`."""
        return self.max_workers

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Has `fn(*args, **kwargs)` called in a worker. The call is pickled before this returns.

        Where many short calls wait, a worker gets several at once. Those behind a call that takes
        long come back after 0.1 s; until then they count as running, and cannot be cancelled.

        If it cannot be pickled, the future raises `pickle.PicklingError`.
        """
        key = pop_output_key(kwargs)
        return self._submit(fn, args, kwargs, key)

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """See `cluster_tools.Executor.map`.

        Without `chunksize`, workers get several calls at once: as many as they run in less
        than a tenth of a second. Except for speed, that does not differ from `chunksize=1`: a call
        that takes longer delays neither other calls nor their results. But if a worker dies, the
        results of its last 0.1 s are lost, too. With `buffersize` or `max_tasks_per_child` no such
        chunks are made.

        With `chunksize`, an exception of one call is that of its whole chunk, as in the standard
        library.
        """
        check_map_arguments(chunksize=chunksize, buffersize=buffersize)
        if chunksize is None and buffersize is None and self._makes_chunks:
            return self._map_in_chunks(fn, iterables, timeout)
        calls = iter(zip(*iterables))
        if chunksize is None or chunksize == 1:
            return self._map(fn, calls, timeout, buffersize)
        chunks = iter(lambda: list(islice(calls, chunksize)), [])
        results = self._map(_CallEach(fn), ((chunk,) for chunk in chunks), timeout, buffersize)
        return _flattened(results)

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
        return self._submit_all(fn, [(item,) for item in items], keys)

    @classmethod
    def as_completed(cls, futures: Iterable[Future[_T]]) -> Iterator[Future[_T]]:
        """See `concurrent.futures.as_completed`."""
        return concurrent.futures.as_completed(futures)

    def forward_log(self, fut: Future[_T]) -> _T:
        """Waits, and returns the result. Log records reach this process by themselves."""
        return fut.result()

    def stats(self) -> ExecutorStats:
        """What has become of the calls. A worker runs one of those that were given to it."""
        return self._tally.stats(min(self.max_workers, self._work_queue.given_out_count))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        self._is_closed = True
        if cancel_futures:
            self.cancel_unstarted()
        pool: Any = self
        if threading.current_thread() is pool._executor_manager_thread:
            wait = False  # a done-callback cannot wait for the thread that runs it
        if not wait:
            self._close_later()
            return
        self._close()
        if self._closing_thread is not None:
            self._closing_thread.join()

    def cancel_unstarted(self) -> None:
        """Cancels the futures of all calls that have not started."""
        for future in list(self._unfinished):
            future.cancel()
        self._work_queue.cancel_chunks()

    def _close_later(self) -> None:
        """Closes the pool in a thread of its own.

        A thread must wait, since the log's pipe is closed after the last worker has ended, and the
        standard library replaces no worker after `shutdown(wait=False)`.
        """
        if self._closing_thread is not None:
            return
        thread = threading.Thread(target=self._close, name="cluster_tools shutdown")
        try:
            thread.start()
        except RuntimeError:  # the interpreter exits, and starts no threads
            super().shutdown(wait=False)
        else:
            self._closing_thread = thread

    def _close(self) -> None:
        with self._closing_lock:
            super().shutdown(wait=True)
            self._work_queue.close()
            if self._log_forwarding is not None:
                self._log_forwarding.close()

    def _map(
        self,
        fn: Callable[..., _T],
        calls: Iterator[tuple[Any, ...]],
        timeout: float | None,
        buffersize: int | None,
    ) -> Iterator[_T]:
        if buffersize is None:
            all_calls = list(calls)
            futures = deque(self._submit_all(fn, all_calls, [None] * len(all_calls)))
            return iterate_results(futures, timeout=timeout)

        def submit_next() -> Future[_T] | None:
            for call in calls:
                future: Future[_T] = self._submit(fn, call, {}, None)
                return future
            return None

        futures = deque[Future[_T]]()
        while len(futures) < buffersize and (future := submit_next()) is not None:
            futures.append(future)
        return iterate_results(futures, timeout=timeout, submit_next=submit_next)

    def _map_in_chunks(
        self, fn: Callable[..., _T], iterables: tuple[Iterable[Any], ...], timeout: float | None
    ) -> Iterator[_T]:
        pool: Any = self
        chunked = ChunkedMap(fn, iterables, pool._max_workers, self._dumps, self._tally)
        if chunked.waiting_count:
            if self._is_closed:
                raise RuntimeError(_CLOSED_MESSAGE)
            place: Any = chunked
            self._work_queue.follow(chunked, self._submit_to_pool(place))
        return chunked.results(timeout, partial(self._work_queue.cancel, chunked))

    def _submit_all(
        self, fn: Callable[..., _T], calls: list[tuple[Any, ...]], keys: Iterable[str | None]
    ) -> list[Future[_T]]:
        failure_log = FailureLog(len(calls))
        name = function_name(fn)
        packer = CallPacker(fn, self._dumps)
        futures: list[Future[_T]] = []
        for index, (call, key) in enumerate(zip(calls, keys)):
            future: _CallFuture[_T] = self._new_future(failure_log, f"Call {index} of {name}")
            self._submit_packed(future, partial(packer.pack, call), key)
            futures.append(future)
        return futures

    def _submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        key: str | None,
    ) -> Future[Any]:
        future: _CallFuture[Any] = self._new_future(FailureLog(1), f"Call of {function_name(fn)}")
        pack = partial(pack_call, fn, args, kwargs, dumps=self._dumps)
        self._submit_packed(future, pack, key)
        return future

    def _new_future(self, failure_log: FailureLog, where: str) -> _CallFuture[Any]:
        return _CallFuture(self._tally, self._unfinished, self._work_queue, failure_log, where)

    def _submit_packed(
        self, future: _CallFuture[Any], pack: Callable[[], PackedCall], key: str | None
    ) -> None:
        if self._is_closed:
            raise RuntimeError(_CLOSED_MESSAGE)
        self._tally.note_submitted()
        try:
            call = pack()
            keep = None
            if key is not None:
                key = self.output_store.resolve_key(key)
                self.output_store.delete(key)
                keep = (self.output_store, key)
        except Exception as error:
            forget_arguments(error)
            future.set_running_or_notify_cancel()
            future.end(None, error)
            return
        pool_future = self._submit_to_pool(run_measured_call, call, self._dumps, keep)
        self._unfinished.add(future)
        future.follow(pool_future)

    def _submit_to_pool(self, fn: Callable[..., _T], *args: Any) -> Future[_T]:
        pool: Any = self
        try:
            pool_future = super().submit(fn, *args)
        except BrokenProcessPool as error:
            add_initializer_error(error, pool._executor_manager_thread)
            raise
        except BaseException:  # Ctrl-C: a next call with the same id would break the pool
            with pool._shutdown_lock:
                self._work_queue.drop(pool._queue_count)
                pool._queue_count += 1
            raise
        pool_future.__class__ = PoolFuture
        thread = pool._executor_manager_thread
        if pool_future.done() and not pool_future.cancelled():
            add_initializer_error(pool_future.exception(), thread)
        # Keeps the log's pipe for the workers: the pool's thread outlives
        # an executor that is dropped.
        thread.log_forwarding = self._log_forwarding
        return pool_future

    def _adjust_process_count(self) -> None:
        pool: Any = self
        count = len(pool._processes)
        # The standard library counts idle workers by submitted and answered calls. Chunks are not
        # submitted, though. And where workers are replaced, it counts one that has just ended, and
        # waits for ever (https://github.com/python/cpython/issues/115634).
        wanted = min(pool._max_workers, self._work_queue.unfinished_count)
        for _ in range(count, wanted):
            pool._spawn_process()
        if len(pool._processes) > count:
            # `submit` has woken the pool's thread before this worker was started. Woken again, the
            # thread learns of the worker, and notices when it dies.
            pool._executor_manager_thread_wakeup.wakeup()

    def _spawn_process(self) -> None:
        pool: Any = self
        if self._makes_chunks:
            index = len(pool._processes)
            if self._progress_buffer is None:
                self._progress_buffer = ChunkProgress.buffer_for(pool._max_workers)
            progress = ChunkProgress(self._progress_buffer, index, pool._mp_context.Lock())
            self._progress[index:] = [progress]
            progress.revoke(self._work_queue.revoked_id)
            answers, _, *others = pool._initargs
            pool._initargs = (answers, progress, *others)
        super()._spawn_process()  # pyright: ignore


_executors: weakref.WeakSet[MultiprocessingExecutor] = weakref.WeakSet()


def _wake(lock: threading.Lock, wakeup: Any) -> None:
    with lock:  # as the standard library demands
        wakeup.wakeup()


def _cancel_after_unhandled_exception() -> None:
    """At exit, after an exception that nobody has caught: the interpreter has printed it."""
    # In an interactive session (`ps1`) users go on after one.
    if getattr(sys, "last_value", None) is not None and not hasattr(sys, "ps1"):
        for executor in list(_executors):
            executor.cancel_unstarted()


# Functions registered here run, the last one first, before the standard library waits for its pools
# at exit; those of `atexit` run after that. Without this, all calls would be run first.
if hasattr(threading, "_register_atexit"):
    threading._register_atexit(_cancel_after_unhandled_exception)  # pyright: ignore


def _max_tasks_keyword(max_tasks_per_child: int | None) -> dict[str, Any]:
    if max_tasks_per_child is None:
        return {}
    if sys.version_info < (3, 11):
        raise NotImplementedError("max_tasks_per_child needs Python 3.11 or newer")
    return {"max_tasks_per_child": max_tasks_per_child}


class _CallEach:
    """Runs in a worker: calls `fn` with each argument tuple of a chunk."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self.__name__ = function_name(fn)

    def __call__(self, chunk: list[tuple[Any, ...]]) -> list[Any]:
        return [self._fn(*args) for args in chunk]


def _flattened(chunks: Iterator[list[_T]]) -> Iterator[_T]:
    """Yields the results of the chunks, and keeps no reference to one that was yielded."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


class _CallFuture(LocalFuture[_T]):
    """The future that a caller gets. The pool's own future has the packed outcome.

    The pool's future is marked as cancelled for `wait` and `as_completed` only when it would have
    been its turn; this one is done at once.

    Arguments:
        tally: Counts the call.
        unfinished: The futures of the executor that are not done; this one leaves it.
        work_queue: Learns how long the call took, or that it was cancelled.
        failure_log: Is told how the call ends, under the name `where`.
    """

    def __init__(
        self,
        tally: Tally,
        unfinished: set[Future[Any]],
        work_queue: WorkQueue,
        failure_log: FailureLog,
        where: str,
    ) -> None:
        super().__init__()
        self._tally = tally
        self._unfinished = unfinished
        self._work_queue = work_queue
        self._failure_log = failure_log
        self._where = where
        self._pool_future: Future[_Outcome] | None = None

    def follow(self, pool_future: Future[_Outcome]) -> None:
        """Takes the outcome of `pool_future`, once that is done. To be called once at most."""
        self._pool_future = pool_future
        pool_future.add_done_callback(self._resolve)

    def end(self, result: Any, error: BaseException | None) -> None:
        """Counts the call, and makes this future done."""
        if error is None:
            self._tally.note_ended(done=1)
            self.set_result(result)
        else:
            self._tally.note_ended(failed=1)
            self.set_exception(error)
        self._failure_log.note(error, self._where)

    def cancel(self) -> bool:
        pool_future = self._pool_future
        if pool_future is None:
            return super().cancelled()
        was_cancelled = pool_future.cancelled()
        is_cancelled = pool_future.cancel()  # this calls `_resolve`
        if is_cancelled and not was_cancelled:
            self._work_queue.note_cancelled()
        return is_cancelled

    def running(self) -> bool:
        pool_future = self._pool_future
        return (
            pool_future is not None
            and not self.done()
            and not pool_future.cancelled()
            and (pool_future.running() or pool_future.done())
        )

    def _resolve(self, pool_future: Future[_Outcome]) -> None:
        if pool_future.cancelled():
            self._tally.note_ended(cancelled=1)
            super().cancel()
            self.set_running_or_notify_cancel()
            self._failure_log.note_ends(1)
        else:
            self.set_running_or_notify_cancel()
            result, error, self.used = _unpacked(pool_future)
            if (used := self.used) is not None:
                self._work_queue.note_duration((used[1] - used[0]) / 1e9)
            self.end(result, error)
        self._unfinished.discard(self)
        self._pool_future = None  # it refers to the bytes of the outcome


def _unpacked(pool_future: Future[_Outcome]) -> tuple[Any, BaseException | None, Used | None]:
    if (error := pool_future.exception()) is not None:  # of the pool, as when a worker has died
        return None, error, None
    success, outcome, used = pool_future.result()
    return *unpack_outcome(success, outcome), used
