"""Hands tasks to the scheduler, cut to its limits and to `max_workers`.

    Selection --> pieces, each as large as the limits allow --> Scheduler.submit --> Jobs

One submission is in flight at a time. No limit is asked for up front: the scheduler is asked to
take the whole, and when it refuses for size or count the limit is looked up. What goes wrong is
tried again, or raised.
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

# A scheduler that can't be reached is tried again for so long: restarts and failovers take minutes.
_UNREACHABLE_PATIENCE_S = 900.0
_FIRST_RETRY_S = 1.0
_MAX_RETRY_S = 30.0
# Between two counts of the elements that hold slots, at least.
_MIN_RECOUNT_S = 0.02
# After a submission whose answer was lost, the job may show up in the queue a little later.
_FIND_TRIES = 3
_MAX_UNCERTAIN = 5

_logger = logging.getLogger("cluster_tools")


class Aborted(Exception):
    """The executor ends at once; what is not submitted will not be."""


class Submission:
    """One thread's way to the scheduler.

    `max_workers`: at most so many calls run at a time; None: no limit of ours.
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
        # Wakes the thread when there may be room in the scheduler's queue, or the executor ends. No
        # Event: those who wake may do so in the middle of anything.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._waiting = False
        self._room_interval_s = _FIRST_RETRY_S

    def wake(self) -> None:
        """In any thread."""
        self._wakes.put(None)

    def make_room(self) -> None:
        """An element has ended. In any thread."""
        if self._waiting:
            self.wake()

    def submit(self, selection: Selection) -> None:
        """Submits these tasks in pieces; `selection` keeps what is left.

        Raises: Aborted; whatever the scheduler raises for good, or the disk.
        """
        self._check()
        cutter = Cutter(self._scheduler, self._jobs.elements_in_queue)
        array = selection.array
        while selection.positions:
            count = cutter.size(len(selection.positions))
            if self._all_over(array, selection.positions[:count]):  # cancelled meanwhile
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
        """How many of `count` elements may run now, where no more than `limit` run at a time.

        An array holds as many slots as its open elements can fill, so the next one is not throttled
        for itself alone. A long one waits until all are free: else it would go in by many small
        submissions.
        """
        held = self._jobs.slots_held()
        if held and count > 2 * limit:
            return 0
        return max(0, limit - held)

    def _wait_for_slots(self) -> None:
        """Until an element has ended, or for a while.

        Counting costs something: so not for each of many.
        """
        self._sleep(_FIRST_RETRY_S)
        time.sleep(_MIN_RECOUNT_S)
        while not self._wakes.empty():
            self._wakes.get()
        self._check()

    def _revoke_cancelled(self, job: Job) -> None:
        """What was cancelled does not begin even if its element does."""
        for position in job.positions:
            if job.array.is_over(position):
                self._cancellation.revoke(job.array, position)

    @staticmethod
    def _all_over(array: TaskArray, positions: Sequence[int]) -> bool:
        return all(array.is_over(position) for position in positions)

    def _wait_for_room(self, job: Job, leaving: int, refusal: SchedulerError) -> None:
        """Until so many of our own elements have left the queue, or for a while: others' may be in
        the way.
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
        # What has just ended is counted by the scheduler for a moment longer.
        self._pause(_FIRST_RETRY_S / 2)

    def _submit(self, job: Job) -> str:
        """Submits until the scheduler has taken it or refuses for good. Returns: the job's id."""
        runs_pilots = job.array.runs_pilots
        request = ArrayRequest(
            name=job.array.name,
            token=job.token,
            count=len(job.positions),
            is_array=job.is_array,
            command=self._arrays.worker_command(job),
            working_directory=job.array.working_directory,
            run_directory=self._directory.path,
            # What a pilot has not begun goes to the others.
            may_run_again=not runs_pilots,
            warning_s=WARNING_S if runs_pilots else None,
            at_a_time=job.at_a_time,
        )

        def submit() -> str:
            if self._directory.is_replaced():  # what the scheduler would read there is not ours
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
        """Asks until the scheduler can be reached. Raises: Unreachable, after minutes."""
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
        """Sleeps, but not beyond the end of an executor that ends at once."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            self._sleep(left)
        self._check()

    def _sleep(self, seconds: float) -> None:
        """Until somebody wakes the thread, at the longest so long."""
        self._waiting = True
        try:
            self._wakes.get(timeout=seconds)
        except queue.Empty:
            pass
        finally:
            self._waiting = False

    def _check(self) -> None:
        if self._lifecycle.aborted or self._lifecycle.ending:
            raise Aborted
