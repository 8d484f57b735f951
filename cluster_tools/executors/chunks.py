"""A `map` without `chunksize`: calls go to the pool in chunks, and nobody can tell but by the clock.

    caller                  pool's thread (standard library)                worker process
    map: packs the calls    asks WorkQueue for the next id whenever a
    ChunkedMap -----------> worker can take one; a ChunkedMap in the
                            queue makes a chunk of its next calls --------> run_chunk
    results <-- outcomes <- _answered <------------------------------------ ChunkAnswer
                ^
                watching thread: after 0.1 s, outcomes from the worker's ChunkProgress; calls
                of the chunk that have not begun are the ChunkedMap's next again, and before
                all that is behind them: chunks that have not begun come back, too

A ChunkedMap keeps its place in the queue until its last call was given out, so that calls begin in
the order in which they were submitted, and the pool holds only what its workers are about to run.
As the pool's thread feeds itself, it needs no reader, and no executor that still takes calls. Knows
the pool's tables of work; what runs in a worker is in `pool_worker`.
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
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import _WorkItem  # pyright: ignore[reportPrivateUsage]
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, Generic, TypeVar, cast

from cluster_tools.executors.call_packer import CallPacker
from cluster_tools.executors.calls import Dumps, forget_arguments, unpack_outcome
from cluster_tools.executors.chunk_progress import ChunkProgress
from cluster_tools.executors.periodic_look import PeriodicLook
from cluster_tools.executors.pool_future import PoolFuture
from cluster_tools.executors.pool_worker import PLAIN_TYPES, ChunkAnswer, run_chunk
from cluster_tools.failure_log import FailureLog
from cluster_tools.function_name import function_name
from cluster_tools.tally import Tally

_T = TypeVar("_T")

# How long a chunk should take: long beside what it costs to send it, short beside the 0.1 s after which
# it is taken apart.
_CHUNK_S = 0.02

# How long a chunk keeps outcomes to itself, and calls that another worker could run.
_HOLD_LIMIT_S = 0.1


# How much cancelled work there is before anybody looks for it.
_MIN_CANCELLED_TO_FORGET = 64


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class ChunkedMap(Generic[_T]):
    """The calls of one `map` and their outcomes.

    Arguments:
        fn: The function.
        iterables: As `map` gets them. All calls are packed before this returns.
        worker_count: How many workers there can be.
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
        # The values of each argument: one list is quicker to make and to pickle than a tuple a call.
        columns: list[Any] = (
            [list(iterables[0])] if len(iterables) == 1 else list(zip(*zip(*iterables)))
        )
        self._count = len(columns[0]) if columns else 0
        self._open_count = self._count
        self._failure_log = FailureLog(self._count)
        self._tally = tally
        tally.note_submitted(self._count)
        # Outcomes that nobody has read, by their first call; each list begins where another ends.
        self._outcomes: dict[int, list[Any]] = {}
        self._outcomes_changed = threading.Condition()
        self._seconds_per_call: float | None = None
        # Ranges of calls that no chunk has, in order. The WorkQueue's lock guards it and what follows.
        self._waiting: list[tuple[int, int]] = []
        self._chunk_count = 0
        # What ends the calls that have not begun.
        self.given_up: BaseException | None = None
        self._packed_fn = _packed_global(fn, columns, dumps)
        # Columns where the function is packed, else packed calls.
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
        """How many calls no chunk has."""
        return sum(stop - start for start, stop in self._waiting)

    @property
    def is_given_out(self) -> bool:
        """No call waits, and none can be returned."""
        return not self._waiting and not self._chunk_count

    @property
    def has_only_worker(self) -> bool:
        """The one worker has a chunk. What it hands back comes before all that is behind it."""
        return self._worker_count == 1 and self._chunk_count > 0

    def results(self, timeout: float | None, cancel: Callable[[], None]) -> Iterator[_T]:
        """As `mapping.iterate_results`.

        Arguments:
            timeout: Seconds from now in which all results have to be there.
            cancel: Cancels what has not begun; for an iterator that ends early.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        # A generator of its own, so that the clock starts now and not with the first next().
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
        """Takes the next of the calls that wait: returns the first, and the one behind the last."""
        if self.has_only_worker:
            return None
        waiting, self._waiting = self._waiting, []  # cancel() may come in between, in this thread
        if not waiting:
            return None
        seconds = self._seconds_per_call
        size = 1
        if seconds is not None:
            # Never so much of what is left that the others wait for this worker at the end; but a
            # small part of all is no wait.
            left = sum(stop - start for start, stop in waiting)
            share = max(left // (3 * self._worker_count), waiting[0][0] // 32)
            size = max(1, min(int(_CHUNK_S / seconds), share))
        start, stop = waiting.pop(0)
        if start + size < stop:
            waiting.insert(0, (start + size, stop))
            stop = start + size
        self._waiting = waiting
        self._chunk_count += 1
        return start, stop

    def arguments(self, chunk_id: int, start: int, stop: int) -> tuple[Any, ...]:
        """Those of `run_chunk`."""
        if self._packed_fn is None:
            calls = self._calls[start:stop]
        else:
            calls = [column[start:stop] for column in self._calls]
        return chunk_id, self._packed_fn, calls, self._dumps

    def take_back(self, start: int, stop: int) -> None:
        """Puts calls that a worker has returned to their place among those that wait."""
        insort(self._waiting, (start, stop))

    def end_chunk(self) -> None:
        """Its worker has given its last answer."""
        self._chunk_count -= 1

    def give_up(self, error: BaseException) -> list[tuple[int, int]]:
        """The ranges that wait, and will not be called. Nor will those that come back: `given_up`."""
        if self.given_up is None:
            self.given_up = error
        waiting, self._waiting = self._waiting, []
        return waiting

    def record(self, start: int, outcomes: list[Any], seconds_per_call: float) -> None:
        """Takes a worker's outcomes of the calls from `start` on."""
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
            if not self._open_count:  # a reader may keep this for long
                self._calls = []
            self._outcomes_changed.notify_all()

    def _wait_for_outcomes(self, start: int, deadline: float | None) -> list[Any]:
        with self._outcomes_changed:
            timeout = None if deadline is None else deadline - time.monotonic()
            if not self._outcomes_changed.wait_for(lambda: start in self._outcomes, timeout):
                raise FutureTimeoutError
            return self._outcomes.pop(start)


