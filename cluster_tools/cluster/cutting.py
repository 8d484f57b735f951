"""How large the pieces of an array are.

Begins with the whole and learns from the scheduler's refusals. Knows limits and counts, no tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster_tools.schedulers.base import (
    RefusedForCount,
    RefusedForSize,
    Scheduler,
    SchedulerError,
)

# There may be limits that can't be looked up: of a group, an account, a partition. A piece that is
# refused so often although nothing of ours is in the queue is too large for one of them.
_WAITS_BEFORE_HALVING = 2

_logger = logging.getLogger("cluster_tools")


class Cutter:
    """Cuts one array. `in_queue`: counts the executor's own elements in the scheduler's queue."""

    def __init__(self, scheduler: Scheduler, in_queue: Callable[[], int]):
        self._scheduler = scheduler
        self._in_queue = in_queue
        self._limit = scheduler.array_limit()
        # The size of the last piece that was taken, where no limit could be looked up.
        self._taken = 0
        self._is_guess = False
        self._waits = 0

    def size(self, left: int) -> int:
        """How many of the `left` elements the next piece has."""
        return left if self._limit is None else min(self._limit, left)

    def on_taken(self, count: int) -> None:
        self._waits = 0
        if self._is_guess and self._limit is not None:
            self._taken = count
            self._limit = max(self._limit, 2 * count)

    def on_refused(self, refusal: RefusedForSize | RefusedForCount, count: int) -> int | None:
        """Learns from the refusal of a piece of `count` elements.

        Returns: None where a smaller piece may be tried at once; else for how many of our own
        elements to leave the queue before this one is tried again.
        Raises: the refusal, where even one element is too many.
        """
        limit = self._look_up(refusal)
        if limit is not None and limit < 1:
            raise refusal
        if limit is not None and limit < count:
            self._cut_to(limit, guess=False)
            return None
        if isinstance(refusal, RefusedForSize):
            if count == 1:
                raise refusal
            self._cut_to(count // 2, guess=True)
            return None
        own = self._in_queue()
        if limit is not None and own:
            return max(1, own - (limit - count))
        if own == 0:
            self._waits += 1
            if count > 1 and (limit is None or self._waits > _WAITS_BEFORE_HALVING):
                self._cut_to(count // 2, guess=True)
                return None
        elif 0 < self._taken < count:
            self._cut_to(self._taken, guess=True)
            return None
        return min(max(own, 1), count)

    def _cut_to(self, size: int, *, guess: bool) -> None:
        self._limit, self._is_guess, self._waits = size, guess, 0

    def _look_up(self, refusal: SchedulerError) -> int | None:
        try:
            if isinstance(refusal, RefusedForSize):
                return self._scheduler.max_array_size()
            return self._scheduler.max_submitted()
        except SchedulerError as exc:
            _logger.warning("The limit could not be looked up: %s", exc)
            return None
