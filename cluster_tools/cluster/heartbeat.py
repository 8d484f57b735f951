"""Lets workers know that somebody waits for them: writes a file of the run directory from time to
time.

A thread of each executor that does nothing else, so that nothing else holds it up: no callback, no
command, no other executor's disk.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

# So often it is written in the time after which workers take the client for gone.
_BEATS = 30
# A thread's clock stands still while the machine sleeps: so soon after waking it is written again.
_MAX_PAUSE_S = 5.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_logger = logging.getLogger("cluster_tools")


class HeartbeatThread(threading.Thread):
    """`beat`: may raise OSError.

    `client_timeout_s`: after which a silent client is taken for gone.
    """

    def __init__(self, beat: Callable[[], None], client_timeout_s: float):
        super().__init__(name="cluster_tools-heartbeat", daemon=True)
        self._beat = beat
        self._interval_s = client_timeout_s / _BEATS
        # No Event: the end may come in the middle of anything.
        self._stops: queue.SimpleQueue[None] = queue.SimpleQueue()

    def stop(self) -> None:
        self._stops.put(None)

    def run(self) -> None:
        due = 0.0
        while True:
            now = time.clock_gettime(_CLOCK)
            if now >= due:
                due = now + self._interval_s
                try:
                    self._beat()
                except Exception as exc:  # the disk may answer again before it is too late
                    _logger.debug("a heartbeat has failed: %s", exc)
            try:
                self._stops.get(timeout=min(_MAX_PAUSE_S, self._interval_s))
                return
            except queue.Empty:
                continue
