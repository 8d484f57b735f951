"""Runs a `map` without `chunksize`, and submitted calls, in chunks: to callers a matter of speed.

    caller                  pool's thread (standard library)                worker process
    map: packs the calls    asks WorkQueue for the next id whenever a
    ChunkedMap -----------> worker can take one; a ChunkedMap in the
                            queue makes a chunk of its next calls --------> run_chunk
    results <-- outcomes <- _answered <------------------------------------ ChunkAnswer
                ^
                polling thread: after 0.1 s, reads outcomes from the worker's ChunkProgress. If a
                call takes long, or the rest of the chunk would, it takes back the calls that have
                not begun. These are the ChunkedMap's next calls again. Chunks that have not begun
                come back, too, so that the order is kept.

A ChunkedMap keeps its place in the queue until its last call was given to a worker, so that calls
begin in the order in which they were submitted, and the pool holds only what its workers will run
next. The pool's thread itself asks for chunks, so a map goes on without anybody who reads its
results, and after the executor was shut down.

Of submitted calls that are short, the WorkQueue makes a CallBatch when many wait, which is a chunk
like others. Its calls stay in the pool's table, with their futures, so they come back into the
queue under their own ids. Knows the pool's tables of work; `pool_worker` has
what runs in a worker.
"""

from __future__ import annotations

import itertools
import pickle
import queue
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import _WorkItem  # pyright: ignore[reportPrivateUsage]
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, Generic, TypeVar, cast

from cluster_tools.executors.call_packer import CallPacker
from cluster_tools.executors.calls import Dumps, forget_arguments, unpack_outcome
from cluster_tools.executors.chunk_progress import ChunkProgress, ReadOutcomes
from cluster_tools.executors.polling_thread import PollingThread
from cluster_tools.executors.pool_future import PoolFuture
from cluster_tools.executors.pool_worker import (
    PLAIN_TYPES,
    ChunkAnswer,
    run_batch,
    run_chunk,
    run_measured_call,
)
from cluster_tools.failure_log import FailureLog
from cluster_tools.function_name import function_name
from cluster_tools.tally import Tally

_T = TypeVar("_T")

# How long a chunk should take. A chunk costs the client and the worker half a millisecond, so this
# is long enough to hide that; and less than the 0.1 s after which outcomes are read one by one.
_CHUNK_S = 0.08

# The shortest chunk towards the end of a map: in less time than that, sending it costs too much.
_MIN_CHUNK_S = 0.005

# How long submitted calls that are given to a worker together should take. They cost the client
# more than a chunk of a map, whatever the chunk; and those that a worker has can't be cancelled.
_BATCH_S = 0.04

# How long a chunk may keep outcomes to itself, and calls behind one that does not end.
_HOLD_LIMIT_S = 0.1

# How long the calls of a chunk that are left may take, where they go on but take longer than
# expected: for more, another worker may be free earlier. Taking them back costs more than a chunk.
_REST_LIMIT_S = 0.2

# How many futures are cancelled before the queue is searched for their work, which costs time.
_MIN_CANCELLED_TO_FORGET = 64


