"""Promises on what is concluded from a scheduler's answers: of silence, nothing at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.cluster.events import ElementEnded, Event, FilesAppeared
from cluster_tools.cluster.probing import Probe
from cluster_tools.cluster.tasks import Job, TaskArray
from cluster_tools.cluster.tasks import State as TaskState
from cluster_tools.format import run_files
from cluster_tools.schedulers.base import Cause, Element, Ending, Report, State
from cluster_tools.schedulers.slurm.commands import queue_rows
from support.waiting import wait_until

JOB = "1632"
PENDING, RUNNING = Report(State.PENDING, "PENDING", "Priority"), Report(State.RUNNING, "RUNNING")
ENDED = Report(State.ENDED, "CANCELLED")


class _Executor:
    """The scheduler, the jobs and the run directory of an executor that notes what it is told."""

    def __init__(self, pending_timeout_s: float | None = None):
        self.outputs: dict[int, list[str]] = {}
        self.ended: list[tuple[Element, Ending]] = []
        self.cancelled: list[Element] = []
        self.seen: list[str] = []
        self.logs: dict[Element, str] = {}
        as_parts: Any = self
        self.probe = Probe(
            as_parts,
            as_parts,
            as_parts,
            late_files_s=0.0,
            pending_timeout_s=pending_timeout_s,
            post=self._on_event,
        )

    def look_again(self, tasks: Iterable[int]) -> tuple[dict[int, list[str]], dict[int, OSError]]:
        return {task: self.outputs[task] for task in tasks if task in self.outputs}, {}

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        assert set(jobs) == {JOB}
        return {element: Ending(Cause.EXIT, "it ended") for element in ended}

    def log_path(self, element: Element) -> str:
        return self.logs.get(element, "/no/log")

    def cancel(self, elements: Collection[Element]) -> None:
        self.cancelled += elements

    def _on_event(self, event: Event) -> None:
        if isinstance(event, FilesAppeared):
            self.seen += event.names
        else:
            assert isinstance(event, ElementEnded)
            element = event.element
            assert event.job.element(event.job.position(element)) == element
            self.ended.append((element, event.ending))


class _Array(TaskArray):
    """Tasks that nobody waits for."""

    def describe(self, position: int) -> str:
        return "It"

    def is_over(self, position: int) -> bool:
        return False

    def on_running(self, position: int) -> None:
        pass

    def on_end(self, position: int, result: Any, exception: BaseException | None) -> bool:
        return False

    def on_cancelled(self, position: int) -> None:
        pass


def _job(count: int) -> Job:
    array = _Array(
        name="call",
        count=count,
        indexed=True,
        path="array.0",
        number=0,
        first=0,
        working_directory="/",
    )
    job = Job(array, range(count), 0, "0a1b2c3d.0.0.0")
    job.set_id(JOB)
    return job


def _elements(*indexes: int) -> list[Element]:
    return [Element(JOB, index) for index in indexes]


def test_a_row_without_an_index_stands_for_all_that_have_none_of_their_own() -> None:
    """As slurmctld reports what was left of an array that was cancelled."""
    executor, job = _Executor(), _job(4)
    rows = queue_rows(
        f"{JOB}|CANCELLED|None|call.0a1b2c3d.0.0.0\n{JOB}_1|RUNNING|None|call.0a1b2c3d.0.0.0\n"
    )
    reports = {
        Element(row.job_id, row.index): ENDED if row.state == "CANCELLED" else RUNNING
        for row in rows
    }
    executor.probe.take_in([job], reports)
    assert [element for element, _ in executor.ended] == _elements(0, 2, 3)


def test_of_silence_nothing_is_concluded_at_once() -> None:
    executor, job = _Executor(), _job(2)
    executor.probe.take_in([job], {})
    executor.probe.take_in([job], {Element(JOB, 0): RUNNING})
    assert executor.ended == []


def test_the_end_of_an_element_is_told_once_however_slow_the_resolver_is() -> None:
    executor, job = _Executor(), _job(2)
    for _ in range(3):
        executor.probe.take_in([job], {Element(JOB, 0): ENDED, Element(JOB, 1): RUNNING})
    assert [element for element, _ in executor.ended] == _elements(0)


def test_an_element_that_has_ended_with_an_output_is_no_end_without_one() -> None:
    executor, job = _Executor(), _job(1)
    executor.outputs[0] = [run_files.output_name(0)]
    executor.probe.take_in([job], {Element(JOB, 0): ENDED})
    assert executor.seen == [run_files.output_name(0)]
    assert executor.ended == []


def test_an_end_after_which_an_element_may_return_is_not_the_end_at_once() -> None:
    executor, job = _Executor(), _job(1)
    lost = Report(State.ENDED, "NODE_FAIL", may_return=True)
    for report in (lost, PENDING, RUNNING):
        executor.probe.take_in([job], {Element(JOB, 0): report})
    assert executor.ended == []


def test_pending_timeout_is_counted_without_the_time_that_a_job_ran() -> None:
    """A job that was requeued has not waited all its life."""
    executor, job = _Executor(pending_timeout_s=0.0), _job(1)
    for report in (PENDING, RUNNING, PENDING):
        executor.probe.take_in([job], {Element(JOB, 0): report})
    assert executor.ended == executor.cancelled == []


def test_what_waits_for_longer_than_pending_timeout_is_cancelled_and_given_up() -> None:
    executor, job = _Executor(pending_timeout_s=0.0), _job(1)
    for _ in range(2):
        executor.probe.take_in([job], {Element(JOB, 0): PENDING})
    assert executor.cancelled == _elements(0)
    ((_, ending),) = executor.ended
    assert ending.cause is Cause.NEVER_STARTED
    assert "pending_timeout_s = 0 s" in ending.message


def test_what_can_never_begin_is_given_up_at_once() -> None:
    executor, job = _Executor(), _job(2)
    never = Report(
        State.PENDING, "PENDING", "DependencyNeverSatisfied", hopeless="which can never end"
    )
    executor.probe.take_in([job], {Element(JOB, 0): never, Element(JOB, 1): PENDING})
    assert executor.cancelled == _elements(0)
    assert [ending.cause for _, ending in executor.ended] == [Cause.NEVER_STARTED]


@pytest.mark.parametrize("reports", [{}, {Element(JOB, 1): RUNNING}])
def test_an_element_that_is_heard_of_again_is_alive(reports: dict[Element, Report]) -> None:
    executor, job = _Executor(), _job(2)
    executor.probe.take_in([job], reports)
    executor.probe.take_in([job], {Element(JOB, 0): RUNNING, Element(JOB, 1): RUNNING})
    assert executor.ended == []
    assert executor.probe.recheck_s is None


def test_a_task_that_has_begun_is_not_given_up_for_waiting() -> None:
    """As a pod that never becomes ready, or a job that was requeued."""
    executor, job = _Executor(pending_timeout_s=0.0), _job(2)
    job.array.states[0] = TaskState.RUNNING
    never = Report(State.PENDING, "PENDING", "Reason", hopeless="which can never end")
    executor.probe.take_in([job], {Element(JOB, 0): never, Element(JOB, 1): never})
    assert [element for element, _ in executor.ended] == [Element(JOB, 1)]


def test_only_its_own_report_says_that_an_element_waits_no_more() -> None:
    executor, job = _Executor(pending_timeout_s=0.05), _job(2)
    executor.probe.take_in([job], {Element(JOB): RUNNING, Element(JOB, 1): PENDING})
    executor.probe.take_in([job], {Element(JOB): RUNNING})
    wait_until(lambda: _ends_after(executor, job), "the limit")
    assert [element for element, _ in executor.ended] == [Element(JOB, 1)]


def _ends_after(executor: _Executor, job: Job) -> bool:
    executor.probe.take_in([job], {Element(JOB): RUNNING, Element(JOB, 1): PENDING})
    return bool(executor.ended)


def test_an_element_that_a_fifo_in_the_place_of_its_log_holds_up_is_given_up(
    tmp_path: Path,
) -> None:
    executor, job = _Executor(), _job(3)
    for element in _elements(0, 1):
        executor.logs[element] = str(tmp_path / str(element))
        os.mkfifo(executor.logs[element])
    job.array.states[1] = TaskState.RUNNING
    executor.probe.take_in([job], dict.fromkeys(_elements(0, 1, 2), RUNNING))
    ((element, ending),) = executor.ended
    assert [element] == executor.cancelled == _elements(0)
    assert "no regular file" in ending.message
