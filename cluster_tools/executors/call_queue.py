"""The pool's queue of calls, which writes small items itself and needs no thread for them.

The standard library's queue gives each item to a thread that writes it, since a pipe that is full
blocks whoever writes. But the pool limits how many items are on their way, so small ones always
have room. Knows the standard library's queue, and nothing of what is in the items.
"""

from __future__ import annotations

from concurrent.futures.process import _SafeQueue  # pyright: ignore[reportPrivateUsage]
from multiprocessing.reduction import ForkingPickler
from queue import Full
from typing import Any

_StandardQueue: Any = _SafeQueue


class CallQueue(_StandardQueue):
    """A queue that was made by the pool. Small items are in its pipe when `put` returns."""

    # The largest item of which as many as may be in the queue have room in its pipe.
    _max_direct_bytes = 0
    # Whether its thread may have items that are not in the pipe, so later ones must follow them.
    _thread_may_have_items = False

    @classmethod
    def of(cls, queue: Any) -> Any:
        """The same queue, with this class. To be called before it is used."""
        queue.__class__ = cls
        queue.measure_pipe()
        return queue

    def measure_pipe(self) -> None:
        """Finds out how large small items are. To be called once."""
        try:
            from fcntl import F_GETPIPE_SZ, fcntl
        except ImportError:  # not Linux
            return
        # Half of it, as an item need not fill its last page.
        self._max_direct_bytes = fcntl(self._writer, F_GETPIPE_SZ) // 2 // self._maxsize

    def __reduce__(self) -> Any:
        """A worker gets the standard library's queue, and does not import this module."""
        return object.__new__, (_StandardQueue,), self.__getstate__()

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        if self._closed:
            raise ValueError(f"{self!r} is closed")
        if not self._sem.acquire(block, timeout):
            raise Full
        if self._put_directly(obj):
            return
        self._thread_may_have_items = True
        with self._notempty:
            if self._thread is None:
                self._start_thread()
            self._buffer.append(obj)
            self._notempty.notify()

    def _put_directly(self, obj: object) -> bool:
        """Writes an item if that cannot block. Returns whether it has."""
        if not self._max_direct_bytes:
            return False
        if self._thread_may_have_items:
            if self.qsize() > 1:  # besides this one
                return False
            self._thread_may_have_items = False  # workers have all items before this one
        try:
            item = ForkingPickler.dumps(obj)
            if len(item) > self._max_direct_bytes:
                return False
            with self._wlock:  # its thread is idle, and nobody else writes
                self._send_bytes(item)
        except Exception:  # the thread meets the same, and knows what to do
            return False
        return True
