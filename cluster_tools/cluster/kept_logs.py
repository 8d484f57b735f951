"""Removes the logs of jobs that are over, where the user has not asked to keep them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from cluster_tools.cluster.tasks import Job, TaskArray
from cluster_tools.schedulers.base import Element


class KeptLogs:
    """`keep`: none is ever removed. In the resolver's thread, but for `reading`."""

    def __init__(self, log_path: Callable[[Element], str], *, keep: bool):
        self._log_path = log_path
        self._keep = keep
        # Jobs whose logs go as soon as nobody reads any.
        self._unwanted: list[Job] = []
        # Of cancelled arrays, of which the scheduler may not have heard yet.
        self._late: list[Job] = []
        # Reentrant: a signal's handler may follow a log.
        self._readers_lock = threading.RLock()
        self._readers = 0

    @contextmanager
    def reading(self) -> Generator[None]:
        """While somebody reads a log, none is removed. In any thread."""
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
            # An element that starts before its scheduler hears of that makes its log now.
            self._late += array.all_jobs()

    def on_cancellations_told(self) -> None:
        """The scheduler knows of all that was cancelled: no more of it starts."""
        late, self._late = self._late, []
        self._unwanted += late

    def remove(self) -> None:
        jobs, self._unwanted = self._unwanted, []
        for job in jobs:
            if job.job_id is None:
                continue
            for position in job.positions:
                try:
                    os.unlink(self._log_path(job.element(position)))
                except OSError:
                    pass  # not there, or not to be removed by us
