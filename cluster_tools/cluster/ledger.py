"""The states of an executor's tasks. Only the ledger changes them.

    events --> resolver --> Ledger.change() --> TaskArray.states, one byte for each task

A change that is not possible is refused, and is no error: events arrive late, twice, and in any
order (an output after the cancellation, a claim after the output). Only the resolver's thread may
change states; other threads may read them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from cluster_tools.cluster.tasks import State, TaskArray

_ENDS = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.ABANDONED})
_NONE: frozenset[State] = frozenset()
# For each state, in the order of `State`: the states that may follow it. A task that goes in again
# is WRITTEN again. A task may be RUNNING before the scheduler has answered its submission.
_NEXT: tuple[frozenset[State], ...] = (
    _ENDS | {State.SUBMITTED, State.RUNNING},  # WRITTEN
    _ENDS | {State.RUNNING, State.WRITTEN},  # SUBMITTED
    _ENDS | {State.WRITTEN},  # RUNNING
    *[_NONE] * len(_ENDS),
)
# A table for `bytes.translate`, which changes many tasks to SUBMITTED at once.
_SUBMITTED = bytes(
    State.SUBMITTED if byte < len(_NEXT) and State.SUBMITTED in _NEXT[byte] else byte
    for byte in range(256)
)


class Ledger:
    """The arrays of one executor that have open tasks, and the number of calls in each state.

    `on_change`: called after each change of a task; None if no observer observes tasks.
    """

    def __init__(self, on_change: Callable[[TaskArray, int, State], None] | None = None) -> None:
        self._on_change = on_change
        # The arrays by the number of their first task; those numbers in ascending order.
        self._arrays: dict[int, TaskArray] = {}
        self._firsts: list[int] = []
        # How many calls are in each state. Those in a final state are counted for ever.
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
        """Whether no array has open tasks. May be called in any thread."""
        return not self._arrays

    def locate(self, task: int) -> tuple[TaskArray, int] | None:
        """The array of an open task, and its position there; None if the task is not open."""
        i = bisect_right(self._firsts, task) - 1
        if i < 0:
            return None
        array = self._arrays[self._firsts[i]]
        position = task - array.first
        if position >= array.count or not array.is_open(position):
            return None
        return array, position

    def change(self, array: TaskArray, position: int, state: State) -> bool:
        """Puts the task into this state. Returns: False if it can't follow the present state."""
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
        """Puts these tasks into SUBMITTED, except those for which that is not possible."""
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
