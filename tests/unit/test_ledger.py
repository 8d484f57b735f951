"""Promises on the states of tasks: what may follow on what, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_tools.cluster.events import (
    ArrayEnded,
    Event,
    Observers,
    TaskChanged,
)
from cluster_tools.cluster.ledger import Ledger
from cluster_tools.cluster.tasks import State, TaskArray

ENDS = [State.DONE, State.FAILED, State.CANCELLED, State.ABANDONED]
# What may follow on a state that is no end; nothing follows on an end.
FOLLOWING = {
    State.WRITTEN: [State.SUBMITTED, State.RUNNING, *ENDS],
    State.SUBMITTED: [State.WRITTEN, State.RUNNING, *ENDS],
    State.RUNNING: [State.WRITTEN, *ENDS],
}


class _Array(TaskArray):
    def describe(self, position: int) -> str:
        return "It"

    def is_over(self, position: int) -> bool:
        return not self.is_open(position)

    def on_running(self, position: int) -> None:
        pass

    def on_end(self, position: int, result: Any, exception: BaseException | None) -> bool:
        return True

    def on_cancelled(self, position: int) -> None:
        pass


def _array(count: int, first: int = 0) -> TaskArray:
    return _Array(
        name="call", count=count, path="array", number=first, first=first, working_directory="/"
    )


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_only_what_may_follow_changes_a_state(before: State, after: State) -> None:
    ledger, array = Ledger(), _array(1)
    ledger.add(array)
    array.states[0] = before
    may_follow = after in FOLLOWING.get(before, [])
    assert ledger.change(array, 0, after) is may_follow
    assert array.states[0] == (after if may_follow else before)


@pytest.mark.parametrize("observed", [False, True])
def test_submitting_many_leaves_those_that_are_further(observed: bool) -> None:
    changed: list[int] = []

    def on_change(array: TaskArray, position: int, state: State) -> None:
        changed.append(position)

    ledger, array = Ledger(on_change if observed else None), _array(len(State) + 1)
    ledger.add(array)
    for position, state in enumerate(State):
        array.states[position] = state
    ledger.submitted(array, range(array.count))
    assert list(array.states) == [State.SUBMITTED, *list(State)[1:], State.SUBMITTED]
    assert changed == ([0, len(State)] if observed else [])


def test_tasks_that_are_no_row_are_submitted_alone() -> None:
    ledger, array = Ledger(), _array(4)
    ledger.submitted(array, [1, 3])
    assert list(array.states) == [0, State.SUBMITTED, 0, State.SUBMITTED]


def test_open_tasks_are_found_by_their_numbers() -> None:
    ledger, first, second = Ledger(), _array(3, 0), _array(2, 10)
    for array in (second, first):
        ledger.add(array)
    assert ledger.locate(2) == (first, 2)
    assert ledger.locate(11) == (second, 1)
    assert ledger.locate(3) is ledger.locate(12) is None
    assert ledger.change(second, 1, State.DONE)
    assert ledger.locate(11) is None
    assert (first.open, second.open) == (3, 1)
    ledger.remove(first)
    assert ledger.locate(2) is None
    assert ledger.arrays() == [second]


class _Observer:
    def __init__(self, *, observes_tasks: bool):
        self.observes_tasks = observes_tasks
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)


class _Broken:
    observes_tasks = True

    def on_event(self, event: Event) -> None:
        raise ZeroDivisionError


def test_who_observes_tasks_is_told_of_each_and_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    close, distant = _Observer(observes_tasks=True), _Observer(observes_tasks=False)
    observers = Observers([_Broken(), close, distant])
    ledger, array = Ledger(observers.on_change), _array(2)
    ledger.change(array, 1, State.RUNNING)
    ledger.change(array, 1, State.SUBMITTED)
    assert close.events == [TaskChanged(array, 1, State.RUNNING)]
    assert distant.events == []
    observers.tell(ArrayEnded(array))
    assert close.events[1:] == distant.events == [ArrayEnded(array)]
    assert "an observer could not take in TaskChanged" in caplog.text


def test_without_an_observer_of_tasks_no_event_is_made_for_one() -> None:
    assert Observers([_Observer(observes_tasks=False)]).on_change is None
