"""Which state each task of an executor is in: the one place where that is kept, and changed.

    what has happened --> resolver --> Ledger.change() --> TaskArray.states, one byte a task

A change that makes no sense any more is refused, not an error: what was noticed comes late, twice,
and in any order (an output after the cancellation, the claim after the output). Used in the
resolver's thread alone; others may read states.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from cluster_tools.cluster.tasks import State, TaskArray

_ENDS = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.ABANDONED})
_NONE: frozenset[State] = frozenset()
# What may follow on each state, in their order. Back to WRITTEN: it goes in again. RUNNING may be
# seen before the answer of the submission.
_NEXT: tuple[frozenset[State], ...] = (
    _ENDS | {State.SUBMITTED, State.RUNNING},  # WRITTEN
    _ENDS | {State.RUNNING, State.WRITTEN},  # SUBMITTED
    _ENDS | {State.WRITTEN},  # RUNNING
    *[_NONE] * len(_ENDS),
)
# By this table `bytes.translate` submits many tasks at once.
_SUBMITTED = bytes(
    State.SUBMITTED if byte < len(_NEXT) and State.SUBMITTED in _NEXT[byte] else byte
    for byte in range(256)
)


class Ledger:
    """Arrays with open tasks.

    `on_change`: called after each change of one task, while somebody observes tasks; else None.
    """

    def __init__(self, on_change: Callable[[TaskArray, int, State], None] | None = None) -> None:
        self._on_change = on_change
        # By first task, and those numbers in order.
        self._arrays: dict[int, TaskArray] = {}
        self._firsts: list[int] = []
        # How many calls are in each state, or have ended in it.
        self.counts = [0] * len(State)

    def add(self, array: TaskArray) -> None:
        if not array.runs_pilots:
            self.counts[State.WRITTEN] += array.count
        self._firsts.insert(bisect_right(self._firsts, array.first), array.first)
        self._arrays[array.first] = array

    def remove(self, array: TaskArray) -> None:
        self._firsts.remove(array.first)
        del self._arrays[array.first]

    def arrays(self) -> list[TaskArray]:
        return list(self._arrays.values())

    def has(self, array: TaskArray) -> bool:
        return array.first in self._arrays

    def is_empty(self) -> bool:
        """In any thread."""
        return not self._arrays

    def locate(self, task: int) -> tuple[TaskArray, int] | None:
        """The array of an open task, and its position there."""
        i = bisect_right(self._firsts, task) - 1
        if i < 0:
            return None
        array = self._arrays[self._firsts[i]]
        position = task - array.first
        if position >= array.count or not array.is_open(position):
            return None
        return array, position

    def change(self, array: TaskArray, position: int, state: State) -> bool:
        """Puts the task into this state.

        Returns: False where it can't follow on the one it is in.
        """
        before = array.states[position]
        if state not in _NEXT[before]:
            return False
        array.states[position] = state
        if not array.runs_pilots:
            self.counts[before] -= 1
            self.counts[state] += 1
        if state == State.WRITTEN:
            array.attempts[position] = array.attempts.get(position, 1) + 1
        if state in _ENDS:
            array.open -= 1
        if self._on_change is not None:
            self._on_change(array, position, state)
        return True

    def submitted(self, array: TaskArray, positions: Sequence[int]) -> None:
        """The same for many tasks that are submitted, as far as they are not further already."""
        if isinstance(positions, range) and self._on_change is None:
            part = slice(positions.start, positions.stop)
            if not array.runs_pilots:
                written = array.states[part].count(State.WRITTEN)
                self.counts[State.WRITTEN] -= written
                self.counts[State.SUBMITTED] += written
            array.states[part] = array.states[part].translate(_SUBMITTED)
            return
        for position in positions:
            self.change(array, position, State.SUBMITTED)
