"""Counts the calls of an executor by how they end, and how many end in a second."""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic

from cluster_tools.call_stats import ExecutorStats

# The rate is that of the time between now and the oldest sample.
_SAMPLE_COUNT = 20
_SAMPLE_INTERVAL_S = 0.5


class Tally:
    """Has to be told of each call when it is submitted, and when it has ended; in any thread.

    Its clock stands still while all calls have ended: that is no time in which few have.
    """

    def __init__(self) -> None:
        # Reentrant: what is collected as garbage may cancel calls at any time.
        self._counts_lock = threading.RLock()
        self._open = self._done = self._failed = self._cancelled = 0
        self._idle_since = monotonic()
        self._idle_s = 0.0
        # (time by our clock, how many had ended by then).
        self._samples = deque([(self._idle_since, 0)], maxlen=_SAMPLE_COUNT)
        self._next_sample_at = self._idle_since + _SAMPLE_INTERVAL_S

    def note_submitted(self, count: int = 1) -> None:
        with self._counts_lock:
            if not self._open:
                self._idle_s += monotonic() - self._idle_since
            self._open += count

    def note_ended(self, done: int = 0, failed: int = 0, cancelled: int = 0) -> None:
        with self._counts_lock:
            self._done += done
            self._failed += failed
            self._cancelled += cancelled
            self._open -= done + failed + cancelled
            now = monotonic()
            if not self._open:
                self._idle_since = now
            now -= self._idle_s
            if now >= self._next_sample_at:
                self._next_sample_at = now + _SAMPLE_INTERVAL_S
                self._samples.append((now, self._ended))

    def set_ended(self, *, done: int, failed: int, cancelled: int) -> None:
        """How many calls have ended by now, as whoever tells this has counted."""
        with self._counts_lock:
            if done + failed + cancelled != self._ended:
                self.note_ended(
                    done=done - self._done,
                    failed=failed - self._failed,
                    cancelled=cancelled - self._cancelled,
                )

    def stats(self, running: int | None) -> ExecutorStats:
        """`running`: at most so many of those that have not ended run; None: all of them."""
        with self._counts_lock:
            rate = self._rate()
            running = self._open if running is None else min(running, self._open)
            return ExecutorStats(
                waiting=self._open - running,
                running=running,
                done=self._done,
                failed=self._failed,
                cancelled=self._cancelled,
                rate=rate,
                time_left_s=self._open / rate if rate else (None if self._open else 0.0),
            )

    @property
    def _ended(self) -> int:
        return self._done + self._failed + self._cancelled

    def _rate(self) -> float:
        now = monotonic() if self._open else self._idle_since
        since, ended = self._samples[0]
        seconds = now - self._idle_s - since
        return (self._ended - ended) / seconds if seconds > 0 else 0.0
