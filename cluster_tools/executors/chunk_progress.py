"""The progress of a worker with its chunk of calls, in memory that it shares with the client.

A call that holds the GIL stops all threads of its worker, perhaps for hours. Calls before and after
it in the chunk must not wait for that: so the client can read their outcomes, and take calls back,
without the worker's help.

    worker, before each call                     client, if a chunk takes longer than 0.1 s
    next_may_begin: writes the last --> bytes --> read: the outcomes that are new
    outcome; False after a take     <-- taken --- take: calls that have not begun are the client's

Each worker has a lock, which is held for a short time. The worker waits for it; the client tries
again later. Knows neither pools nor maps.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from io import BytesIO
from multiprocessing.heap import Arena
from typing import Any, NamedTuple

# Bytes for each worker: enough for small outcomes of thousands of calls.
_SIZE = 64 * 1024
# The memory of a worker begins with these fields, eight bytes each. Then come the outcomes of its
# chunk, as pickles, and `_END`.
_FIELDS = 6
_CHUNK_ID, _BEGAN_NS, _GIVEN_COUNT, _IS_TAKEN, _REVOKED_ID, _READ_END = range(_FIELDS)
_OUTCOMES_BEGIN = 8 * _FIELDS
_END = b"\0"  # no pickle begins with this byte
# Ids of chunks are negative, and decrease.
_NO_CHUNK = 0


class ReadOutcomes(NamedTuple):
    """What the client has read of a worker's chunk.

    `first`: how many outcomes of the chunk came before these.
    `outcomes`: those of the next calls. The call after them is running.
    `seconds_per_call`: so far, with the running call.
    """

    first: int
    outcomes: list[Any]
    seconds_per_call: float


class ChunkProgress:
    """The progress of one worker. It can be pickled while the worker is started.

    Arguments:
        buffer: The memory for all workers of a pool, of `buffer_for`.
        index: Which worker it is.
        lock: A lock of `multiprocessing`, shared by the worker and the client.
    """

    def __init__(self, buffer: Arena, index: int, lock: Any) -> None:
        self._arguments = buffer, index, lock
        view = memoryview(buffer.buffer)[index * _SIZE :][:_SIZE]
        self._fields = view[:_OUTCOMES_BEGIN].cast("q")
        self._bytes = view
        self._lock = lock
        # Used in the worker: outcomes that it has not sent, how many it has sent,
        # and where to write the next.
        self._outcomes: list[Any] = []
        self._is_first = True
        self._sent_count = 0
        self._position = _OUTCOMES_BEGIN
        self._send: Callable[[int, list[Any]], None]

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkProgress, self._arguments

    @staticmethod
    def buffer_for(worker_count: int) -> Arena:
        """The first argument of this class, for so many workers, none of which has a chunk."""
        buffer = Arena(_SIZE * worker_count)  # not `heap.Heap`, which would keep its file open
        memoryview(buffer.buffer)[:] = bytes(_SIZE * worker_count)
        for index in range(worker_count):
            memoryview(buffer.buffer)[index * _SIZE :][:_OUTCOMES_BEGIN].cast("q")[_REVOKED_ID] = 1
        return buffer

    # In the worker

    def begin(
        self, chunk_id: int, send: Callable[[int, list[Any]], None]
    ) -> Callable[[Any], None] | None:
        """Begins a chunk, and with it its first call, since that includes loading the function.

        Returns:
            A function to be called with each outcome; None where the chunk was revoked.

        Arguments:
            chunk_id: A negative number.
            send: Called with the number of outcomes before, and outcomes, when the memory is full.
        """
        self._outcomes = []
        self._is_first = True
        self._sent_count = 0
        self._position = _OUTCOMES_BEGIN
        self._send = send
        with self._lock:
            if self._fields[_REVOKED_ID] <= chunk_id:
                return None
            self._bytes[_OUTCOMES_BEGIN : _OUTCOMES_BEGIN + 1] = _END
            self._fields[_BEGAN_NS] = time.monotonic_ns()
            self._fields[_GIVEN_COUNT] = 0
            self._fields[_READ_END] = _OUTCOMES_BEGIN
            self._fields[_IS_TAKEN] = False
            self._fields[_CHUNK_ID] = chunk_id
        return self._outcomes.append

    def next_may_begin(self) -> bool:
        """Lets the client read the last outcome. Returns whether this worker runs the next call."""
        if self._is_first:  # it has begun with the chunk
            self._is_first = False
            return True
        with self._lock:
            if self._fields[_IS_TAKEN]:
                return False
            self._write(pickle.dumps(self._outcomes[-1]) + _END)
            return True

    def end(self) -> tuple[int, list[Any]]:
        """(number of outcomes before, outcomes that were neither sent nor read), at the end."""
        with self._lock:
            self._fields[_CHUNK_ID] = _NO_CHUNK
            first = self._fields[_GIVEN_COUNT]
            return first, self._outcomes[first - self._sent_count :]

    def _write(self, record: bytes) -> None:
        """Writes an outcome; sends all that the client has not read if there is no room for it."""
        end = self._position + len(record)
        if end <= _SIZE:
            self._bytes[self._position : end] = record
            self._position = end - len(_END)  # the next record overwrites `_END`
            return
        first = self._fields[_GIVEN_COUNT]
        self._send(first, self._outcomes[first - self._sent_count :])
        self._sent_count += len(self._outcomes)
        self._outcomes.clear()
        self._fields[_GIVEN_COUNT] = self._sent_count
        self._position = self._fields[_READ_END] = _OUTCOMES_BEGIN
        self._bytes[_OUTCOMES_BEGIN : _OUTCOMES_BEGIN + 1] = _END

    # In the client's process

    def current_chunk(self) -> tuple[int, float] | None:
        """The id of the chunk that runs, and for how many seconds; None if there is no such chunk.

        A chunk from which calls were taken has but one call left, and counts as none.
        """
        fields = self._fields
        chunk_id, began_ns = fields[_CHUNK_ID], fields[_BEGAN_NS]
        if chunk_id == _NO_CHUNK or fields[_IS_TAKEN]:
            return None
        return chunk_id, (time.monotonic_ns() - began_ns) / 1e9

    def revoke(self, last_id: int) -> None:
        """Lets chunks up to this one not begin. One that has begun goes on."""
        self._fields[_REVOKED_ID] = last_id  # needs no lock: one write of eight bytes

    def read(
        self, chunk_id: int, received_count: int, takes_calls: Callable[[ReadOutcomes], bool]
    ) -> ReadOutcomes | None:
        """Reads the outcomes that were neither sent nor read; may take calls back.

        Returns:
            None if the client has to try again later: the worker holds the lock, the client has not
            yet received all that it has sent, or the chunk has ended.

        Arguments:
            chunk_id: The chunk.
            received_count: How many outcomes of it the client has received.
            takes_calls: Gets what was read, and returns whether to take back the calls that have
                not begun. The worker waits meanwhile.
        """
        if not self._lock.acquire(block=False):
            return None
        try:
            fields = self._fields
            if fields[_CHUNK_ID] != chunk_id or fields[_GIVEN_COUNT] != received_count:
                return None
            outcomes: list[Any] = []
            begin = fields[_READ_END]
            records = BytesIO(self._bytes[begin:])
            while self._bytes[begin + records.tell()] != _END[0]:
                outcomes.append(pickle.load(records))
            count = received_count + len(outcomes)
            seconds = (time.monotonic_ns() - fields[_BEGAN_NS]) / 1e9
            found = ReadOutcomes(received_count, outcomes, seconds / (count + 1))
            fields[_GIVEN_COUNT] = count
            fields[_READ_END] = begin + records.tell()
            fields[_IS_TAKEN] = takes_calls(found)
        finally:
            self._lock.release()
        return found
