"""A thread that signals' handlers may interrupt the waiting for.

Up to Python 3.12 a `threading.Thread` is taken for ended, by `join` and `is_alive`, once an
exception of a handler (KeyboardInterrupt) has left one of them:
https://github.com/python/cpython/issues/90882
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod

# Whoever is interrupted may keep the lock: so often the others look whether the thread is over.
_LOOK_INTERVAL_S = 1.0


class JoinableThread(threading.Thread):
    """A daemon that does its work in `work`, not in `run`."""

    def __init__(self, name: str):
        super().__init__(name=name, daemon=True)
        self._is_over = False
        # Held until it is over. No Event, whose `set` may wait for a lock that an interrupted
        # thread keeps.
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
            super().join(timeout)  # which raises
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
