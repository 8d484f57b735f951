"""Makes sure that workers and pilots do not begin the tasks of cancelled calls.

    future.cancel() --is_taken?--> pilot queue     a task that a pilot may have taken goes on
          |-----------Cancelled--> resolver        it cancels the task's element, with others
          '-----------revoke-----> run directory   no worker begins the task once `cancel` returns

These three are called in the thread that calls `cancel`. In a forked child they do nothing, because
the calls belong to the parent process.
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
    """Withdraws and revokes tasks of one executor. All methods may be called in any thread.

    `queue`: the queue from which pilots take tasks; None if the executor has no pilots.
    """

    def __init__(
        self, directory: RunDirectory, queue: PilotQueue | None, post: Callable[[Event], None]
    ):
        self._directory = directory
        self._queue = queue
        self._post = post
        self._pid = os.getpid()

    def is_taken(self, future: ClusterFuture[Any]) -> bool:
        """Whether a pilot has taken the future's task, or may have taken it.

        If not, no pilot will begin the task any more.
        """
        array = future.array
        return array is not None and bool(self.withdraw(array, [future.position]))

    def withdraw(self, array: TaskArray, positions: Collection[int]) -> set[int]:
        """Keeps pilots from beginning these tasks.

        Returns: the positions of the tasks that a pilot may have taken before.
        """
        if self._queue is None or not array.on_pilots or self._pid != os.getpid():
            return set()
        try:
            return self._queue.withdraw(array, positions)
        except (OSError, NotOurs):  # `after_cancelling` tries again to revoke the task
            return set()

    def on_cancelled(self, future: ClusterFuture[Any]) -> None:
        self._post(Cancelled(future))

    def after_cancelling(self, future: ClusterFuture[Any]) -> None:
        if future.array is not None and self._pid == os.getpid():
            self.revoke(future.array, future.position)

    def revoke(self, array: TaskArray, position: int) -> None:
        """Forbids workers and pilots to begin this task.

        If the disk does not accept the note, the resolver writes it later.
        """
        if array.runs_pilots:
            return
        try:
            self.revoke_now(array, position)
        except OSError:  # for example: this process has too many open files
            self._post(NotRevoked(array, position))
        except NotOurs as exc:
            self.say_not_revoked(array, position, exc)

    def revoke_now(self, array: TaskArray, position: int) -> None:
        """Writes the note that forbids to begin this task. Raises: OSError; NotOurs."""
        if self._queue is not None and array.on_pilots:
            self._queue.revoke(array, [position])
        else:
            self._directory.revoke(array.first + position)

    @staticmethod
    def say_not_revoked(array: TaskArray, position: int, error: Exception) -> None:
        _logger.warning("%s may still run: %s", array.describe(position), error)
