"""Repeats actions that fail because the disk does not answer.

A disk that fails for a moment says nothing about a call, so no future fails because of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

# How long an action is tried again. Through an NFS client's cache, a file that was listed may take
# so long until it can be read.
RETRY_FOR_S = 120.0
INTERVAL_S = 1.0

_logger = logging.getLogger("cluster_tools")


@dataclass
class _Act:
    """An action that is tried until it raises no OSError.

    `give_up`: called with the last OSError, if it still fails at `give_up_at` (time.monotonic).
    """

    act: Callable[[], None]
    give_up: Callable[[OSError], None]
    give_up_at: float


class DiskRetries:
    """The actions of one executor that are tried again. Not thread-safe.

    `path`: the directory that can't be read, for the log. `is_over`: once it returns True, nothing
    is tried again.
    """

    def __init__(self, path: str, is_over: Callable[[], bool]):
        self._path = path
        self._is_over = is_over
        self._waiting: list[_Act] = []
        # Whether a warning about the present failure was logged.
        self._is_unreadable = False

    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def try_now(self, act: Callable[[], None], give_up: Callable[[OSError], None]) -> None:
        """Calls `act` now, and each second again while it raises OSError.

        Calls `give_up` if it still does so after two minutes.
        """
        self._try(_Act(act, give_up, time.monotonic() + RETRY_FOR_S))

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
        """Calls each waiting action once."""
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            try:
                self._try(act)
            except Exception:  # the other actions must still be tried
                _logger.exception("the resolver goes on after an unexpected error")
        self._is_unreadable = bool(self._waiting)
