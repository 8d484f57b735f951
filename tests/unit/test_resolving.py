"""Promises on what happens to futures in between: a session on a scheduler that does nothing."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_tools import FileOutputStore
from cluster_tools.cluster.calls import Call, CallArray
from cluster_tools.cluster.events import (
    ArrayEnded,
    Cancelled,
    ElementEnded,
    FilesAppeared,
    RunLater,
    Submitted,
    TaskChanged,
    TaskFailed,
    Written,
)
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.pilots import PilotArray
from cluster_tools.cluster.run_directory import Outcome
from cluster_tools.cluster.session import Session
from cluster_tools.cluster.settings import Settings
from cluster_tools.cluster.tasks import Job
from cluster_tools.cluster.tasks import State as TaskState
from cluster_tools.format import outputs, run_files
from cluster_tools.job import worker
from cluster_tools.own_files import NotOurs
from cluster_tools.pickling import Fragments
from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Report,
    Scheduler,
    State,
)
from support.waiting import LIMIT_S, wait_until


class _Idle(Scheduler):
    """Has everything in its queue for ever."""

    prefix = "idle"
    on_this_machine = True

    def __init__(self) -> None:
        self.submitted: list[ArrayRequest] = []
        self.cancelled: list[Element] = []

    @property
    def cluster(self) -> Hashable:
        return id(self)

    def submit(self, request: ArrayRequest) -> str:
        self.submitted.append(request)
        return "7"

    def find(self, token: str) -> str | None:
        return None

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        return {Element(job_id): Report(State.PENDING) for job_id in jobs}

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        return {element: Ending(Cause.LOST, "never asked") for element in ended}

    def cancel(self, elements: Collection[Element], token: str) -> None:
        self.cancelled += elements

    def stop(self, job_ids: Collection[str], token: str) -> None:
        pass

    def max_array_size(self) -> int | None:
        return None

    def max_submitted(self) -> int | None:
        return None


@pytest.fixture
def scheduler() -> _Idle:
    return _Idle()


@pytest.fixture
def session(tmp_path: Path, scheduler: _Idle) -> Iterator[Session]:
    yield from _running(Session(scheduler, _settings(tmp_path)))


@pytest.fixture
def on_pilots(tmp_path: Path, scheduler: _Idle) -> Iterator[Session]:
    yield from _running(Session(scheduler, _settings(tmp_path, pilot_jobs=2)))


def _settings(directory: Path, pilot_jobs: int | None = None) -> Settings:
    return Settings(cfut_dir=str(directory), store=FileOutputStore(), pilot_jobs=pilot_jobs)


def _running(session: Session) -> Iterator[Session]:
    yield session
    session.abort()
    session.join()


def _array(session: Session, *futures: ClusterFuture[object]) -> CallArray:
    pickled = Fragments([b"call"])
    calls = [Call(future, "call", b"function", pickled, None, False, "/") for future in futures]
    return session.arrays.write(calls)


def test_a_call_that_is_cancelled_while_its_array_is_written_is_over(
    session: Session, tmp_path: Path
) -> None:
    cancelled, other = (
        ClusterFuture[object](session.owner, 0.0),
        ClusterFuture[object](session.owner, 0.0),
    )
    array = _array(session, cancelled, other)
    assert cancelled.cancel()
    session._post(Written(array))
    wait_until(lambda: array.open == 1, "the array to know of it")
    assert other.cancel()
    wait_until(lambda: not Path(array.path).exists(), "the end of the array")
    assert session._watched[0].open_tasks == {}


def test_a_call_that_is_gathered_while_all_are_cancelled_is_cancelled_too(
    session: Session,
) -> None:
    session.cancel_pending()
    done = threading.Event()
    session._post(RunLater(done.set))
    assert done.wait(LIMIT_S)
    future = ClusterFuture[object](session.owner, 0.0)
    session._post(Written(_array(session, future)))
    wait_until(future.cancelled, "the cancellation")


def test_cancellations_reach_the_scheduler_though_results_come_without_a_break(
    session: Session, scheduler: _Idle
) -> None:
    future = ClusterFuture[object](session.owner, 0.0)
    array = _array(session, future)
    session._post(Written(array))
    session.jobs.add(Job(array, range(1), 0, session.directory.token), "7")
    ended = threading.Event()

    def come() -> None:
        if not ended.is_set():
            session._post(RunLater(come))

    session._post(RunLater(come))
    try:
        assert future.cancel()
        wait_until(lambda: scheduler.cancelled == [Element("7")], "the cancellation")
    finally:
        ended.set()


def test_a_future_whose_end_is_told_twice_ends_once(session: Session) -> None:
    future = ClusterFuture[object](session.owner, 0.0)
    array = _array(session, future)
    job = Job(array, range(1), 0, session.directory.token)
    session._post(Written(array))
    session.jobs.add(job, "7")
    for number in range(2):
        ending = Ending(Cause.EXIT, f"it ended, word {number}")
        session._post(ElementEnded(job, Element("7"), ending))
    assert "word 0" in str(future.exception(LIMIT_S))
    wait_until(lambda: session._watched[0].open_tasks == {}, "the end of the array")


def test_a_failure_that_is_written_while_its_task_is_to_go_in_again_is_taken(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = ClusterFuture[object](session.owner, 0.0)
    array = _array(session, future)
    directory = session.directory

    def begins_meanwhile(task: int, submission: int) -> bool:
        output = worker.failure_bytes(ValueError("its own"))
        record = outputs.encode_record("c1", (0, 0, 0, 0), 1, None)
        shard = Path(directory.shard(task))
        shard.mkdir(exist_ok=True)
        footer = outputs.encode_footer(len(output), len(record))
        (shard / run_files.interrupted_name(task)).write_bytes(output + record + footer)
        return False

    monkeypatch.setattr(directory, "close_submission", begins_meanwhile)
    job = Job(array, range(1), 0, directory.token)
    session._post(Written(array))
    session.jobs.add(job, "7")
    session._post(ElementEnded(job, Element("7"), Ending(Cause.LOST, "lost", may_go_in_again=True)))
    assert isinstance(future.exception(LIMIT_S), ValueError)


def test_a_call_that_is_cancelled_while_it_goes_in_again_is_cancelled_there(
    session: Session, scheduler: _Idle
) -> None:
    cancelled, other = (
        ClusterFuture[object](session.owner, 0.0),
        ClusterFuture[object](session.owner, 0.0),
    )
    array = _array(session, cancelled, other)
    session._post(Written(array))
    session.jobs.add(Job(array, range(2), 0, session.directory.token), "7")
    assert cancelled.cancel()
    wait_until(lambda: array.open == 1, "the array to know of it")
    session.jobs.add(Job(array, range(1), 1, session.directory.token), "8")
    wait_until(lambda: Element("8", 0) in scheduler.cancelled, "the cancellation")


class _Observer:
    observes_tasks = True

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_event(self, event: Any) -> None:
        self.events.append(event)


def test_observers_are_told_of_an_arrays_life_in_order(scheduler: _Idle, tmp_path: Path) -> None:
    observer = _Observer()
    session = Session(scheduler, _settings(tmp_path), [observer])
    try:
        futures = [ClusterFuture[object](session.owner, 0.0) for _ in range(2)]
        array = _array(session, *futures)
        job = Job(array, range(2), 0, session.directory.token)
        session._post(Written(array))
        session.jobs.add(job, "7")
        wait_until(lambda: observer.events[-1:] == [Submitted(job)], "the submission")
        assert futures[1].cancel()
        session._post(ElementEnded(job, Element("7", 0), Ending(Cause.EXIT, "it ended")))
        assert "it ended" in str(futures[0].exception(LIMIT_S))
        # A listing of the directory may come later.
        wait_until(
            lambda: any(isinstance(event, ElementEnded) for event in observer.events),
            "the last event",
        )
    finally:
        session.abort()
        session.join()
    told: list[object] = [
        (type(event), event.state) if isinstance(event, TaskChanged) else type(event)
        for event in observer.events
        if not isinstance(
            event, FilesAppeared
        )  # of the note that nobody is to begin what was cancelled
    ]
    end = told.index(ElementEnded) + 1
    assert told[:end] == [
        Written,
        (TaskChanged, TaskState.SUBMITTED),
        (TaskChanged, TaskState.SUBMITTED),
        Submitted,
        (TaskChanged, TaskState.CANCELLED),
        Cancelled,
        (TaskChanged, TaskState.FAILED),
        TaskFailed,
        ArrayEnded,
        ElementEnded,
    ]
    (failed,) = [event for event in observer.events if isinstance(event, TaskFailed)]
    assert failed.where == "Task 0 of 2 of call (job 7_0)"


def _pilots(session: Session) -> PilotArray:
    """Those that were submitted last, once they have a job."""

    def with_job() -> PilotArray | None:
        arrays = [a for a in session._ledger.arrays() if isinstance(a, PilotArray) and a.jobs]
        return arrays[-1] if arrays else None

    wait_until(lambda: with_job() is not None, "pilots")
    array = with_job()
    assert array is not None
    return array


def test_pilots_that_leave_without_work_are_replaced_and_fail_no_call(
    on_pilots: Session, scheduler: _Idle
) -> None:
    """A call may come when all have left, and before that is seen."""
    session = on_pilots
    futures = [ClusterFuture[object](session.owner, 0.0) for _ in range(2)]
    session._post(Written(_array(session, *futures)))
    pilots = _pilots(session)
    left = Outcome(True, "there was nothing to do", None, {"stored": None})
    for position in range(2):
        take = partial(session._resolver.take, pilots, position, lambda: left)
        session._post(RunLater(take))
    wait_until(
        lambda: len(scheduler.submitted) == 2 or any(future.done() for future in futures),
        "other pilots",
    )
    assert not any(future.done() for future in futures)


def test_pilots_that_are_cancelled_since_nobody_needs_them_are_no_failures(
    scheduler: _Idle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ends may be seen while the command that cancels them takes its time."""
    observer = _Observer()
    session = Session(scheduler, _settings(tmp_path, pilot_jobs=2), [observer])
    future = ClusterFuture[object](session.owner, 0.0)
    session._post(Written(_array(session, future)))
    (job,) = _pilots(session).jobs

    def cancel(elements: Collection[Element], token: str) -> None:
        for element in elements:
            session._post(ElementEnded(job, element, Ending(Cause.CANCELLED, "it was cancelled")))

    monkeypatch.setattr(scheduler, "cancel", cancel)
    assert future.cancel()
    session.close(wait=True)
    told: set[type] = {type(event) for event in observer.events}
    assert ElementEnded in told
    assert TaskFailed not in told


@pytest.mark.parametrize("error", [OSError("the disk is full"), NotOurs("there is a link")])
def test_no_pilot_comes_for_calls_that_could_not_be_offered(
    on_pilots: Session, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(path: str) -> None:
        raise error

    pilots: list[Any] = []
    monkeypatch.setattr(on_pilots.directory, "make", fail)
    monkeypatch.setattr(on_pilots._submitter, "put", pilots.append)
    future = ClusterFuture[object](on_pilots.owner, 0.0)
    on_pilots._post(Written(_array(on_pilots, future)))
    assert str(error) in str(future.exception(LIMIT_S))
    assert pilots == []
    monkeypatch.undo()
