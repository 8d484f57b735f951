"""A thread that calls a function again and again, and ends by itself when there is nothing to do.

So nobody has to end it when an executor is dropped. Knows functions and threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

# Half of the 0.1 s for which a chunk may keep outcomes to itself (`chunks`).
_INTERVAL_S = 0.05
# How long the thread stays without work: starting another one costs more than waiting.
_IDLE_LIMIT_S = 1.0

_logger = logging.getLogger(__name__)


class PollingThread:
    """Calls `poll` every 0.05 s from `ensure_running` on, until it returns False.

    Arguments:
        poll: Returns whether it wants to be called again.
        name: The thread's name.
    """

    def __init__(self, poll: Callable[[], bool], name: str) -> None:
        self._poll = poll
        self._name = name
        self._thread: threading.Thread | None = None
        self._is_wanted = threading.Event()
        self._is_stopped = threading.Event()
        self._thread_lock = threading.Lock()

    def ensure_running(self) -> None:
        """Begins to call `poll`, if that has ended. If no thread can be started, that is logged."""
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
                self._poll_until_idle()
            with self._thread_lock:
                if self._is_stopped.is_set() or not self._is_wanted.is_set():
                    self._thread = None
                    return

    def _poll_until_idle(self) -> None:
        is_wanted = True
        while is_wanted and not self._is_stopped.wait(_INTERVAL_S):
            try:
                is_wanted = self._poll()
            except Exception:
                _logger.exception("%s goes on after an unexpected error", self._name)
