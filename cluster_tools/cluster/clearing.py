"""Removes the files of tasks that have ended, many at a time: a directory is not listed for each of
them.
"""

from __future__ import annotations

import logging
from collections import defaultdict

from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.format import run_files

# How long they may stay.
INTERVAL_S = 1.0

_logger = logging.getLogger("cluster_tools")


class Clearing:
    """In one thread.

    `leave_marks`: elements may run again, and have to see then that their tasks have ended.
    """

    def __init__(self, directory: RunDirectory, *, leave_marks: bool):
        self._directory = directory
        self._leave_marks = leave_marks
        # Shard -> tasks that have ended and may have files there.
        self._ended: defaultdict[int, list[int]] = defaultdict(list)
        # Shards of which each task is of an array that has ended.
        self._ended_shards: list[int] = []
        # Shard -> how many of its tasks are of such arrays, where some are not.
        self._ended_counts: dict[int, int] = {}

    def is_waiting(self) -> bool:
        return bool(self._ended or self._ended_shards)

    def on_task_ended(self, task: int) -> None:
        self._ended[task // run_files.TASKS_PER_SHARD].append(task)

    def on_array_gone(self, array: TaskArray) -> None:
        """Nobody begins its tasks any more: shards without others go."""
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
        """The whole run directory goes, or jobs that go on need it."""
        self._ended.clear()
        self._ended_shards.clear()

    def clear(self) -> None:
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
