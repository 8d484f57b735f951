"""A thread that looks at something again and again while there is something to see.

It ends by itself, so nobody has to end it where an executor is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_INTERVAL_S = 0.05
_IDLE_LIMIT_S = 1.0

_logger = logging.getLogger(__name__)


class PeriodicLook:
    """Calls `look` every 0.05 s from `ensure_running` on, until it returns False for a second.

    Arguments:
        look: Returns whether there is something to look at.
        name: The thread's.
    """

    def __init__(self, look: Callable[[], bool], name: str) -> None:
        self._look = look
        self._name = name
        self._thread: threading.Thread | None = None
        self._is_wanted = threading.Event()
        self._is_stopped = threading.Event()
        self._thread_lock = threading.Lock()

    def ensure_running(self) -> None:
        """Has it looked from now on. That no thread can be started is logged, and no error."""
        with self._thread_lock:
            self._is_wanted.set()
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                _logger.warning(
                    "%s: no thread can be started, so a long call may delay others: %s",
                    self._name,
                    error,
                )
            else:
                self._thread = thread

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        self._is_stopped.set()
        self._is_wanted.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            if self._is_wanted.wait(_IDLE_LIMIT_S):
                self._is_wanted.clear()
                self._look_until_idle()
            with self._thread_lock:
                if self._is_stopped.is_set() or not self._is_wanted.is_set():
                    self._thread = None
                    return

    def _look_until_idle(self) -> None:
        goes_on = True
        while goes_on and not self._is_stopped.wait(_INTERVAL_S):
            try:
                goes_on = self._look()
            except Exception:
                _logger.exception("%s goes on after an unexpected error", self._name)
