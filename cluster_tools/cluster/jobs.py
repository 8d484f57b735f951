"""The jobs of one executor that have not ended, and the requests to cancel them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

from cluster_tools.call_stats import CallStats, call_stats
from cluster_tools.cluster.events import Event, Submitted
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.tasks import Job
from cluster_tools.format.measured import read_measured
from cluster_tools.schedulers.base import Element, Scheduler, SchedulerError

# Returned by `dict.pop` for a key that is missing.
_IS_GONE = object()

_logger = logging.getLogger("cluster_tools")


class Jobs:
    """The jobs of one executor that have not ended. All methods may be called in any thread.

    Arguments:
        token: The executor's token. Jobs without it belong to others.
        log_directory: The absolute path of the directory for logs.
        post: Puts an event into the resolver's inbox.
        expect: Called after each submission. Makes watcher and prober look often for a while.
        log_level: The level of the line that is logged for each job.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        token: str,
        log_directory: str,
        lifecycle: Lifecycle,
        *,
        post: Callable[[Event], None],
        expect: Callable[[], None],
        log_level: int,
    ):
        self._scheduler = scheduler
        self._token = token
        self._log_directory = log_directory
        self._lifecycle = lifecycle
        self._post = post
        self._expect = expect
        self._log_level = log_level
        # Notified when a task has a job, or its future is done.
        self._has_job = threading.Condition()
        # How many threads are in `job_of`. Changed under the lock.
        self._waiting = 0
        # An ordered set. Needs no lock: each operation on it is atomic.
        self._jobs: dict[Job, None] = {}

    # -- what was submitted --

    def add(self, job: Job, job_id: str) -> None:
        """Notes that the scheduler has given the job this id."""
        job.set_id(job_id)
        self._jobs[job] = None
        _logger.log(
            self._log_level, "job %s: %d calls of %s", job_id, len(job.positions), job.array.name
        )
        self.announce()
        self._post(Submitted(job))
        self._expect()
        if self._lifecycle.aborted:  # during the submission, so `stop` may have missed this job
            self.stop([job_id])

    def add_earlier(self, job: Job, position: int, job_id: str) -> None:
        """Notes that a job of an earlier submission, taken to be lost, runs this task of `job`."""
        earlier = Job(
            job.array, (position,), job.submission, job.token, first_index=job.index(position)
        )
        earlier.set_id(job_id)
        self._jobs[earlier] = None

    def remove(self, job: Job) -> bool:
        """Forgets a job whose tasks have all ended. Returns: False if it was removed before."""
        if self._jobs.pop(job, _IS_GONE) is _IS_GONE:
            return False
        if job.job_id is not None and not self._lifecycle.leaves_jobs:
            try:
                self._scheduler.forget(job.job_id)
            except Exception:  # the caller still has to resolve the job's last future
                _logger.exception("the job %s may stay for longer than it is needed", job.job_id)
        return True

    def any(self) -> bool:
        """Whether there may be jobs with tasks that have not ended. Cheaper than `open`."""
        return bool(self._jobs)

    def open(self) -> list[Job]:
        """The jobs with tasks that have not ended."""
        return [job for job in list(self._jobs) if job.is_open()]

    def elements_in_queue(self) -> int:
        return sum(len(job.open_positions()) for job in self.open())

    def slots_held(self) -> int:
        """How many elements can run at a time, with the `at_a_time` limit of each job."""
        held = 0
        for job in self.open():
            open_count = len(job.open_positions())
            held += open_count if job.at_a_time is None else min(open_count, job.at_a_time)
        return held

    def ids(self) -> set[str]:
        return {job.job_id for job in list(self._jobs) if job.job_id is not None}

    # -- of futures --

    def job_of(self, future: ClusterFuture[Any]) -> tuple[str, int | None]:
        """The job id of the task, and its index if it has one. Waits until it is submitted.

        Raises, if no job was made: the future's own exception; AttributeError, if it has none.
        """
        with self._has_job:
            # Before the first look at the future: see `announce`.
            self._waiting += 1
            try:
                self._has_job.wait_for(lambda: element_of(future) is not None or future.is_done())
            finally:
                self._waiting -= 1
        element = element_of(future)
        if element is None:
            future.result()
            raise AttributeError("no job was made for this future")
        if future.array is not None and future.array.indexed:
            return element.job_id, element.index
        return str(element), None

    def announce(self) -> None:
        """Wakes the threads in `job_of`: a task has a job, or a future is done.

        Mostly nobody waits there, and then no lock is taken. A thread that begins to wait just now
        looks at the future after it has counted itself, so it sees what is announced.
        """
        if self._waiting:
            with self._has_job:
                self._has_job.notify_all()

    def stats_of(self, future: ClusterFuture[Any]) -> CallStats:
        """What is known now about the last attempt of the call."""
        element = element_of(future)
        node, started_at = future.begun or (None, None)
        return call_stats(
            None if future.measured is None else read_measured(*future.measured),
            submitted_at=future.submitted_at,
            started_at=started_at,
            node=node,
            job_id=None if element is None else str(element),
            attempt=self._attempt_of(future),
            log=None if element is None else self.log_path(element),
        )

    @staticmethod
    def _attempt_of(future: ClusterFuture[Any]) -> int:
        array = future.array
        known = 1 if array is None else array.attempts.get(future.position, 1)
        return max(known, future.attempt)

    def log_path(self, element: Element) -> str:
        return self._scheduler.log_path(self._log_directory, element)

    # -- requests to the scheduler --

    def cancel(self, elements: Collection[Element]) -> None:
        """Cancels these elements. A failure is logged."""
        try:
            self._scheduler.cancel(elements, self._token)
        except (SchedulerError, OSError) as exc:
            some = ", ".join(map(str, list(elements)[:10]))
            _logger.warning("Elements %s could not be cancelled and may run: %s", some, exc)

    def stop(self, job_ids: Collection[str]) -> None:
        """Cancels these jobs and all others of this executor, unless jobs are to go on.

        Takes no lock. A failure is logged.
        """
        if self._lifecycle.leaves_jobs:
            return
        try:
            self._scheduler.stop(job_ids, self._token)
        except Exception:
            _logger.exception("the jobs %s could not be cancelled", ", ".join(job_ids))


def element_of(future: ClusterFuture[Any]) -> Element | None:
    """The element that runs the future's task, or will run it; None if it has no job yet."""
    array = future.array
    place = None if array is None else array.place_of(future.position)
    return None if place is None or place.job_id is None else place.element(future.position)