@dataclass
class _Chunk:
    """The calls from `start` to `stop` of a map, which a worker has, or will have."""

    calls_of: ChunkedMap[Any]
    start: int
    stop: int
    received_count: int = 0  # outcomes; what is open comes behind them


class PendingWork(dict[int, Any]):
    """The pool's table of work, by id. What a thread goes through does not change under it."""

    def items(self) -> Any:
        return list(super().items())


class WorkQueue:
    """The pool's queue of the ids of its work, of which some are ids of a ChunkedMap.

    `put` and the two `get`s are those of `queue.Queue` that the pool uses. Instead of a
    ChunkedMap's own id, `get` returns one of a chunk, until the map is given out; then it
    returns the map's, as cancelled, and the pool forgets it.

    Arguments:
        pending: The pool's table of work, by id.
        worker_count: How many workers there can be.
        workers: How far the workers are with their chunks; grows with the pool.
        wake_pool: Has the pool's thread look at this queue.
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
        self._watch = PeriodicLook(self._look_at_chunks, "cluster_tools map")
        self._ids: deque[int] = deque()
        # The pool counts from 0 upwards.
        self._last_chunk_id = 0
        # Chunks up to this one do not begin, if they have not.
        self.revoked_id = 1
        # Reentrant: an iterator that is collected cancels, in any thread at any time.
        self._order_lock = threading.RLock()
        self._waiting_beyond_pending = 0
        self._cancelled_count = 0

    @property
    def unfinished_count(self) -> int:
        """How many workers could have something to do."""
        return len(self._pending) + self._waiting_beyond_pending

    @property
    def given_out_count(self) -> int:
        """How much of the pool's work its workers have, or have before them: calls and chunks."""
        return len(self._pending) - len(self._ids)

    def put(self, work_id: int) -> None:
        with self._order_lock:
            if (chunked := self._chunked_map(work_id)) is not None:
                self._watch.ensure_running()  # here, as a program that ends starts no thread
                count = chunked.waiting_count - 1  # itself is in the table
                self._waiting_beyond_pending += count
            self._ids.append(work_id)  # last: Ctrl-C may come before it

    def drop(self, work_id: int) -> None:
        """Takes work out of the pool's table that was not put here, as `put` was interrupted."""
        with self._order_lock:
            work_item = self._pending.get(work_id)
            if work_item is not None and work_id not in self._ids and work_item.future.cancel():
                self._pending.pop(work_id, None)

    def get(self, block: bool = True) -> int:
        """Never blocks. Raises `queue.Empty` where nothing can be given out now."""
        with self._order_lock:
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
                except ValueError:  # cancelled meanwhile by what was collected in this thread
                    continue
                return work_id
            raise queue.Empty

    def _give_out(self, chunked: ChunkedMap[Any], start: int, stop: int) -> int:
        self._waiting_beyond_pending -= stop - start
        chunk_id = self._last_chunk_id = self._last_chunk_id - 1
        self._chunks[chunk_id] = _Chunk(chunked, start, stop)
        self._expect_answer(chunk_id, *chunked.arguments(chunk_id, start, stop))
        if stop - start > 1:  # else there is nothing to take
            self._watch.ensure_running()
        return chunk_id

    def _must_wait(self, *, for_map: bool) -> bool:
        """Whether to give out more now could let it begin before calls that come back and are first.

        A call that waits for one before it would then wait for ever. A chunk is revoked, so it may
        lie before a worker that has no time for it; any other work may not, and no chunk while
        revoked ones are still to come back.
        """
        if not self._chunks or self.given_out_count < self._worker_count:
            return False
        oldest_id = next(iter(self._chunks))
        return not for_map or oldest_id >= self.revoked_id

    def note_cancelled(self) -> None:
        """Has to be called for each cancelled future of the pool, so that its work does not stay.

        The pool itself forgets work when it is its turn, and that may be never.
        """
        with self._order_lock:
            self._cancelled_count += 1
            if self._cancelled_count < max(_MIN_CANCELLED_TO_FORGET, len(self._ids) // 2):
                return
            self._cancelled_count = 0
            # What was given out has no id here any more: that is the pool's thread's.
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
        return self.get(block=False)

    def cancel_maps(self) -> None:
        """Cancels the calls of all ChunkedMaps that have not begun."""
        with self._order_lock:
            found = [self._chunked_map(work_id) for work_id in self._ids]
        for chunked in found:
            if chunked is not None:
                self.cancel(chunked)

    def cancel(self, chunked: ChunkedMap[Any]) -> None:
        """Cancels the calls of a ChunkedMap that have not begun."""
        self._fail_waiting(chunked, CancelledError())

    def follow(self, chunked: ChunkedMap[Any], place: Future[Any]) -> None:
        """Has what waits fail when `place` does, which the pool holds for the map."""

        def fail_with_pool(place: Future[Any]) -> None:
            if not place.cancelled() and (error := place.exception()) is not None:
                self._fail_waiting(chunked, error)

        place.add_done_callback(fail_with_pool)

    def _fail_waiting(self, chunked: ChunkedMap[Any], error: BaseException) -> None:
        for start, stop in self._give_up(chunked, error):
            chunked.fail(start, stop, error)

    def _give_up(self, chunked: ChunkedMap[Any], error: BaseException) -> list[tuple[int, int]]:
        with self._order_lock:
            ranges = chunked.give_up(error)
            self._waiting_beyond_pending -= sum(stop - start for start, stop in ranges)
        return ranges

    def _chunked_map(self, work_id: int) -> ChunkedMap[Any] | None:
        work_item = self._pending.get(work_id)
        fn = None if work_item is None else work_item.fn
        return cast("ChunkedMap[Any]", fn) if isinstance(fn, ChunkedMap) else None

    def _expect_answer(self, chunk_id: int, *arguments: Any) -> None:
        future = PoolFuture[ChunkAnswer]()
        future.add_done_callback(partial(self._answered, chunk_id))
        self._pending[chunk_id] = _WorkItem(future, run_chunk, arguments, {})

    def _answered(self, chunk_id: int, future: Future[ChunkAnswer]) -> None:
        # In the pool's thread, which next looks for what it can give out.
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
                chunk.calls_of.end_chunk()
                if error is None:  # what has no outcome has not begun
                    given_up = self._take_back(chunk, chunk.start + chunk.received_count)
        if error is not None:
            chunk.calls_of.fail(chunk.start + chunk.received_count, chunk.stop, error)
        elif answer.outcomes:
            start = chunk.start + answer.first
            chunk.calls_of.record(start, answer.outcomes, answer.seconds_per_call)
        _fail_given_up(chunk, given_up)

    def close(self) -> None:
        """Waits for the thread that looks at chunks. For a pool that has ended."""
        self._watch.stop()

    def _look_at_chunks(self) -> bool:
        """Takes what late chunks have. Returns whether there are chunks."""
        takes_calls = False
        for worker in self._workers:
            if (chunk_id := worker.late_chunk(_HOLD_LIMIT_S)) is not None:
                takes_calls |= self._take_from(worker, chunk_id)
        if takes_calls:
            self._wake_pool()
        return bool(self._chunks)

    def _take_from(self, worker: ChunkProgress, chunk_id: int) -> bool:
        """Returns whether there are calls that the pool can give out again."""
        # With one lock for all of it: its worker may end the chunk at any time, and with the last
        # chunk the map leaves this queue.
        with self._order_lock:
            chunk = self._chunks.get(chunk_id)
            if chunk is None:  # the pool has broken
                return False
            if chunk.stop - chunk.start - chunk.received_count > 1:
                self.revoked_id = self._last_chunk_id
                for each in self._workers:  # what has not begun is behind what is taken now
                    each.revoke(self.revoked_id)
            taken = worker.take(chunk_id, chunk.received_count)
            if taken is None:
                return False
            chunk.received_count += len(taken.outcomes)
            old_stop = chunk.stop
            # All behind the one that runs.
            given_up = self._take_back(chunk, chunk.start + chunk.received_count + 1)
        if taken.outcomes:
            start = chunk.start + taken.first
            chunk.calls_of.record(start, taken.outcomes, taken.seconds_per_call)
        _fail_given_up(chunk, given_up)
        return chunk.stop < old_stop and given_up is None

    def _take_back(self, chunk: _Chunk, start: int) -> _GivenUp | None:
        """Has the chunk's calls from `start` on wait again, or returns what is to fail of its map."""
        stop = chunk.stop
        chunk.stop = start
        if start < stop:
            chunk.calls_of.take_back(start, stop)
            self._waiting_beyond_pending += stop - start
        error = chunk.calls_of.given_up
        return None if error is None else (error, self._give_up(chunk.calls_of, error))


_GivenUp = tuple[BaseException, list[tuple[int, int]]]
"""An error, and the ranges of calls of which it is the outcome."""


def _fail_given_up(chunk: _Chunk, given_up: _GivenUp | None) -> None:
    if given_up is not None:
        error, ranges = given_up
        for start, stop in ranges:
            chunk.calls_of.fail(start, stop, error)


def _packed_global(fn: Callable[..., Any], columns: list[Any], dumps: Dumps) -> bytes | None:
    """The pickle of `fn`, where it is all that a worker has to know beside plain arguments.

    None where it has something of its own that a call could change, or an argument has.
    """
    if not isinstance(fn, (FunctionType, BuiltinFunctionType, type)):
        return None
    try:
        if not PLAIN_TYPES.issuperset(map(type, itertools.chain.from_iterable(columns))):
            return None
        packed = dumps(fn)
        return packed if pickle.loads(packed) is fn else None
    except Exception:
        return None  # each call says why