class _Failure:
    """An outcome that is an exception."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class ChunkedMap(Generic[_T]):
    """The calls of one `map` and their outcomes.

    Arguments:
        fn: The function.
        iterables: As `map` gets them. All calls are packed before the constructor returns.
        worker_count: How many workers the pool may have.
        dumps: Pickles calls and results.
        tally: Counts the calls.
    """

    def __init__(
        self,
        fn: Callable[..., _T],
        iterables: tuple[Iterable[Any], ...],
        worker_count: int,
        dumps: Dumps,
        tally: Tally,
    ) -> None:
        self._name = function_name(fn)
        self._worker_count = worker_count
        self._dumps = dumps
        # For each argument of `fn`, the list of its values: that is
        # faster than a tuple for each call.
        columns: list[Any] = (
            [list(iterables[0])] if len(iterables) == 1 else list(zip(*zip(*iterables)))
        )
        self._count = len(columns[0]) if columns else 0
        self._open_count = self._count
        self._failure_log = FailureLog(self._count)
        self._tally = tally
        tally.note_submitted(self._count)
        # Index of a call -> the outcomes from that call on that were not read yet.
        self._outcomes: dict[int, list[Any]] = {}
        self._outcomes_changed = threading.Condition()
        self._seconds_per_call: float | None = None
        # Ranges (start, stop) of calls that are in no chunk, in order. `WorkQueue._order_lock`
        # guards this and the next two.
        self._waiting: list[tuple[int, int]] = []
        self._chunk_count = 0
        # The exception of the calls that have not begun; None while these are to begin.
        self.given_up: BaseException | None = None
        self._packed_fn = _packed_global(fn, columns, dumps)
        # `columns` if `_packed_fn` is not None, else packed calls.
        self._calls: list[Any] = columns
        begin = 0
        if self._packed_fn is None:
            self._calls = []
            packer = CallPacker(fn, dumps)
            for index, call in enumerate(zip(*columns)):
                try:
                    self._calls.append(packer.pack(call))
                except Exception as error:
                    forget_arguments(error)
                    self._calls.append(None)
                    self.fail(index, index + 1, error)
                    if begin < index:
                        self._waiting.append((begin, index))
                    begin = index + 1
        if begin < self._count:
            self._waiting.append((begin, self._count))

    @property
    def waiting_count(self) -> int:
        """How many calls are in no chunk."""
        return sum(stop - start for start, stop in self._waiting)

    @property
    def is_given_out(self) -> bool:
        """No call waits, and none can come back."""
        return not self._waiting and not self._chunk_count

    @property
    def has_only_worker(self) -> bool:
        """The pool has one worker, and that has a chunk. Its calls may come back before others."""
        return self._worker_count == 1 and self._chunk_count > 0

    def results(self, timeout: float | None, cancel: Callable[[], None]) -> Iterator[_T]:
        """The results, as from `mapping.iterate_results`.

        Arguments:
            timeout: Seconds from now in which all results must be there.
            cancel: Cancels the calls that have not begun; called when the iterator ends.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        # An inner generator, so that the time counts from now and not from the first `next`.
        def results() -> Iterator[_T]:
            start = 0
            try:
                while start < self._count:
                    outcomes = self._wait_for_outcomes(start, deadline)
                    start += len(outcomes)
                    outcomes.reverse()
                    while outcomes:  # keeps no reference to what was yielded
                        if type(outcomes[-1]) is _Failure:
                            raise outcomes.pop().error
                        yield outcomes.pop()
            finally:
                cancel()

        return results()

    def next_chunk(self) -> tuple[int, int] | None:
        """Takes the next calls that wait; returns their range (start, stop), or None."""
        if self.has_only_worker:
            return None
        waiting, self._waiting = self._waiting, []  # a collected iterator may cancel meanwhile
        if not waiting:
            return None
        seconds = self._seconds_per_call
        size = 1
        if seconds is not None:
            # So few of the calls that are left that the others do not wait for this worker at the
            # end, unless that is for a moment.
            left = sum(stop - start for start, stop in waiting)
            share = max(left // (3 * self._worker_count), int(_MIN_CHUNK_S / seconds))
            size = max(1, min(int(_CHUNK_S / seconds), share))
        start, stop = waiting.pop(0)
        if start + size < stop:
            waiting.insert(0, (start + size, stop))
            stop = start + size
        self._waiting = waiting
        self._chunk_count += 1
        return start, stop

    def arguments(self, chunk_id: int, start: int, stop: int) -> tuple[Any, ...]:
        """The arguments of `run_chunk` for this range of calls."""
        if self._packed_fn is None:
            calls = self._calls[start:stop]
        else:
            calls = [column[start:stop] for column in self._calls]
        return chunk_id, self._packed_fn, calls, self._dumps

    def take_back(self, start: int, stop: int) -> int:
        """Lets a range of calls that came back from a worker wait again, in its place.

        Returns: how many calls wait now that have no entry of their own in the pool's table.
        """
        insort(self._waiting, (start, stop))
        return stop - start

    def end_chunk(self) -> None:
        """To be called when a worker has sent its last answer about a chunk."""
        self._chunk_count -= 1

    def give_up(self, error: BaseException) -> list[tuple[int, int]]:
        """Lets no further calls begin, also none that come back. Returns the waiting ranges."""
        if self.given_up is None:
            self.given_up = error
        waiting, self._waiting = self._waiting, []
        return waiting

    def record(self, start: int, outcomes: list[Any], seconds_per_call: float) -> None:
        """Takes the outcomes of the calls from `start` on, from a worker."""
        self._seconds_per_call = max(seconds_per_call, 1e-9)
        count = len(outcomes)
        failures: list[tuple[int, BaseException]] = []
        if tuple in set(map(type, outcomes)):
            for index, outcome in enumerate(outcomes):
                if type(outcome) is tuple:
                    outcomes[index], error = unpack_outcome(*cast("tuple[bool, bytes]", outcome))
                    if error is not None:
                        outcomes[index] = _Failure(error)
                        failures.append((start + index, error))
        self._publish(start, outcomes)
        self._failure_log.note_ends(count - len(failures))
        self._tally.note_ended(done=count - len(failures), failed=len(failures))
        for index, error in failures:
            self._failure_log.note(error, f"Call {index} of {self._name}")

    def fail(self, start: int, stop: int, error: BaseException) -> None:
        """Makes `error` the outcome of the calls from `start` to `stop`."""
        if start == stop:
            return
        self._publish(start, [_Failure(error)] * (stop - start))
        if isinstance(error, CancelledError):
            self._tally.note_ended(cancelled=stop - start)
        else:
            self._tally.note_ended(failed=stop - start)
        for index in range(start, stop):
            self._failure_log.note(error, f"Call {index} of {self._name}")

    def _publish(self, start: int, outcomes: list[Any]) -> None:
        count = len(outcomes)
        if self._packed_fn is None:
            self._calls[start : start + count] = [None] * count
        with self._outcomes_changed:
            self._outcomes[start] = outcomes
            self._open_count -= count
            if not self._open_count:  # whoever reads the results may keep this object for long
                self._calls = []
            self._outcomes_changed.notify_all()

    def _wait_for_outcomes(self, start: int, deadline: float | None) -> list[Any]:
        with self._outcomes_changed:
            timeout = None if deadline is None else deadline - time.monotonic()
            if not self._outcomes_changed.wait_for(lambda: start in self._outcomes, timeout):
                raise FutureTimeoutError
            return self._outcomes.pop(start)


class CallBatch:
    """Submitted calls that a worker got together, with a ChunkedMap's methods for chunks.

    Arguments:
        calls: Their ids and entries in the pool's table.
        put_back: Lets calls wait again in the pool's queue.
        forget: Removes a call from the pool's table.
    """

    def __init__(
        self,
        calls: list[tuple[int, Any]],
        put_back: Callable[[list[int]], None],
        forget: Callable[[int], None],
    ) -> None:
        self._calls = calls
        self._put_back = put_back
        self._forget = forget
        # The exception of the calls that come back; None while these are to begin.
        self.given_up: BaseException | None = None
        self._waiting: list[tuple[int, int]] = []

    def take_back(self, start: int, stop: int) -> int:
        """See `ChunkedMap.take_back`."""
        if self.given_up is not None:
            self._waiting.append((start, stop))
            return 0
        calls = self._calls[start:stop]
        for _, item in calls:
            item.future.wait_again()
        self._put_back([work_id for work_id, _ in calls])
        return 0

    def end_chunk(self) -> None:
        """See `ChunkedMap.end_chunk`."""

    def give_up(self, error: BaseException) -> list[tuple[int, int]]:
        """See `ChunkedMap.give_up`."""
        if self.given_up is None:
            self.given_up = error
        waiting, self._waiting = self._waiting, []
        return waiting

    def record(self, start: int, outcomes: list[Any], seconds_per_call: float) -> None:
        """See `ChunkedMap.record`."""
        # Each outcome has what its call took.
        for index, outcome in enumerate(outcomes, start):
            work_id, item = self._calls[index]
            self._forget(work_id)
            with suppress(InvalidStateError):  # the pool has broken meanwhile
                item.future.set_result(outcome)

    def fail(self, start: int, stop: int, error: BaseException) -> None:
        """See `ChunkedMap.fail`."""
        for work_id, item in self._calls[start:stop]:
            self._forget(work_id)
            if isinstance(error, CancelledError):
                item.future.wait_again()
                item.future.cancel()
            else:
                item.future.set_exception(error)


@dataclass
class _Chunk:
    """The calls `start` to `stop - 1` of a map or a batch, which were given to a worker."""

    calls: ChunkedMap[Any] | CallBatch
    start: int
    stop: int
    # How many outcomes have come; they are those of the first calls.
    received_count: int = 0
    # How many had come when the polling thread looked last.
    last_seen_count: int = 0
    # Whether the calls that had not begun were taken back.
    is_taken: bool = False


class PendingWork(dict[int, Any]):
    """The pool's table of work, by id. May be changed by another thread during an iteration."""

    def items(self) -> Any:
        """A list of the items, which does not change later."""
        return list(super().items())


class WorkQueue:
    """The pool's queue of ids of work, some of which stand for a ChunkedMap.

    `put`, `get` and `get_nowait` are the methods of `queue.Queue` that the pool uses. In place of
    the id of a ChunkedMap, `get` returns ids of its chunks. Once all of its calls were given to
    workers, it returns the map's own id, whose future is cancelled by then, so the pool drops it.

    Arguments:
        pending: The pool's table of work, by id.
        worker_count: How many workers the pool may have.
        workers: The progress of each worker; grows with the pool.
        wake_pool: Makes the pool's thread read this queue.
    """

    def __init__(
        self,
        pending: dict[int, Any],
        worker_count: int,
        workers: list[ChunkProgress],
        wake_pool: Callable[[], None],
    ) -> None:
        self._pending = pending
        self._worker_count = worker_count
        self._workers = workers
        self._wake_pool = wake_pool
        self._chunks: dict[int, _Chunk] = {}
        self._polling_thread = PollingThread(self._poll_chunks, "cluster_tools map")
        self._ids: deque[int] = deque()
        # Ids of chunks are negative, as the pool's own ids count from 0 upwards.
        self._last_chunk_id = 0
        # Chunks from the first to this one must not begin, if they have not.
        self.revoked_id = 1
        # Guards the order of calls: this queue, the chunks, and the ranges of maps. Reentrant,
        # since an iterator that is garbage-collected cancels its map, in any thread at any time.
        self._order_lock = threading.RLock()
        # How many calls wait that have no entry of their own in `_pending`.
        self._waiting_beyond_pending = 0
        self._cancelled_count = 0
        # How many submitted calls are in chunks, and have an entry in `_pending` all the same.
        self._batched_count = 0
        # What submitted calls take; None until one has ended.
        self._seconds_per_call: float | None = None

    @property
    def unfinished_count(self) -> int:
        """How many workers could have something to do."""
        return len(self._pending) + self._waiting_beyond_pending

    @property
    def given_out_count(self) -> int:
        """How much of the pool's work its workers have, or have before them: calls and chunks."""
        return len(self._pending) - len(self._ids) - self._batched_count

    def put(self, work_id: int) -> None:
        """Adds the id of work that is in the pool's table."""
        with self._order_lock:
            if (chunked := self._chunked_map(work_id)) is not None:
                self._polling_thread.ensure_running()  # now: a program that exits starts no thread
                count = chunked.waiting_count - 1  # the map itself is in the table
                self._waiting_beyond_pending += count
            self._ids.append(work_id)  # last, as Ctrl-C may come before it

    def drop(self, work_id: int) -> None:
        """Removes work from the pool's table whose `put` was interrupted, so it is not in here."""
        with self._order_lock:
            work_item = self._pending.get(work_id)
            if work_item is not None and work_id not in self._ids and work_item.future.cancel():
                self._pending.pop(work_id, None)

    def get(self, block: bool = True) -> int:
        """The id of the next work for a worker. Never blocks. Raises: queue.Empty."""
        with self._order_lock:
            if (chunk_id := self._next_batch()) is not None:
                return chunk_id
            for work_id in self._ids:
                chunked = self._chunked_map(work_id)
                if chunked is not None and chunked.is_given_out:
                    self._waiting_beyond_pending += 1
                    self._pending[work_id].future.cancel()
                elif self._must_wait(for_map=chunked is not None):
                    break
                elif chunked is None:
                    pass
                elif (calls := chunked.next_chunk()) is not None:
                    return self._give_out(chunked, *calls)
                elif chunked.has_only_worker:
                    break
                else:
                    continue
                try:
                    self._ids.remove(work_id)
                except ValueError:  # cancelled meanwhile by a collected iterator, in this thread
                    continue
                return work_id
            raise queue.Empty

    def _give_out(self, chunked: ChunkedMap[Any], start: int, stop: int) -> int:
        self._waiting_beyond_pending -= stop - start
        chunk_id = self._new_chunk(_Chunk(chunked, start, stop))
        self._expect_answer(chunk_id, run_chunk, *chunked.arguments(chunk_id, start, stop))
        return chunk_id

    def _new_chunk(self, chunk: _Chunk) -> int:
        chunk_id = self._last_chunk_id = self._last_chunk_id - 1
        self._chunks[chunk_id] = chunk
        if chunk.stop - chunk.start > 1:  # else there is nothing to take back
            self._polling_thread.ensure_running()
        return chunk_id

    def _next_batch(self) -> int | None:
        """Takes the next submitted calls, if there are many and they are short."""
        size = self._batch_size()
        if size < 2 or self._must_wait(for_map=True):
            return None
        calls: list[tuple[int, Any]] = []
        while self._ids and len(calls) < size:
            work_id = self._ids[0]
            item = self._pending.get(work_id)
            if item is None or item.fn is not run_measured_call:
                break
            if item.args[-1] is not None:  # a store, which perhaps cannot be pickled
                break
            self._ids.popleft()
            if item.future.set_running_or_notify_cancel():
                calls.append((work_id, item))
            else:
                self._pending.pop(work_id, None)
        if not calls:
            return None
        batch = CallBatch(calls, self._put_back, self._forget)
        self._batched_count += len(calls)
        chunk_id = self._new_chunk(_Chunk(batch, 0, len(calls)))
        packed = [item.args[0] for _, item in calls]
        self._expect_answer(chunk_id, run_batch, chunk_id, packed, calls[0][1].args[1])
        return chunk_id

    def _batch_size(self) -> int:
        seconds = self._seconds_per_call
        if seconds is None or not self._workers or (self._worker_count == 1 and self._chunks):
            return 0
        return min(int(_BATCH_S / seconds), len(self._ids) // (3 * self._worker_count))

    def note_duration(self, seconds: float) -> None:
        """Takes how long a submitted call took. One that was shorter than others counts little.

        For a call that takes long, calls behind it in its batch have to come back.
        """
        self._seconds_per_call = max(seconds, 1e-6, 0.8 * (self._seconds_per_call or 0.0))

    def _put_back(self, work_ids: list[int]) -> None:
        """Lets calls of a batch wait again, before all that were submitted later."""
        with self._order_lock:
            self._batched_count -= len(work_ids)
            earlier: list[int] = []
            while self._ids and self._ids[0] < work_ids[-1]:
                earlier.append(self._ids.popleft())
            self._ids.extendleft(sorted((*earlier, *work_ids), reverse=True))

    def _forget(self, work_id: int) -> None:
        """Removes a call of a batch that has an outcome."""
        with self._order_lock:
            self._batched_count -= 1
            self._pending.pop(work_id, None)

    def _must_wait(self, *, for_map: bool) -> bool:
        """Whether work that is given out now could begin before earlier calls that come back.

        A call that waits for an earlier one would then wait for ever. Chunks can be revoked, so one
        may be given out although no worker is free; other work may not, and neither may a chunk
        while revoked ones have not come back.
        """
        if not self._chunks or self.given_out_count < self._worker_count:
            return False
        oldest_id = next(iter(self._chunks))
        return not for_map or oldest_id >= self.revoked_id

    def note_cancelled(self) -> None:
        """To be called for each future of the pool that was cancelled, so that its work is dropped.

        The pool itself drops work only when it is its turn, which may be never.
        """
        with self._order_lock:
            self._cancelled_count += 1
            if self._cancelled_count < max(_MIN_CANCELLED_TO_FORGET, len(self._ids) // 2):
                return
            self._cancelled_count = 0
            # Work that was given out is no longer in `_ids`: it is left to the pool's thread.
            kept = deque[int]()
            for work_id in self._ids:
                work_item = self._pending.get(work_id)
                if work_item is None:  # the pool has broken
                    continue
                if work_item.future.cancelled():
                    self._pending.pop(work_id, None)
                else:
                    kept.append(work_id)
            self._ids = kept

    def get_nowait(self) -> int:
        """See `get`."""
        return self.get(block=False)

    def cancel_chunks(self) -> None:
        """Cancels the calls of all ChunkedMaps, and those in chunks, that have not begun."""
        with self._order_lock:
            found = [self._chunked_map(work_id) for work_id in self._ids]
            batches = [chunk.calls for chunk in self._chunks.values()]
        for calls in (*found, *batches):
            if calls is not None:
                self.cancel(calls)

    def cancel(self, calls: ChunkedMap[Any] | CallBatch) -> None:
        """Cancels those calls that have not begun."""
        self._fail_waiting(calls, CancelledError())

    def follow(self, chunked: ChunkedMap[Any], place: Future[Any]) -> None:
        """Fails the waiting calls of a map if `place` fails, its future in the pool's table."""

        def fail_with_pool(place: Future[Any]) -> None:
            if not place.cancelled() and (error := place.exception()) is not None:
                self._fail_waiting(chunked, error)

        place.add_done_callback(fail_with_pool)

    def _fail_waiting(self, calls: ChunkedMap[Any] | CallBatch, error: BaseException) -> None:
        for start, stop in self._give_up(calls, error):
            calls.fail(start, stop, error)

    def _give_up(
        self, calls: ChunkedMap[Any] | CallBatch, error: BaseException
    ) -> list[tuple[int, int]]:
        """`give_up` of the calls, with the lock and the count of waiting calls."""
        with self._order_lock:
            if calls.given_up is None and any(
                chunk.calls is calls for chunk in self._chunks.values()
            ):
                self._revoke_chunks()
            ranges = calls.give_up(error)
            if isinstance(calls, ChunkedMap):  # those of a batch are in the pool's table
                self._waiting_beyond_pending -= sum(stop - start for start, stop in ranges)
        return ranges

    def _chunked_map(self, work_id: int) -> ChunkedMap[Any] | None:
        work_item = self._pending.get(work_id)
        fn = None if work_item is None else work_item.fn
        return cast("ChunkedMap[Any]", fn) if isinstance(fn, ChunkedMap) else None

    def _expect_answer(
        self, chunk_id: int, run: Callable[..., ChunkAnswer] = run_chunk, *arguments: Any
    ) -> None:
        future = PoolFuture[ChunkAnswer]()
        future.add_done_callback(partial(self._answered, chunk_id))
        self._pending[chunk_id] = _WorkItem(future, run, arguments, {})

    def _answered(self, chunk_id: int, future: Future[ChunkAnswer]) -> None:
        """Takes an answer about a chunk, in the pool's thread, which then asks for more work."""
        error = future.exception()
        answer = ChunkAnswer(0, [], 0.0, goes_on=False) if error is not None else future.result()
        given_up = None
        with self._order_lock:
            chunk = self._chunks[chunk_id]
            if error is None:
                chunk.received_count = answer.first + len(answer.outcomes)
            if answer.goes_on:
                self._expect_answer(chunk_id)
            else:
                del self._chunks[chunk_id]
                chunk.calls.end_chunk()
                if error is None:  # calls without an outcome have not begun
                    given_up = self._take_back(chunk, chunk.start + chunk.received_count)
        if error is not None:
            chunk.calls.fail(chunk.start + chunk.received_count, chunk.stop, error)
        elif answer.outcomes:
            start = chunk.start + answer.first
            chunk.calls.record(start, answer.outcomes, answer.seconds_per_call)
        _fail_given_up(chunk, given_up)

    def close(self) -> None:
        """Ends the polling thread. To be called once the pool has ended."""
        self._polling_thread.stop()

    def _poll_chunks(self) -> bool:
        """Reads outcomes and takes calls back where it is time. Returns whether chunks are out."""
        takes_calls = False
        for worker in self._workers:
            if (current := worker.current_chunk()) is not None:
                takes_calls |= self._look_at(worker, *current)
        if takes_calls:
            self._wake_pool()
        return bool(self._chunks)

    def _look_at(self, worker: ChunkProgress, chunk_id: int, age_s: float) -> bool:
        """Returns whether calls came back that the pool can give to a worker again."""
        # All under one lock: the worker may end the chunk at any time, and if that is the map's
        # last chunk, the map leaves this queue.
        with self._order_lock:
            chunk = self._chunks.get(chunk_id)
            if chunk is None:  # it has ended, or the pool has broken
                return False
            if age_s < _HOLD_LIMIT_S and chunk.calls.given_up is None:
                return False
            rest_stop = chunk.stop
            takes_calls = partial(self._takes_calls, chunk)
            found = worker.read(chunk_id, chunk.received_count, takes_calls)
            if found is None:
                return False
            chunk.received_count = chunk.last_seen_count = found.first + len(found.outcomes)
            given_up = None
            if chunk.is_taken:  # all after the call that runs
                given_up = self._take_back(chunk, chunk.start + chunk.received_count + 1)
        if found.outcomes:
            start = chunk.start + found.first
            chunk.calls.record(start, found.outcomes, found.seconds_per_call)
        _fail_given_up(chunk, given_up)
        return chunk.stop < rest_stop and given_up is None

    def _takes_calls(self, chunk: _Chunk, found: ReadOutcomes) -> bool:
        """Whether to take back those calls of a chunk that have not begun."""
        count = found.first + len(found.outcomes)
        rest = chunk.stop - chunk.start - count - 1
        chunk.is_taken = rest > 0 and (
            chunk.calls.given_up is not None
            or count == chunk.last_seen_count
            or rest * found.seconds_per_call > _REST_LIMIT_S
        )
        if chunk.is_taken:
            self._revoke_chunks()
        return chunk.is_taken

    def _revoke_chunks(self) -> None:
        """Lets no chunk begin that has not: its calls come after those that come back now."""
        self.revoked_id = self._last_chunk_id
        for worker in self._workers:
            worker.revoke(self.revoked_id)

    def _take_back(self, chunk: _Chunk, start: int) -> _GivenUp | None:
        """Lets the chunk's calls from `start` on wait again.

        If its map was given up, returns the error and the ranges of calls that must fail with it.
        """
        stop = chunk.stop
        chunk.stop = start
        if start < stop:
            self._waiting_beyond_pending += chunk.calls.take_back(start, stop)
        error = chunk.calls.given_up
        return None if error is None else (error, self._give_up(chunk.calls, error))


_GivenUp = tuple[BaseException, list[tuple[int, int]]]
"""An error, and the ranges of calls that must fail with it."""


def _fail_given_up(chunk: _Chunk, given_up: _GivenUp | None) -> None:
    if given_up is not None:
        error, ranges = given_up
        for start, stop in ranges:
            chunk.calls.fail(start, stop, error)


def _packed_global(fn: Callable[..., Any], columns: list[Any], dumps: Dumps) -> bytes | None:
    """The pickle of `fn` if that is imported by name and all arguments are of plain types.

    Else None: a call could change the state of `fn` or of an
    argument, and later calls would see it.
    """
    if not isinstance(fn, (FunctionType, BuiltinFunctionType, type)):
        return None
    try:
        if not PLAIN_TYPES.issuperset(map(type, itertools.chain.from_iterable(columns))):
            return None
        packed = dumps(fn)
        return packed if pickle.loads(packed) is fn else None
    except Exception:
        return None  # then each call is packed, and fails with the reason
