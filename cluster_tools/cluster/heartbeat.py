"""The heartbeat: shows workers that the client still waits for them.

A thread of each executor writes a file of the run directory at regular intervals. It does nothing
else, so that no callback, no command and no disk of another executor can delay it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

# How often the file is written within the client's timeout.
_BEATS = 30
# The clock of a waiting thread stops while the machine is suspended. With short waits, the file is
# written at most so long after the machine has resumed.
_MAX_PAUSE_S = 5.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_logger = logging.getLogger("cluster_tools")


class HeartbeatThread(threading.Thread):
    """A thread that calls `beat` until it is stopped.

    `beat`: writes the heartbeat; may raise OSError. `client_timeout_s`: after so many seconds
    without a heartbeat, workers do not begin any more.
    """

    def __init__(self, beat: Callable[[], None], client_timeout_s: float):
        super().__init__(name="cluster_tools-heartbeat", daemon=True)
        self._beat = beat
        self._interval_s = client_timeout_s / _BEATS
        # Not an Event: `stop` may interrupt any code, and must not wait for an Event's lock.
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
                except Exception as exc:  # the disk may answer again before the timeout
                    _logger.debug("a heartbeat has failed: %s", exc)
            try:
                self._stops.get(timeout=min(_MAX_PAUSE_S, self._interval_s))
                return
            except queue.Empty:
                continue
