"""Arrays of tasks, as the client knows them: states of tasks, jobs, and where tasks run.

    TaskArray: tasks first .. first + count - 1 of the run directory, submitted together
        CallArray (in `calls`): its tasks are calls, each with a future
        PilotArray (in `pilots`): its tasks are pilots
    Job: tasks of an array that the scheduler has under one id

A task is identified by its array and its position in the array. Only the ledger changes states.
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
    """The state of a task. A task in state `DONE` or a later one has ended."""

    # The array's file is on the disk. The task is not submitted yet, or goes in again.
    WRITTEN = 0
    # The task has a job, or is offered to pilots.
    SUBMITTED = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5
    # The executor was aborted.
    ABANDONED = 6


# Plain numbers, which are compared faster with the bytes of `TaskArray.states`.
_RUNNING = int(State.RUNNING)
_FIRST_END = int(State.DONE)


class Place(Protocol):
    """Where tasks run: a job, or a pilot's element."""

    @property
    def job_id(self) -> str | None: ...

    def element(self, position: int) -> Element: ...


@dataclass(eq=False)
class Job:
    """Tasks of an array that are submitted as one job, with an element for each task."""

    array: TaskArray
    # Positions in the array, ascending. A range, unless tasks go in again.
    positions: Sequence[int]
    # How often these tasks were submitted before.
    submission: int
    token: str
    # None until the scheduler has taken the job.
    job_id: str | None = None
    # The scheduler's index of its first task.
    first_index: int = 0
    # How many of its elements may run at a time; None: as many as the scheduler allows.
    at_a_time: int | None = None

    @property
    def is_array(self) -> bool:
        return self.array.is_array

    def tasks(self) -> Sequence[int]:
        """The numbers of its tasks in the run directory."""
        first, positions = self.array.first, self.positions
        if isinstance(positions, range):
            return range(first + positions.start, first + positions.stop)
        return [first + position for position in positions]

    def set_id(self, job_id: str) -> None:
        """Notes the scheduler's id, and adds the job to its array."""
        self.job_id = job_id
        self.array.add_job(self)

    def element(self, position: int) -> Element:
        """The element of the task at this position of the array."""
        assert self.job_id is not None
        return Element(self.job_id, self.index(position) if self.is_array else None)

    def index(self, position: int) -> int:
        """The scheduler's index of this task."""
        positions = self.positions
        if isinstance(positions, range):  # bisect takes twenty times as long
            return self.first_index + position - positions.start
        return self.first_index + bisect_left(positions, position)

    def position(self, element: Element) -> int:
        """The position in the array of this element's task."""
        number = (element.index or 0) - self.first_index if self.is_array else 0
        return self.positions[number]

    def is_open(self) -> bool:
        """Whether it has tasks that have not ended and that no other job runs now."""
        return any(self._is_open(position) for position in self.positions)

    def _is_open(self, position: int) -> bool:
        return self.array.is_open(position) and self.array.place_of(position) is self

    def open_positions(self) -> list[int]:
        """The positions of tasks that have not ended and that no other job runs now."""
        return [position for position in self.positions if self._is_open(position)]


@dataclass(eq=False, kw_only=True)
class TaskArray(ABC):
    """Tasks that are submitted together, in one file."""

    # Whether its tasks are pilots, which run the calls of other arrays.
    runs_pilots: ClassVar[bool] = False

    # The name in the scheduler's queue, and how many tasks there are.
    name: str
    count: int
    # The path of its file, and its number in the run directory.
    path: str
    number: int
    # The number of its first task in the run directory.
    first: int
    # The directory in which its jobs run.
    working_directory: str
    # It was made by `map_to_futures` or `map`: its futures have an index.
    indexed: bool = False
    # Pilots run its tasks, which have no elements of their own.
    on_pilots: bool = False
    # The jobs of first submissions, by ascending positions.
    jobs: list[Job] = field(default_factory=list[Job])
    # The jobs of tasks that went in again, or whose earlier submission was found to run.
    later_jobs: list[Job] = field(default_factory=list[Job])
    # Position -> where the task runs, if that is one of `later_jobs` or a pilot.
    places: dict[int, Place] = field(default_factory=dict[int, Place])
    # Position -> the number of the attempt, if the task has gone in again. Others: the first.
    attempts: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        # One byte for each task: its `State`.
        self.states = bytearray(self.count)
        # The number of tasks that have not ended.
        self.open = self.count

    @property
    def is_array(self) -> bool:
        """Whether its jobs are submitted as arrays of the scheduler."""
        return self.indexed or self.count > 1

    def is_open(self, position: int) -> bool:
        """Whether the task has not ended."""
        return self.states[position] < _FIRST_END

    def open_positions(self) -> list[int]:
        return [position for position, state in enumerate(self.states) if state < _FIRST_END]

    def has_started(self, position: int) -> bool:
        """Whether the task is known to run, or has ended. May be called in any thread."""
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
        """The job or pilot of the task's last submission; None if it was not submitted yet."""
        if position in self.places:
            return self.places[position]
        i = bisect_right(self.jobs, position, key=lambda job: job.positions[0]) - 1
        if i < 0 or position > self.jobs[i].positions[-1]:
            return None
        return self.jobs[i]

    def key(self, position: int) -> str | None:
        """The task's key in the output store; None if its output goes into the run directory."""
        return None

    @abstractmethod
    def describe(self, position: int) -> str:
        """Names the task, as the beginning of a sentence."""

    @abstractmethod
    def is_over(self, position: int) -> bool:
        """Whether the task's future is done, or its pilot has ended. May be called in any thread.

        Then the task need not begin any more.
        """

    # -- called by the resolver --

    @abstractmethod
    def on_running(self, position: int) -> None:
        """The task is known to run."""
        ...

    def on_measured(self, position: int, record: Mapping[str, Any]) -> None:
        """The job has measured the run. Called before `on_end`.

        `record`: an `OutputRecord` as a dict, or a part of one.
        """

    @abstractmethod
    def on_end(self, position: int, result: Any, exception: BaseException | None) -> bool:
        """The task has ended. Returns: False if its future was done, or its pilot dismissed."""

    @abstractmethod
    def on_cancelled(self, position: int) -> None:
        """The task was cancelled, or its executor was aborted."""


@dataclass(eq=False)
class Selection:
    """Tasks of an array that are to be submitted together."""

    array: TaskArray
    # Ascending.
    positions: Sequence[int]
    # How often these tasks were submitted before.
    submission: int = 0
