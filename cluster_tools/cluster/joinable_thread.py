"""A thread whose `join` may be interrupted by a signal handler that raises.

Up to Python 3.12, an exception of a handler (such as KeyboardInterrupt) that leaves
`threading.Thread.join` or `is_alive` can make a running thread look as if it had ended:
https://github.com/python/cpython/issues/90882
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod

# An interrupted `join` may never release the lock. So the others check at this interval whether the
# thread has ended.
_LOOK_INTERVAL_S = 1.0


class JoinableThread(threading.Thread):
    """A daemon thread. Subclasses define `work` instead of `run`."""

    def __init__(self, name: str):
        super().__init__(name=name, daemon=True)
        self._is_over = False
        # Held until the thread has ended. Not an Event: its `set` may wait for a lock that an
        # interrupted thread never releases.
        self._working_lock = threading.Lock()
        self._working_lock.acquire()

    @abstractmethod
    def work(self) -> None: ...

    def run(self) -> None:
        try:
            self.work()
        finally:
            self._is_over = True
            self._working_lock.release()

    def join(self, timeout: float | None = None) -> None:
        if self.ident is None or self is threading.current_thread():
            super().join(timeout)  # raises RuntimeError
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_over:
            left = _LOOK_INTERVAL_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            if self._working_lock.acquire(timeout=min(left, _LOOK_INTERVAL_S)):
                self._working_lock.release()
        super().join(timeout)

    def is_alive(self) -> bool:
        return self.ident is not None and not self._is_over
