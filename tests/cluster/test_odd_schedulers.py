"""Promises on schedulers that lose answers, nodes and jobs: a fake at the scheduler's border."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster_tools.executors.local import LocalExecutor
from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Options,
    Report,
    Scheduler,
    State,
    Uncertain,
)
from cluster_tools.schedulers.local import LocalScheduler
from support import jobs
from support.waiting import LIMIT_S, wait_until

COUNT = 4


class _Noting(LocalScheduler):
    """Notes the ids of what was submitted, and of what nobody will ask about any more."""

    def __init__(self, options: Options):
        super().__init__(replace(options, max_workers=2 * COUNT))
        self.submitted: list[str] = []
        self.forgotten: list[str] = []

    def submit(self, request: ArrayRequest) -> str:
        self.submitted.append(super().submit(request))
        return self.submitted[-1]

    def forget(self, job_id: str) -> None:
        self.forgotten.append(job_id)
        super().forget(job_id)


class _LosesItsFirstAnswer(_Noting):
    """Runs the first array all the same, and does not show it in its queue."""

    started: Path

    def submit(self, request: ArrayRequest) -> str:
        job_id = super().submit(request)
        if len(self.submitted) == 1:
            wait_until(lambda: len(list(self.started.glob("started*"))) == COUNT, "the first copy")
            raise Uncertain("the answer was lost")
        return job_id

    def find(self, token: str) -> str | None:
        return None


class _LosesItsFirstNodes(_Noting):
    """The first three arrays end with their nodes, before they begin."""

    lost = 3

    def submit(self, request: ArrayRequest) -> str:
        if len(self.submitted) == self.lost:
            return super().submit(request)
        self.submitted.append(f"lost{len(self.submitted)}")
        return self.submitted[-1]

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        return {
            **super().states(jobs),
            **{
                Element(job_id): Report(State.ENDED, "NODE_FAIL")
                for job_id in jobs
                if job_id.startswith("lost")
            },
        }

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        lost = {element: r for element, r in ended.items() if element.job_id.startswith("lost")}
        others = {element: r for element, r in ended.items() if element not in lost}
        return {
            **super().explain(others, jobs),
            **{element: Ending(Cause.NODE_FAILURE, "its node failed") for element in lost},
        }


class _Executor(LocalExecutor):
    scheduler: Any  # of `kind`

    def __init__(self, kind: type[_Noting], **keywords: Any):
        self._kind = kind
        super().__init__(**keywords)

    def _make_scheduler(self, options: Options) -> Scheduler:
        self.scheduler = self._kind(options)
        return self.scheduler


def _all_forgotten(scheduler: _Noting, job_ids: Collection[str]) -> bool:
    return set(scheduler.forgotten) == set(job_ids)


def test_an_array_that_was_submitted_twice_runs_once_and_its_first_job_is_watched(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    with _Executor(_LosesItsFirstAnswer, cfut_dir=tmp_path / "cfut") as executor:
        executor.scheduler.started = tmp_path
        calls = [(tmp_path / f"started{i}", gate) for i in range(COUNT)]
        futures: list[Any] = executor.map_to_futures(jobs.touch_and_wait, calls)

        def all_adopted() -> object:
            submitted = executor.scheduler.submitted
            return submitted and all(f.cluster_jobid == submitted[0] for f in futures)

        wait_until(all_adopted, "the first job to be found out")
        assert not any(future.done() for future in futures)
        assert [future.cluster_jobindex for future in futures] == list(range(COUNT))
        gate.touch()
        assert [f.result(LIMIT_S) for f in futures] == [f"started{i}" for i in range(COUNT)]
        assert len(executor.scheduler.submitted) == 2
        wait_until(
            lambda: _all_forgotten(executor.scheduler, executor.scheduler.submitted), "both jobs"
        )


def test_what_was_lost_with_its_node_before_it_began_goes_in_again(tmp_path: Path) -> None:
    with _Executor(_LosesItsFirstNodes, cfut_dir=tmp_path) as executor:
        futures: list[Any] = executor.map_to_futures(jobs.square, [3])
        assert futures[0].result(LIMIT_S) == 9
        submitted = executor.scheduler.submitted
        assert len(submitted) == 4
        assert futures[0].cluster_jobid == submitted[-1]
        wait_until(lambda: _all_forgotten(executor.scheduler, submitted), "its four jobs")


def test_a_job_is_forgotten_when_its_calls_are_done_and_not_when_its_executor_ends(
    tmp_path: Path,
) -> None:
    with _Executor(_Noting, cfut_dir=tmp_path) as executor:
        futures: list[Any] = [
            executor.submit(jobs.square, 2),
            *executor.map_to_futures(jobs.square, [3, 4]),
        ]
        assert [future.result(LIMIT_S) for future in futures] == [4, 9, 16]
        job_ids = {future.cluster_jobid.partition("_")[0] for future in futures}
        wait_until(lambda: _all_forgotten(executor.scheduler, job_ids), "the jobs that are over")


class _SlowAtFirst(_Noting):
    """Takes its first array once `gate` is open."""

    def __init__(self, options: Options):
        super().__init__(options)
        self.gate = threading.Event()
        self.reached = threading.Event()
        self.sizes: list[tuple[str, int]] = []

    def submit(self, request: ArrayRequest) -> str:
        self.reached.set()
        self.gate.wait(LIMIT_S)
        self.sizes.append((request.name, request.count))
        return super().submit(request)


def test_calls_of_several_functions_are_gathered_into_one_array_each(tmp_path: Path) -> None:
    with _Executor(_SlowAtFirst, cfut_dir=tmp_path) as executor:
        scheduler = executor.scheduler
        first = executor.submit(jobs.square, 0)
        assert scheduler.reached.wait(LIMIT_S)
        functions: list[Callable[..., Any]] = [jobs.square, jobs.say]
        futures = [executor.submit(functions[n % 2], n) for n in range(6)]
        scheduler.gate.set()
        assert first.result(LIMIT_S) == 0
        assert [future.result(LIMIT_S) for future in futures] == [0, 1, 4, 3, 16, 5]
    assert scheduler.sizes == [("square", 1), ("square", 3), ("say", 3)]


class _TakesItsTime(_Noting):
    """Its answer to a submission comes when there is `gate`."""

    gate: Path

    def submit(self, request: ArrayRequest) -> str:
        self.waits = True
        wait_until(self.gate.exists, "the gate")
        return super().submit(request)


def test_a_job_that_arrives_when_its_call_is_cancelled_is_let_go(tmp_path: Path) -> None:
    with _Executor(_TakesItsTime, cfut_dir=str(tmp_path)) as executor:
        scheduler = executor.scheduler
        scheduler.gate = tmp_path / "gate"
        future = executor.submit(jobs.wait_long, tmp_path / "started")
        wait_until(lambda: getattr(scheduler, "waits", False), "the submission")
        assert future.cancel()
        scheduler.gate.touch()
        wait_until(lambda: scheduler.forgotten, "its end")
        assert scheduler.forgotten == scheduler.submitted
