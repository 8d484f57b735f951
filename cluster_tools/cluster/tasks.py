"""What the client remembers of an array: its futures, the pieces it was submitted in, their jobs.

    TaskArray: tasks first .. first + count - 1 of the run directory, submitted together
        Piece: some of them, one job

The resolver alone takes futures out of an array, the submitter alone makes its pieces.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.observers.failure_log import FailureLog
from cluster_tools.schedulers.base import Element


class Place(Protocol):
    """Where tasks run."""

    @property
    def job_id(self) -> str | None: ...

    def element(self, position: int) -> Element: ...


@dataclass(eq=False)
class Piece:
    """Tasks of an array that are one job, element for element.

    Positions count from the array's first task. They are in a row, but where tasks are submitted again.
    """

    array: TaskArray
    # Ascending.
    positions: Sequence[int]
    # How often the scheduler was given these tasks before.
    submission: int
    token: str
    # None until the scheduler has taken it.
    job_id: str | None = None
    # The job's index of its first task.
    first_index: int = 0
    # At most so many of its elements run at a time; None: no limit of ours.
    at_a_time: int | None = None

    @property
    def is_array(self) -> bool:
        return self.array.indexed or self.array.count > 1

    def tasks(self) -> Sequence[int]:
        """Their numbers in the run directory."""
        first, positions = self.array.first, self.positions
        if isinstance(positions, range):
            return range(first + positions.start, first + positions.stop)
        return [first + position for position in positions]

    def set_job(self, job_id: str) -> None:
        self.job_id = job_id
        self.array.add_piece(self)

    def element(self, position: int) -> Element:
        assert self.job_id is not None
        return Element(self.job_id, self.index(position) if self.is_array else None)

    def index(self, position: int) -> int:
        """The job's index of this task."""
        positions = self.positions
        if isinstance(positions, range):  # a bisection takes twenty times as long
            return self.first_index + position - positions.start
        return self.first_index + bisect_left(positions, position)

    def position(self, element: Element) -> int:
        number = (element.index or 0) - self.first_index if self.is_array else 0
        return self.positions[number]

    def is_open(self) -> bool:
        """Whether there are tasks that have not come to an end."""
        return any(self._is_open(position) for position in self.positions)

    def _is_open(self, position: int) -> bool:
        array = self.array
        return array.futures[position] is not None and array.piece_of(position) is self

    def open_positions(self) -> list[int]:
        """The tasks that have not come to an end."""
        return [position for position in self.positions if self._is_open(position)]


@dataclass(eq=False)
class TaskArray:
    """Tasks that are submitted together."""

    name: str
    # None once a task has come to its end.
    futures: list[ClusterFuture[Any] | None]
    # Made by map_to_futures or map: its futures have an index.
    indexed: bool
    # Their keys in the output store; None where outputs go into the run directory.
    keys: list[str] | None
    # The caller has named the keys: outputs stay.
    kept: bool
    path: str
    number: int
    # The number of its first task in the run directory.
    first: int
    # Where its jobs run.
    working_directory: str
    # What the caller counts as each task's position, among `total`.
    numbers: Sequence[int]
    total: int
    # They run on pilots, or are those.
    on_pilots: bool = False
    runs_pilots: bool = False
    pieces: list[Piece] = field(default_factory=list[Piece])
    # Tasks that were cancelled, by position: a job that comes for one later is cancelled, too.
    cancelled: set[int] = field(default_factory=set[int])
    # Where tasks run that the scheduler was given again, that another job runs or a pilot; by position.
    again: dict[int, Place] = field(default_factory=dict[int, Place])
    # Pieces of such.
    later_pieces: list[Piece] = field(default_factory=list[Piece])

    def __post_init__(self) -> None:
        self.count = len(self.futures)
        self.open = self.count
        self.failures = FailureLog(self.count)
        for position, future in enumerate(self.futures):
            assert future is not None
            future.position = position
            future.array = self

    def add_piece(self, piece: Piece) -> None:
        first = piece.positions[0]
        if piece.submission == 0 and piece.first_index == 0 and self.piece_of(first) is None:
            self.pieces.append(piece)
            return
        self.later_pieces.append(piece)
        for position in piece.positions:
            self.again[position] = piece

    def piece_of(self, position: int) -> Place | None:
        """Where this task runs or waits since it was last submitted; None where it was not yet."""
        if position in self.again:
            return self.again[position]
        i = bisect_right(self.pieces, position, key=lambda piece: piece.positions[0]) - 1
        if i < 0 or position > self.pieces[i].positions[-1]:
            return None
        return self.pieces[i]

    def describe(self, position: int) -> str:
        """Names the task, at the beginning of a sentence."""
        if self.total == 1:
            return f"The call of {self.name}"
        return f"Task {self.numbers[position]} of {self.total} of {self.name}"
