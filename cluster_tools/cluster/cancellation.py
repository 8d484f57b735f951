"""Keeps tasks from beginning whose calls nobody wants any more, in whatever thread they are
cancelled.

    future.cancel() --is_taken?--> pilots' files   what a pilot may have taken is not cancelled
          |---------Cancelled---> resolver         which cancels the task's element, with others
          '---------revoke------> run directory    once `cancel` returns, nothing begins the task

In a forked child nothing is done: the calls are the parent's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from typing import Any

from cluster_tools.cluster.events import Cancelled, Event, NotRevoked
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.pilot_queue import PilotQueue
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.own_files import NotOurs

_logger = logging.getLogger("cluster_tools")


class Cancellation:
    """`queue`: where pilots take tasks from; None where there are no pilots."""

    def __init__(
        self, directory: RunDirectory, queue: PilotQueue | None, post: Callable[[Event], None]
    ):
        self._directory = directory
        self._queue = queue
        self._post = post
        self._pid = os.getpid()

    def is_taken(self, future: ClusterFuture[Any]) -> bool:
        """Whether a pilot has taken its task, or may have; else none will."""
        array = future.array
        return array is not None and bool(self.withdraw(array, [future.position]))

    def withdraw(self, array: TaskArray, positions: Collection[int]) -> set[int]:
        """Keeps pilots from these tasks. Returns: those that one may have taken."""
        if self._queue is None or not array.on_pilots or self._pid != os.getpid():
            return set()
        try:
            return self._queue.withdraw(array, positions)
        except (OSError, NotOurs):  # `after_cancelling` tries it again
            return set()

    def on_cancelled(self, future: ClusterFuture[Any]) -> None:
        self._post(Cancelled(future))

    def after_cancelling(self, future: ClusterFuture[Any]) -> None:
        if future.array is not None and self._pid == os.getpid():
            self.revoke(future.array, future.position)

    def revoke(self, array: TaskArray, position: int) -> None:
        """Nobody is to begin this task any more; written later where the disk does not take it."""
        if array.runs_pilots:
            return
        try:
            self.revoke_now(array, position)
        except OSError:  # out of descriptors, say
            self._post(NotRevoked(array, position))
        except NotOurs as exc:
            self.say_not_revoked(array, position, exc)

    def revoke_now(self, array: TaskArray, position: int) -> None:
        """Raises: OSError; NotOurs."""
        if self._queue is not None and array.on_pilots:
            self._queue.revoke(array, [position])
        else:
            self._directory.revoke(array.first + position)

    @staticmethod
    def say_not_revoked(array: TaskArray, position: int, error: Exception) -> None:
        _logger.warning("%s may still run: %s", array.describe(position), error)
