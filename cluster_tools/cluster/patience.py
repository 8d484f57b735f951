"""What is done again while the disk does not answer: a disk that fails for a moment says nothing
about a call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

# How long an act is tried again: as long as a file that was listed may take to be readable through
# an NFS client's cache.
PATIENCE_S = 120.0
INTERVAL_S = 1.0

_logger = logging.getLogger("cluster_tools")


@dataclass
class _Act:
    """`act` raises OSError until the disk answers; after `give_up_at`, `give_up` gets the last."""

    act: Callable[[], None]
    give_up: Callable[[OSError], None]
    give_up_at: float


class Patience:
    """In one thread.

    `path`: what can't be read, for the log. `is_over`: from then on nothing is tried again.
    """

    def __init__(self, path: str, is_over: Callable[[], bool]):
        self._path = path
        self._is_over = is_over
        self._waiting: list[_Act] = []
        # A warning has said so.
        self._is_unreadable = False

    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def try_now(self, act: Callable[[], None], give_up: Callable[[OSError], None]) -> None:
        """Calls `act` now, and again while it raises OSError; after two minutes calls `give_up`."""
        self._try(_Act(act, give_up, time.monotonic() + PATIENCE_S))

    def _try(self, act: _Act) -> None:
        try:
            act.act()
        except OSError as exc:
            if time.monotonic() >= act.give_up_at or self._is_over():
                act.give_up(exc)
                return
            if not self._is_unreadable:
                self._is_unreadable = True
                _logger.warning("%s can't be read for now; trying again: %s", self._path, exc)
            self._waiting.append(act)

    def try_again(self) -> None:
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            try:
                self._try(act)
            except Exception:  # the others are not to be lost with it
                _logger.exception("the resolver goes on after an unexpected error")
        self._is_unreadable = bool(self._waiting)
