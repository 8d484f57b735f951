"""What the client remembers of an array: its tasks' states, the jobs it was submitted as, where
tasks run.

    TaskArray: tasks first .. first + count - 1 of the run directory, submitted together
        CallArray (in `calls`): its tasks are calls, each with a future
        PilotArray (in `pilots`): its tasks are pilots
    Job: some tasks of an array, which the scheduler knows by one id

A task is named by its array and its position there. The ledger alone changes states, the submitter
alone makes jobs.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from cluster_tools.schedulers.base import Element


class State(enum.IntEnum):
    """What state a task is in. From `DONE` on it has ended."""

    # Its array is on the disk. It is not submitted yet, or goes in again.
    WRITTEN = 0
    # A job has it, or it is there for pilots to take.
    SUBMITTED = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5
    # Its executor was ended at once.
    ABANDONED = 6


# As plain numbers: they are compared with a byte for each task.
_RUNNING = int(State.RUNNING)
_FIRST_END = int(State.DONE)


class Place(Protocol):
    """Where tasks run."""

    @property
    def job_id(self) -> str | None: ...

    def element(self, position: int) -> Element: ...


@dataclass(eq=False)
class Job:
    """Tasks of an array that are one job, element for element.

    Positions count from the array's first task. They are in a row, but where tasks go in again.
    """

    array: TaskArray
    # Ascending.
    positions: Sequence[int]
    # How often the scheduler was given these tasks before.
    submission: int
    token: str
    # None until the scheduler has taken it.
    job_id: str | None = None
    # The scheduler's index of its first task.
    first_index: int = 0
    # At most so many of its elements run at a time; None: no limit of ours.
    at_a_time: int | None = None

    @property
    def is_array(self) -> bool:
        return self.array.is_array

    def tasks(self) -> Sequence[int]:
        """Their numbers in the run directory."""
        first, positions = self.array.first, self.positions
        if isinstance(positions, range):
            return range(first + positions.start, first + positions.stop)
        return [first + position for position in positions]

    def set_id(self, job_id: str) -> None:
        self.job_id = job_id
        self.array.add_job(self)

    def element(self, position: int) -> Element:
        assert self.job_id is not None
        return Element(self.job_id, self.index(position) if self.is_array else None)

    def index(self, position: int) -> int:
        """The scheduler's index of this task."""
        positions = self.positions
        if isinstance(positions, range):  # a bisection takes twenty times as long
            return self.first_index + position - positions.start
        return self.first_index + bisect_left(positions, position)

    def position(self, element: Element) -> int:
        number = (element.index or 0) - self.first_index if self.is_array else 0
        return self.positions[number]

    def is_open(self) -> bool:
        """Whether there are tasks that have not ended."""
        return any(self._is_open(position) for position in self.positions)

    def _is_open(self, position: int) -> bool:
        return self.array.is_open(position) and self.array.place_of(position) is self

    def open_positions(self) -> list[int]:
        """The tasks that have not ended."""
        return [position for position in self.positions if self._is_open(position)]


@dataclass(eq=False, kw_only=True)
class TaskArray(ABC):
    """Tasks that are submitted together."""

    # Its elements are pilots, which take calls of other arrays.
    runs_pilots: ClassVar[bool] = False

    name: str
    count: int
    # Its file.
    path: str
    number: int
    # The number of its first task in the run directory.
    first: int
    # Where its jobs run.
    working_directory: str
    # Made by map_to_futures or map: its futures have an index.
    indexed: bool = False
    # Its tasks are taken by pilots, and are no elements of their own.
    on_pilots: bool = False
    jobs: list[Job] = field(default_factory=list[Job])
    # Those of tasks that went in again, or that another job runs.
    later_jobs: list[Job] = field(default_factory=list[Job])
    # Where such tasks run, or those that a pilot has begun; by position.
    places: dict[int, Place] = field(default_factory=dict[int, Place])
    # Which attempt tasks are at that have gone in again; by position. Others are at their first.
    attempts: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        # A `State` for each task.
        self.states = bytearray(self.count)
        # How many tasks have not ended.
        self.open = self.count

    @property
    def is_array(self) -> bool:
        """Whether its jobs are arrays for the scheduler."""
        return self.indexed or self.count > 1

    def is_open(self, position: int) -> bool:
        """Whether the task has not ended."""
        return self.states[position] < _FIRST_END

    def open_positions(self) -> list[int]:
        return [position for position, state in enumerate(self.states) if state < _FIRST_END]

    def has_started(self, position: int) -> bool:
        """Whether the task is known to run, or has ended. In any thread."""
        return self.states[position] >= _RUNNING

    def has_cancelled(self) -> bool:
        return State.CANCELLED in self.states

    def was_cancelled(self, position: int) -> bool:
        return self.states[position] == State.CANCELLED

    def add_job(self, job: Job) -> None:
        first = job.positions[0]
        if job.submission == 0 and job.first_index == 0 and self.place_of(first) is None:
            self.jobs.append(job)
            return
        self.later_jobs.append(job)
        for position in job.positions:
            self.places[position] = job

    def all_jobs(self) -> list[Job]:
        return [*self.jobs, *self.later_jobs]

    def place_of(self, position: int) -> Place | None:
        """Where this task runs or waits since it was last submitted; None where it was not yet."""
        if position in self.places:
            return self.places[position]
        i = bisect_right(self.jobs, position, key=lambda job: job.positions[0]) - 1
        if i < 0 or position > self.jobs[i].positions[-1]:
            return None
        return self.jobs[i]

    def key(self, position: int) -> str | None:
        """The task's key in the output store; None where its output goes into the run directory."""
        return None

    @abstractmethod
    def describe(self, position: int) -> str:
        """Names the task, at the beginning of a sentence."""

    @abstractmethod
    def is_over(self, position: int) -> bool:
        """Whether nobody waits for the task any more. In any thread."""

    # -- what the ledger's owner tells whoever waits for the task --

    @abstractmethod
    def on_running(self, position: int) -> None: ...

    def on_measured(self, position: int, record: Mapping[str, Any]) -> None:
        """What the job has noted of the run, before `on_end`: an `OutputRecord`, or part of one."""

    @abstractmethod
    def on_end(self, position: int, result: Any, exception: BaseException | None) -> bool:
        """Returns: whether somebody waited for it until now."""

    @abstractmethod
    def on_cancelled(self, position: int) -> None:
        """Nobody waits for it any more: it was cancelled, or its executor ends at once."""


@dataclass(eq=False)
class Selection:
    """Tasks of an array that are to be submitted together, by position, ascending."""

    array: TaskArray
    positions: Sequence[int]
    # How often the scheduler was given them before.
    submission: int = 0
