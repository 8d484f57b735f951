"""Promises on what is concluded from a scheduler's answers: of silence, nothing at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.cluster.probing import Docket
from cluster_tools.cluster.tasks import Piece, TaskArray
from cluster_tools.format import run_files
from cluster_tools.schedulers.base import Cause, Element, Ending, Report, State
from cluster_tools.schedulers.slurm.commands import queue_rows
from support.waiting import wait_until

JOB = "1632"
PENDING, RUNNING = Report(State.PENDING, "PENDING", "Priority"), Report(State.RUNNING, "RUNNING")
ENDED = Report(State.ENDED, "CANCELLED")


class _Session:
    """Notes what it is told."""

    late_files_s = 0.0

    def __init__(self, pending_timeout_s: float | None = None):
        self.pending_timeout_s = pending_timeout_s
        self.directory = self.scheduler = self
        self.outputs: dict[int, list[str]] = {}
        self.dead: list[tuple[Element, Ending]] = []
        self.cancelled: list[Element] = []
        self.seen: list[str] = []
        self.logs: dict[Element, str] = {}

    def look_again(self, tasks: Iterable[int]) -> tuple[dict[int, list[str]], dict[int, OSError]]:
        return {task: self.outputs[task] for task in tasks if task in self.outputs}, {}

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        assert set(jobs) == {JOB}
        return {element: Ending(Cause.EXIT, "it ended") for element in ended}

    def log_path(self, element: Element) -> str:
        return self.logs.get(element, "/no/log")

    def on_dead(self, piece: Piece, element: Element, ending: Ending) -> None:
        assert piece.element(piece.position(element)) == element
        self.dead.append((element, ending))

    def on_seen(self, names: Sequence[str]) -> None:
        self.seen += names

    def cancel_elements(self, elements: Collection[Element]) -> None:
        self.cancelled += elements


class _Future:
    array: Any = None
    position = 0
    started = False

    def has_started(self) -> bool:
        return self.started


def _piece(count: int) -> Piece:
    futures: list[Any] = [_Future() for _ in range(count)]
    array = TaskArray(
        name="call",
        futures=futures,
        indexed=True,
        keys=None,
        kept=False,
        path="array.0",
        number=0,
        first=0,
        working_directory="/",
        numbers=range(count),
        total=count,
    )
    piece = Piece(array, range(count), 0, "0a1b2c3d.0.0.0")
    piece.set_job(JOB)
    return piece


def _docket(session: _Session) -> Docket:
    as_session: Any = session
    return Docket(as_session)


def _elements(*indexes: int) -> list[Element]:
    return [Element(JOB, index) for index in indexes]


def test_a_row_without_an_index_stands_for_all_that_have_none_of_their_own() -> None:
    """As slurmctld reports what was left of an array that was cancelled."""
    session, piece = _Session(), _piece(4)
    rows = queue_rows(
        f"{JOB}|CANCELLED|None|call.0a1b2c3d.0.0.0\n{JOB}_1|RUNNING|None|call.0a1b2c3d.0.0.0\n"
    )
    reports = {
        Element(row.job_id, row.index): ENDED if row.state == "CANCELLED" else RUNNING
        for row in rows
    }
    _docket(session).judge([piece], reports)
    assert [element for element, _ in session.dead] == _elements(0, 2, 3)


def test_of_silence_nothing_is_concluded_at_once() -> None:
    session, piece = _Session(), _piece(2)
    docket = _docket(session)
    docket.judge([piece], {})
    docket.judge([piece], {Element(JOB, 0): RUNNING})
    assert session.dead == []


def test_the_end_of_an_element_is_told_once_however_slow_the_session_is() -> None:
    session, piece = _Session(), _piece(2)
    docket = _docket(session)
    for _ in range(3):
        docket.judge([piece], {Element(JOB, 0): ENDED, Element(JOB, 1): RUNNING})
    assert [element for element, _ in session.dead] == _elements(0)


def test_an_element_that_has_ended_with_an_output_is_no_death() -> None:
    session, piece = _Session(), _piece(1)
    session.outputs[0] = [run_files.output_name(0)]
    _docket(session).judge([piece], {Element(JOB, 0): ENDED})
    assert session.seen == [run_files.output_name(0)]
    assert session.dead == []


def test_an_end_after_which_an_element_may_return_is_not_the_end_at_once() -> None:
    session, piece = _Session(), _piece(1)
    docket = _docket(session)
    lost = Report(State.ENDED, "NODE_FAIL", may_return=True)
    for report in (lost, PENDING, RUNNING):
        docket.judge([piece], {Element(JOB, 0): report})
    assert session.dead == []


def test_pending_timeout_is_counted_without_the_time_that_a_job_ran() -> None:
    """A job that was requeued has not waited all its life."""
    session, piece = _Session(pending_timeout_s=0.0), _piece(1)
    docket = _docket(session)
    for report in (PENDING, RUNNING, PENDING):
        docket.judge([piece], {Element(JOB, 0): report})
    assert session.dead == session.cancelled == []


def test_what_waits_for_longer_than_pending_timeout_is_cancelled_and_given_up() -> None:
    session, piece = _Session(pending_timeout_s=0.0), _piece(1)
    docket = _docket(session)
    for _ in range(2):
        docket.judge([piece], {Element(JOB, 0): PENDING})
    assert session.cancelled == _elements(0)
    ((_, ending),) = session.dead
    assert ending.cause is Cause.NEVER_STARTED
    assert "pending_timeout_s = 0 s" in ending.message


def test_what_can_never_begin_is_given_up_at_once() -> None:
    session, piece = _Session(), _piece(2)
    never = Report(
        State.PENDING, "PENDING", "DependencyNeverSatisfied", hopeless="which can never end"
    )
    _docket(session).judge([piece], {Element(JOB, 0): never, Element(JOB, 1): PENDING})
    assert session.cancelled == _elements(0)
    assert [ending.cause for _, ending in session.dead] == [Cause.NEVER_STARTED]


@pytest.mark.parametrize("reports", [{}, {Element(JOB, 1): RUNNING}])
def test_an_element_that_is_heard_of_again_is_alive(reports: dict[Element, Report]) -> None:
    session, piece = _Session(), _piece(2)
    docket = _docket(session)
    docket.judge([piece], reports)
    docket.judge([piece], {Element(JOB, 0): RUNNING, Element(JOB, 1): RUNNING})
    assert session.dead == []
    assert docket.recheck_s is None


def test_a_task_that_has_begun_is_not_given_up_for_waiting() -> None:
    """As a pod that never becomes ready, or a job that was requeued."""
    session, piece = _Session(pending_timeout_s=0.0), _piece(2)
    piece.array.futures[0].started = True  # type: ignore[union-attr]
    never = Report(State.PENDING, "PENDING", "Reason", hopeless="which can never end")
    docket = _docket(session)
    docket.judge([piece], {Element(JOB, 0): never, Element(JOB, 1): never})
    assert [element for element, _ in session.dead] == [Element(JOB, 1)]


def test_only_its_own_report_says_that_an_element_waits_no_more() -> None:
    session, piece = _Session(pending_timeout_s=0.05), _piece(2)
    docket = _docket(session)
    docket.judge([piece], {Element(JOB): RUNNING, Element(JOB, 1): PENDING})
    docket.judge([piece], {Element(JOB): RUNNING})
    wait_until(lambda: _dead_after(docket, piece, session), "the limit")
    assert [element for element, _ in session.dead] == [Element(JOB, 1)]


def _dead_after(docket: Docket, piece: Piece, session: _Session) -> bool:
    docket.judge([piece], {Element(JOB): RUNNING, Element(JOB, 1): PENDING})
    return bool(session.dead)


def test_an_element_that_a_fifo_in_the_place_of_its_log_holds_up_is_given_up(
    tmp_path: Path,
) -> None:
    session, piece = _Session(), _piece(3)
    for element in _elements(0, 1):
        session.logs[element] = str(tmp_path / str(element))
        os.mkfifo(session.logs[element])
    piece.array.futures[1].started = True  # type: ignore[union-attr]
    _docket(session).judge([piece], dict.fromkeys(_elements(0, 1, 2), RUNNING))
    ((element, ending),) = session.dead
    assert [element] == session.cancelled == _elements(0)
    assert "no regular file" in ending.message
