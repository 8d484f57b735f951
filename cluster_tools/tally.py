"""Counts the calls of an executor by how they end, and measures how many end in a second."""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic

from cluster_tools.call_stats import ExecutorStats

# The rate is measured from the oldest sample until now.
_SAMPLE_COUNT = 20
_SAMPLE_INTERVAL_S = 0.5


class Tally:
    """The counts of one executor's calls, and the rate at which they end.

    Its methods have to be called when calls are submitted and when they have ended. They may be
    called in any thread. Time in which there are no open calls does not count for the rate.
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may run in the thread that holds it, and cancel calls.
        self._counts_lock = threading.RLock()
        self._open = self._done = self._failed = self._cancelled = 0
        self._idle_since = monotonic()
        self._idle_s = 0.0
        # (monotonic time less the idle time, how many calls had ended by then)
        self._samples = deque([(self._idle_since, 0)], maxlen=_SAMPLE_COUNT)
        self._next_sample_at = self._idle_since + _SAMPLE_INTERVAL_S

    def note_submitted(self, count: int = 1) -> None:
        """Counts calls that were submitted."""
        with self._counts_lock:
            if not self._open:
                self._idle_s += monotonic() - self._idle_since
            self._open += count

    def note_ended(self, done: int = 0, failed: int = 0, cancelled: int = 0) -> None:
        """Counts more calls that have ended."""
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
        """Sets how many calls have ended until now. For a caller that counts them itself."""
        with self._counts_lock:
            if done + failed + cancelled != self._ended:
                self.note_ended(
                    done=done - self._done,
                    failed=failed - self._failed,
                    cancelled=cancelled - self._cancelled,
                )

    def stats(self, running: int | None) -> ExecutorStats:
        """The counts and the rate now.

        `running`: how many of the open calls run; a number above that of the open calls is reduced
        to it. None: all of them.
        """
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
        """How many calls end in a second; 0.0 if none has ended."""
        now = monotonic() if self._open else self._idle_since
        since, ended = self._samples[0]
        seconds = now - self._idle_s - since
        return (self._ended - ended) / seconds if seconds > 0 else 0.0
