"""Logs which calls of an executor on a cluster have failed."""

from __future__ import annotations

from cluster_tools.cluster.events import ArrayEnded, Event, TaskFailed
from cluster_tools.failure_log import FailureLog


class FailureObserver:
    """An observer with one `FailureLog` for each array that has failed tasks."""

    observes_tasks = False

    def __init__(self) -> None:
        self._logs: dict[int, FailureLog] = {}

    def on_event(self, event: Event) -> None:
        if isinstance(event, TaskFailed):
            array = event.array
            log = self._logs.setdefault(array.number, FailureLog(array.count))
            log.note_failure(event.exception, event.where)
        elif isinstance(event, ArrayEnded):
            log = self._logs.pop(event.array.number, None)
            if log is not None:
                log.say_count()
