"""Submits tasks to the scheduler, in pieces that obey its limits and `max_workers`.

    Selection --> pieces, each as large as the limits allow --> Scheduler.submit --> Jobs

There is one submission at a time. Limits are looked up only after the scheduler has refused the
whole for its size or its count. A submission that fails is tried again, or its error is raised.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from cluster_tools.cluster.arrays import Arrays
from cluster_tools.cluster.cancellation import Cancellation
from cluster_tools.cluster.cutting import Cutter
from cluster_tools.cluster.jobs import Jobs
from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.tasks import Job, Selection, TaskArray
from cluster_tools.job.pilot import WARNING_S
from cluster_tools.schedulers.base import (
    ArrayRequest,
    RefusedForCount,
    RefusedForSize,
    Scheduler,
    SchedulerError,
    Uncertain,
    Unreachable,
)

_T = TypeVar("_T")

# How long to try to reach a scheduler that does not answer: restarts and failovers take minutes.
_UNREACHABLE_PATIENCE_S = 900.0
_FIRST_RETRY_S = 1.0
_MAX_RETRY_S = 30.0
# The shortest time between two counts of the elements that hold slots.
_MIN_RECOUNT_S = 0.02
# How often to look for a job whose submission had no answer: it may appear a little later.
_FIND_TRIES = 3
_MAX_UNCERTAIN = 5

_logger = logging.getLogger("cluster_tools")


class Aborted(Exception):
    """The executor ends, so the rest of the tasks is not submitted."""


class Submission:
    """Submits tasks of one executor. Belongs to one submitter thread.

    `max_workers`: how many calls may run at a time; None: as many as the scheduler allows.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        directory: RunDirectory,
        arrays: Arrays,
        jobs: Jobs,
        cancellation: Cancellation,
        lifecycle: Lifecycle,
        *,
        max_workers: int | None,
    ):
        self._scheduler = scheduler
        self._directory = directory
        self._arrays = arrays
        self._jobs = jobs
        self._cancellation = cancellation
        self._lifecycle = lifecycle
        self._max_workers = max_workers
        # Wakes the thread when there may be room in the scheduler's queue, or when the executor
        # ends. Not an Event: `wake` may interrupt any code, and must not wait for an Event's lock.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._waiting = False
        self._room_interval_s = _FIRST_RETRY_S

    def wake(self) -> None:
        """Wakes the thread if it waits. May be called in any thread."""
        self._wakes.put(None)

    def make_room(self) -> None:
        """An element has ended, so there may be room for others. May be called in any thread."""
        if self._waiting:
            self.wake()

    def submit(self, selection: Selection) -> None:
        """Submits these tasks in pieces, and removes each submitted piece from `selection`.

        Raises: Aborted; SchedulerError, if trying again does not help; OSError; NotOurs.
        """
        self._check()
        cutter = Cutter(self._scheduler, self._jobs.elements_in_queue)
        array = selection.array
        while selection.positions:
            count = cutter.size(len(selection.positions))
            if self._all_over(array, selection.positions[:count]):  # all were cancelled
                selection.positions = selection.positions[count:]
                continue
            at_a_time = None
            if self._max_workers is not None and not array.runs_pilots:
                at_a_time = self._free_slots(self._max_workers, count)
                if not at_a_time:
                    self._wait_for_slots()
                    continue
                if at_a_time < self._max_workers:
                    count = min(count, at_a_time)
            positions = selection.positions[:count]
            job = Job(
                array,
                positions,
                selection.submission,
                f"{self._directory.token}.{array.number}.{positions[0]}.{selection.submission}",
                at_a_time=at_a_time,
            )
            self._revoke_cancelled(job)
            try:
                job_id = self._submit(job)
            except (RefusedForSize, RefusedForCount) as refusal:
                leaving = cutter.on_refused(refusal, count)
                if leaving is not None:
                    self._wait_for_room(job, leaving, refusal)
                continue
            cutter.on_taken(count)
            self._room_interval_s = _FIRST_RETRY_S
            self._jobs.add(job, job_id)
            selection.positions = selection.positions[count:]

    def _free_slots(self, limit: int, count: int) -> int:
        """How many of `count` elements may run now, if no more than `limit` may run at a time.

        Each job holds as many slots as its open elements can fill, within its own `at_a_time`. A
        large array waits until all slots are free; otherwise it would need many small submissions.
        """
        held = self._jobs.slots_held()
        if held and count > 2 * limit:
            return 0
        return max(0, limit - held)

    def _wait_for_slots(self) -> None:
        """Waits until an element has ended, or for a second.

        Elements that end closely after each other wake it once, because counting slots takes time.
        """
        self._sleep(_FIRST_RETRY_S)
        time.sleep(_MIN_RECOUNT_S)
        while not self._wakes.empty():
            self._wakes.get()
        self._check()

    def _revoke_cancelled(self, job: Job) -> None:
        """Revokes the cancelled tasks of the job: their elements will be submitted, too."""
        for position in job.positions:
            if job.array.is_over(position):
                self._cancellation.revoke(job.array, position)

    @staticmethod
    def _all_over(array: TaskArray, positions: Sequence[int]) -> bool:
        """Whether all these tasks are over."""
        return all(array.is_over(position) for position in positions)

    def _wait_for_room(self, job: Job, leaving: int, refusal: SchedulerError) -> None:
        """Waits until `leaving` elements of this executor have left the queue, or for a time.

        The time has a limit because jobs of other programs may be what fills the queue.
        """
        if self._room_interval_s == _FIRST_RETRY_S:  # the first time
            _logger.warning(
                "%d tasks of %s wait for room in the queue: %s",
                len(job.positions),
                job.array.name,
                refusal,
            )
        enough = self._jobs.elements_in_queue() - leaving
        deadline = time.monotonic() + self._room_interval_s
        self._room_interval_s = min(_MAX_RETRY_S, self._room_interval_s * 2)
        while time.monotonic() < deadline:
            self._check()
            if self._jobs.elements_in_queue() <= enough:
                break
            if self._all_over(job.array, job.positions):
                return
            self._sleep(_FIRST_RETRY_S)
        # The scheduler counts elements for a moment after they have ended.
        self._pause(_FIRST_RETRY_S / 2)

    def _submit(self, job: Job) -> str:
        """Submits one job, and tries again if that may help. Returns: the job's id.

        Raises: Aborted; SchedulerError; OSError; NotOurs.
        """
        runs_pilots = job.array.runs_pilots
        request = ArrayRequest(
            name=job.array.name,
            token=job.token,
            count=len(job.positions),
            is_array=job.is_array,
            command=self._arrays.worker_command(job),
            working_directory=job.array.working_directory,
            run_directory=self._directory.path,
            # A pilot that ends is replaced by the pool, so the scheduler need not restart it.
            may_run_again=not runs_pilots,
            warning_s=WARNING_S if runs_pilots else None,
            at_a_time=job.at_a_time,
        )

        def submit() -> str:
            if self._directory.is_replaced():  # its files may be another user's
                raise self._directory.replaced()
            return self._scheduler.submit(request)

        uncertain = 0
        while True:
            self._check()
            try:
                return self._reach(submit)
            except Uncertain as exc:
                uncertain += 1
                _logger.warning("Whether %s was submitted is not certain: %s", request.name, exc)
                for _ in range(_FIND_TRIES):
                    job_id = self._reach(lambda: self._scheduler.find(job.token))
                    if job_id is not None:
                        return job_id
                    self._pause(_FIRST_RETRY_S)
                if uncertain == _MAX_UNCERTAIN:
                    raise

    def _reach(self, ask: Callable[[], _T]) -> _T:
        """Calls `ask` until the scheduler can be reached. Returns: what `ask` returns.

        Raises: Unreachable, after 15 minutes; Aborted; other exceptions of `ask`.
        """
        began = time.monotonic()
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                return ask()
            except Unreachable as exc:
                if time.monotonic() - began > _UNREACHABLE_PATIENCE_S:
                    raise
                if retry_s == _FIRST_RETRY_S:
                    _logger.warning("The scheduler can't be reached; trying again: %s", exc)
            self._pause(retry_s)
            retry_s = min(_MAX_RETRY_S, retry_s * 2)

    def _pause(self, seconds: float) -> None:
        """Sleeps for `seconds`. Raises: Aborted, as soon as the executor ends."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            self._sleep(left)
        self._check()

    def _sleep(self, seconds: float) -> None:
        """Sleeps until `wake` is called, but at most for `seconds`."""
        self._waiting = True
        try:
            self._wakes.get(timeout=seconds)
        except queue.Empty:
            pass
        finally:
            self._waiting = False

    def _check(self) -> None:
        """Raises: Aborted, if the executor ends."""
        if self._lifecycle.aborted or self._lifecycle.ending:
            raise Aborted
