"""Removes the files of tasks that have ended.

It removes those of many tasks together, so that a directory is listed once for all of them.
"""

from __future__ import annotations

import logging
from collections import defaultdict

from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.format import run_files

# How long the files may stay after their task has ended.
INTERVAL_S = 1.0

_logger = logging.getLogger("cluster_tools")


class Clearing:
    """The tasks of one executor whose files are to be removed. Not thread-safe.

    `leave_marks`: whether to leave a note that a task is over. Elements that the scheduler restarts
    need it, because they must not run the task again.
    """

    def __init__(self, directory: RunDirectory, *, leave_marks: bool):
        self._directory = directory
        self._leave_marks = leave_marks
        # Shard -> tasks that have ended and may have files there.
        self._ended: defaultdict[int, list[int]] = defaultdict(list)
        # Shards whose tasks all belong to arrays that have ended: their directories are removed.
        self._ended_shards: list[int] = []
        # Shard -> how many of its tasks belong to ended arrays. Has only shards that also have
        # other tasks.
        self._ended_counts: dict[int, int] = {}

    def is_waiting(self) -> bool:
        return bool(self._ended or self._ended_shards)

    def on_task_ended(self, task: int) -> None:
        """Notes that the task's files can be removed."""
        self._ended[task // run_files.TASKS_PER_SHARD].append(task)

    def on_array_gone(self, array: TaskArray) -> None:
        """The array's file is removed, so no worker begins its tasks any more.

        Notes the shards that have no tasks of other arrays: their directories can be removed.
        """
        task, end = array.first, array.first + array.count
        while task < end:
            shard = task // run_files.TASKS_PER_SHARD
            following = min(end, (shard + 1) * run_files.TASKS_PER_SHARD)
            ended = self._ended_counts.pop(shard, 0) + following - task
            if ended < run_files.TASKS_PER_SHARD:
                self._ended_counts[shard] = ended
            else:
                self._ended_shards.append(shard)
            task = following

    def forget(self) -> None:
        """Forgets all tasks: the whole run directory will be removed, or running jobs need it."""
        self._ended.clear()
        self._ended_shards.clear()

    def clear(self) -> None:
        """Removes the files of all noted tasks; tries again at the next call what fails."""
        ended, self._ended = self._ended, defaultdict(list)
        shards, self._ended_shards = self._ended_shards, []
        for shard in shards:
            ended.pop(shard, None)
            self._directory.remove_shard(shard)
        for shard, tasks in ended.items():
            try:
                self._directory.clear(set(tasks), leave_marks=self._leave_marks)
            except FileNotFoundError:  # somebody has deleted the run directory
                continue
            except OSError as exc:
                _logger.debug("files of tasks that are over go later: %s", exc)
                self._ended[shard] += tasks
