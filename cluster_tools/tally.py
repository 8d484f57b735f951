"""Counts the calls of an executor by how they end, and how many end in a second."""

from __future__ import annotations

import threading
import time
from collections import deque

from cluster_tools.call_stats import ExecutorStats

# The rate is that of the time between now and the oldest sample.
_SAMPLE_COUNT = 20
_SAMPLE_INTERVAL_S = 0.5


class Tally:
    """Has to be told of each call when it is submitted, and when it has ended; in any thread."""

    def __init__(self) -> None:
        # Reentrant: what is collected as garbage may cancel calls at any time.
        self._counts_lock = threading.RLock()
        self._submitted = self._done = self._failed = self._cancelled = 0
        # (when, how many had ended by then). The first one is from when there was nothing to do.
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLE_COUNT)

    def note_submitted(self, count: int = 1) -> None:
        with self._counts_lock:
            if self._submitted == self._ended:
                self._samples.clear()
                self._samples.append((time.monotonic(), self._ended))
            self._submitted += count

    def note_ended(self, *, done: int = 0, failed: int = 0, cancelled: int = 0) -> None:
        with self._counts_lock:
            self._done += done
            self._failed += failed
            self._cancelled += cancelled
            now = time.monotonic()
            if self._samples and now - self._samples[-1][0] >= _SAMPLE_INTERVAL_S:
                self._samples.append((now, self._ended))

    def set_ended(self, *, done: int, failed: int, cancelled: int) -> None:
        """How many calls have ended by now, as whoever tells this has counted."""
        with self._counts_lock:
            self.note_ended(
                done=done - self._done,
                failed=failed - self._failed,
                cancelled=cancelled - self._cancelled,
            )

    def stats(self, running: int | None) -> ExecutorStats:
        """`running`: at most so many of those that have not ended run; None: all of them."""
        with self._counts_lock:
            open_count = self._submitted - self._ended
            rate = self._rate()
            running = open_count if running is None else min(running, open_count)
            time_left_s = open_count / rate if rate else (None if open_count else 0.0)
            return ExecutorStats(
                waiting=open_count - running,
                running=running,
                done=self._done,
                failed=self._failed,
                cancelled=self._cancelled,
                rate=rate,
                time_left_s=time_left_s,
            )

    @property
    def _ended(self) -> int:
        return self._done + self._failed + self._cancelled

    def _rate(self) -> float:
        if not self._samples:
            return 0.0
        since, ended = self._samples[0]
        return (self._ended - ended) / max(1e-9, time.monotonic() - since)
