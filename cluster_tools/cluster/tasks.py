"""What the client remembers of an array: its futures, the pieces it was submitted in, their jobs.

    TaskArray: tasks first .. first + count - 1 of the run directory, submitted together
        Piece: some of them in a row, one job

The resolver alone takes futures out of an array, the submitter alone makes its pieces.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.failure_log import FailureLog
from cluster_tools.schedulers.base import Element


@dataclass(eq=False)
class Piece:
    """Tasks of an array in a row that are one job. Positions count from the array's first task."""

    array: TaskArray
    start: int
    count: int
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

    def set_job(self, job_id: str) -> None:
        self.job_id = job_id
        self.array.add_piece(self)

    def element(self, position: int) -> Element:
        assert self.job_id is not None
        index = position - self.start + self.first_index
        return Element(self.job_id, index if self.is_array else None)

    def position(self, element: Element) -> int:
        return self.start + ((element.index or 0) - self.first_index if self.is_array else 0)

    def is_open(self) -> bool:
        """Whether there are tasks that have not come to an end."""
        positions = range(self.start, self.start + self.count)
        return any(self._is_open(position) for position in positions)

    def _is_open(self, position: int) -> bool:
        array = self.array
        return array.futures[position] is not None and array.piece_of(position) is self

    def open_positions(self) -> list[int]:
        """The tasks that have not come to an end."""
        positions = range(self.start, self.start + self.count)
        return [position for position in positions if self._is_open(position)]


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
    # Pieces of tasks that the scheduler was given again, or that another job runs: by position, and all.
    again: dict[int, Piece] = field(default_factory=dict[int, Piece])
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
        if piece.submission == 0 and piece.first_index == 0 and not self._has_job(piece.start):
            self.pieces.append(piece)
            return
        self.later_pieces.append(piece)
        for position in range(piece.start, piece.start + piece.count):
            self.again[position] = piece

    def _has_job(self, position: int) -> bool:
        return self.piece_of(position) is not None

    def piece_of(self, position: int) -> Piece | None:
        """The piece that this task was last submitted in; None where it was not yet."""
        if position in self.again:
            return self.again[position]
        i = bisect_right(self.pieces, position, key=lambda piece: piece.start) - 1
        if i < 0 or position >= self.pieces[i].start + self.pieces[i].count:
            return None
        return self.pieces[i]

    def describe(self, position: int) -> str:
        """Names the task, at the beginning of a sentence."""
        if self.total == 1:
            return f"The call of {self.name}"
        return f"Task {self.numbers[position]} of {self.total} of {self.name}"
