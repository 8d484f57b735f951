"""How far a worker is with its chunk, in memory that the client's process reads, too.

A call that holds the GIL stops every thread of its worker, and may do so for hours. What was made
before it, and what comes behind it, must not wait for it: so nothing here needs the worker's help.

    worker, before each call                     client, where a chunk takes longer than 0.1 s
    next_may_begin: the last outcome ---> bytes ---> take: outcomes; the calls that have not
    is written down; False after a take <--- taken     begun are the client's again

One lock for each worker, held for the time of a look: the worker waits for it, the client comes
again later. Knows neither pool nor map.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from io import BytesIO
from multiprocessing.heap import Arena
from typing import Any, NamedTuple

_SIZE = 64 * 1024  # of one worker's; with small outcomes that is thousands of calls
_FIELDS = 5
_NO_CHUNK = 0  # ids of chunks are negative, later ones are less
_CHUNK_ID, _BEGAN_NS, _GIVEN_COUNT, _IS_TAKEN, _REVOKED_ID = range(_FIELDS)
_OUTCOMES_BEGIN = 8 * _FIELDS
_END = b"\0"  # no pickle begins with it


class TakenCalls(NamedTuple):
    """What the client has taken from a worker.

    `first`: How many outcomes of the chunk have been sent before these.
    `outcomes`: Those of the next calls. The call behind them is running; no later one will begin.
    `seconds_per_call`: So far, the running one included.
    """

    first: int
    outcomes: list[Any]
    seconds_per_call: float


class ChunkProgress:
    """The progress of one worker. It can be sent to a process while that is started.

    Arguments:
        buffer: Holds the progress of all workers of a pool.
        index: Which of them.
        lock: A lock of `multiprocessing` that the worker and the client have in common.
    """

    def __init__(self, buffer: Arena, index: int, lock: Any) -> None:
        self._arguments = buffer, index, lock
        view = memoryview(buffer.buffer)[index * _SIZE :][:_SIZE]
        self._fields = view[:_OUTCOMES_BEGIN].cast("q")
        self._bytes = view
        self._lock = lock
        # The worker's: what it has made and not sent, and where the next outcome is written.
        self._outcomes: list[Any] = []
        self._is_first = True
        self._sent_count = 0
        self._position = _OUTCOMES_BEGIN
        self._send: Callable[[int, list[Any]], None]

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkProgress, self._arguments

    @staticmethod
    def buffer_for(worker_count: int) -> Arena:
        """The first argument, for so many workers, none of which has a chunk."""
        buffer = Arena(_SIZE * worker_count)  # not of the heap, which would keep its file open
        memoryview(buffer.buffer)[:] = bytes(_SIZE * worker_count)
        for index in range(worker_count):
            memoryview(buffer.buffer)[index * _SIZE :][:_OUTCOMES_BEGIN].cast("q")[_REVOKED_ID] = 1
        return buffer

    # In the worker

    def begin(
        self, chunk_id: int, send: Callable[[int, list[Any]], None]
    ) -> Callable[[Any], None] | None:
        """Begins a chunk and its first call, to which it belongs to load what it needs.

        Returns what takes the outcomes of the calls, one after the other; None where the chunk was
        revoked.

        Arguments:
            chunk_id: Less than 0.
            send: Sends outcomes for which there is no room here, and the number of those before.
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
            self._fields[_IS_TAKEN] = False
            self._fields[_CHUNK_ID] = chunk_id
        return self._outcomes.append

    def next_may_begin(self) -> bool:
        """Makes the last outcome the client's to take. Returns whether the next call is ours."""
        if self._is_first:  # which the client counts as begun
            self._is_first = False
            return True
        with self._lock:
            if self._fields[_IS_TAKEN]:
                return False
            self._write(pickle.dumps(self._outcomes[-1]) + _END)
            return True

    def end(self) -> tuple[int, list[Any]]:
        """The outcomes that nobody has sent or taken, and the number of those before."""
        with self._lock:
            self._fields[_CHUNK_ID] = _NO_CHUNK
            first = self._fields[_GIVEN_COUNT]
            return first, self._outcomes[first - self._sent_count :]

    def _write(self, record: bytes) -> None:
        end = self._position + len(record)
        if end <= _SIZE:
            self._bytes[self._position : end] = record
            self._position = end - len(_END)  # the next one is written over it
            return
        self._send(self._sent_count, list(self._outcomes))
        self._sent_count += len(self._outcomes)
        self._outcomes.clear()
        self._fields[_GIVEN_COUNT] = self._sent_count
        self._position = _OUTCOMES_BEGIN
        self._bytes[_OUTCOMES_BEGIN : _OUTCOMES_BEGIN + 1] = _END

    # In the client's process

    def late_chunk(self, limit_s: float) -> int | None:
        """The id of the chunk that runs for longer than `limit_s`, if no call was taken from it."""
        chunk_id, began_ns, _, is_taken, _ = self._fields
        is_late = time.monotonic_ns() - began_ns > limit_s * 1e9
        return chunk_id if chunk_id != _NO_CHUNK and is_late and not is_taken else None

    def revoke(self, last_id: int) -> None:
        """Has chunks up to this one not begin; one that has begun goes on."""
        self._fields[_REVOKED_ID] = last_id  # without the lock: written at once

    def take(self, chunk_id: int, received_count: int) -> TakenCalls | None:
        """Takes what has not begun, and the outcomes that are here.

        Returns:
            None where it is to be tried again later: the worker is about to change it, what it has
            sent was not received yet, or it has ended this chunk.

        Arguments:
            chunk_id: The chunk that is meant.
            received_count: How many of its outcomes have been received.
        """
        if not self._lock.acquire(block=False):
            return None
        try:
            fields = self._fields
            if fields[_CHUNK_ID] != chunk_id or fields[_GIVEN_COUNT] != received_count:
                return None
            outcomes: list[Any] = []
            records = BytesIO(self._bytes)
            records.seek(_OUTCOMES_BEGIN)
            while self._bytes[records.tell()] != _END[0]:
                outcomes.append(pickle.load(records))
            fields[_IS_TAKEN] = True
            fields[_GIVEN_COUNT] = received_count + len(outcomes)
            seconds = (time.monotonic_ns() - fields[_BEGAN_NS]) / 1e9
        finally:
            self._lock.release()
        return TakenCalls(received_count, outcomes, seconds / (received_count + len(outcomes) + 1))
