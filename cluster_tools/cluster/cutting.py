"""Decides how large the pieces are in which an array is submitted.

The first piece is the whole array. After a refusal the next piece is smaller, or it waits for room
in the queue. This module knows limits and counts, no tasks.
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

# Limits of a group, an account or a partition can't be looked up. After so many refusals while no
# element of this executor is in the queue, a piece is taken to be too large for such a limit.
_WAITS_BEFORE_HALVING = 2

_logger = logging.getLogger("cluster_tools")


class Cutter:
    """Cuts one array into pieces.

    `in_queue`: returns how many elements of this executor are in the scheduler's queue.
    """

    def __init__(self, scheduler: Scheduler, in_queue: Callable[[], int]):
        self._scheduler = scheduler
        self._in_queue = in_queue
        self._limit = scheduler.array_limit()
        # The size of the last piece that the scheduler took while the limit was a guess.
        self._taken = 0
        self._is_guess = False
        self._waits = 0

    def size(self, left: int) -> int:
        """Returns how many of the `left` elements go into the next piece."""
        return left if self._limit is None else min(self._limit, left)

    def on_taken(self, count: int) -> None:
        """The scheduler has taken a piece of `count` elements; the next may be twice as large."""
        self._waits = 0
        if self._is_guess and self._limit is not None:
            self._taken = count
            self._limit = max(self._limit, 2 * count)

    def on_refused(self, refusal: RefusedForSize | RefusedForCount, count: int) -> int | None:
        """Learns from the refusal of a piece of `count` elements.

        Returns: None if a smaller piece may be tried at once. Otherwise, how many elements of this
        executor have to leave the queue before this piece is tried again.
        Raises: the refusal itself, if even one element is too many.
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
