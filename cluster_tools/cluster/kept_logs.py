"""Removes the logs of jobs that have ended, unless the user has asked to keep them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from cluster_tools.cluster.tasks import Job, TaskArray
from cluster_tools.schedulers.base import Element


class KeptLogs:
    """The logs of one executor's jobs. Only `reading` may be called outside the resolver's thread.

    `keep`: whether the logs are kept; then none is removed.
    """

    def __init__(self, log_path: Callable[[Element], str], *, keep: bool):
        self._log_path = log_path
        self._keep = keep
        # Jobs whose logs are removed as soon as no thread reads a log.
        self._unwanted: list[Job] = []
        # Jobs of cancelled arrays whose cancellation may not have reached the scheduler yet.
        self._late: list[Job] = []
        # Reentrant: a signal handler may follow a log.
        self._readers_lock = threading.RLock()
        self._readers = 0

    @contextmanager
    def reading(self) -> Generator[None]:
        """A context in which no log is removed. May be used in any thread."""
        with self._readers_lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._readers_lock:
                self._readers -= 1

    def on_job_over(self, job: Job) -> None:
        if not self._keep:
            self._unwanted.append(job)

    def on_array_ended(self, array: TaskArray) -> None:
        if not self._readers:
            self.remove()
        if not self._keep and array.has_cancelled():
            # An element may still start, and make its log, before the scheduler cancels it.
            self._late += array.all_jobs()

    def on_cancellations_told(self) -> None:
        """All cancellations have reached the scheduler, so no cancelled element starts any more."""
        late, self._late = self._late, []
        self._unwanted += late

    def remove(self) -> None:
        """Removes the logs that are not wanted."""
        jobs, self._unwanted = self._unwanted, []
        for job in jobs:
            if job.job_id is None:
                continue
            for position in job.positions:
                try:
                    os.unlink(self._log_path(job.element(position)))
                except OSError:
                    pass  # there is no log, or it can't be removed
