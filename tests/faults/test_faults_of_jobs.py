"""Promises on why a job ended: what Slurm or others did to it is in the error, and an output beats
it.

How long a future may take once Slurm says that its job has ended is LIMIT_S.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import controller
import pytest
from endings import assert_says, let_run_again, sacct_line

import cluster_tools
from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteExitException,
    RemoteNeverStartedException,
    RemotePreemptedException,
)
from support import jobs
from support.clusters import SLURM, command, element_of, queue
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]

_PENDING_TIMEOUT_S = 8  # several rounds of questions


def _state(element: str) -> str:
    """What accounting calls the element's end, "" while there is none."""
    states = command("sacct", "-nPX", "-j", element, "--format=State")
    return states[0] if states and states[0] not in ("PENDING", "RUNNING") else ""


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


# -- limits ----------------------------------------------------------------------------------------
# Of the time limit: tests/slurm/test_time_limit.py.


def test_out_of_memory_tells_what_was_asked_for(executor: Any) -> None:
    steps = [partial(jobs.square, 2), partial(jobs.allocate, 400), partial(jobs.square, 3)]
    futures = executor.map_to_futures(jobs.run, steps)
    error = futures[1].exception(LIMIT_S)
    text = assert_says(error, cluster_tools.RemoteOutOfMemoryException, futures[1])
    assert isinstance(error, cluster_tools.RemoteResourceLimitException)
    assert "out of memory" in text
    assert "100M" in text
    assert "job_resources" in text
    assert sacct_line(futures[1]) in text
    assert f"Task 1 of 3 of run (job {element_of(futures[1])})" in text
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == [4, 9]
    wait_until(lambda: _state(element_of(futures[1])) == "OUT_OF_MEMORY", "accounting")


def test_a_call_that_survives_its_childs_end_by_memory_has_its_result(executor: Any) -> None:
    future = executor.submit(jobs.lose_a_child_to_memory, 400)
    assert future.result(LIMIT_S) == -9
    wait_until(lambda: _state(future.cluster_jobid), "accounting")
    assert _state(future.cluster_jobid) == "OUT_OF_MEMORY"


@pytest.mark.parametrize("pilots", [{}, {"pilot_jobs": 1}], ids=["jobs", "pilots"])
def test_a_call_that_fails_after_its_childs_end_by_memory_says_so(
    new_executor: Callable[..., Any], pilots: dict[str, int]
) -> None:
    executor = new_executor(**pilots)
    error = executor.submit(jobs.fail_with_a_child_out_of_memory, 400).exception(LIMIT_S)
    assert isinstance(error, ValueError)
    assert "for want of memory" in str(error.__cause__)
    other = executor.submit(jobs.reciprocal, 0).exception(LIMIT_S)
    assert isinstance(other, ZeroDivisionError)
    assert "memory" not in str(other.__cause__)


# -- what others do --------------------------------------------------------------------------------


def test_kill_9_by_somebody_else_is_told(executor: Any, tmp_path: Path) -> None:
    future = executor.submit(jobs.note_pid_and_wait_long, tmp_path / "pid")
    wait_until((tmp_path / "pid").exists, "the call")
    pid = (tmp_path / "pid").read_text()
    command("srun", "--overlap", "--mem=0", f"--jobid={future.cluster_jobid}", "kill", "-9", pid)
    text = assert_says(future.exception(LIMIT_S), RemoteExitException, future)
    assert "killed (signal 9) on node c" in text
    assert sacct_line(future) in text


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an array one element runs, and the others wait in the queue."""
    monkeypatch.setenv("SLURM_MAX_RUNNING_SIZE", "1")


def _start(executor: Any, tmp_path: Path) -> list[Any]:
    """Submits three calls that wait for `gate`, of which the first runs."""
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(3)]
    )
    wait_until((tmp_path / "started0").exists, "the first call")
    wait_until(futures[0].running, "running()")
    return futures


def _assert_was_cancelled(future: Any, index: int) -> None:
    text = assert_says(future.exception(LIMIT_S), RemoteCancelledException, future)
    assert f"Task {index} of 3 of touch_and_wait (job " in text
    assert "cancelled" in text
    assert not future.cancelled()


@pytest.mark.usefixtures("one_at_a_time")
def test_scancel_of_a_running_element_by_somebody_else_is_told(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    futures = _start(new_executor(), tmp_path)
    command("scancel", f"{futures[0].cluster_jobid}_0")
    _assert_was_cancelled(futures[0], 0)
    assert "cancelled by 0" in str(futures[0].exception(0))
    (tmp_path / "gate").touch()
    assert [future.result(LIMIT_S) for future in futures[1:]] == ["started1", "started2"]


@pytest.mark.usefixtures("one_at_a_time")
def test_scancel_of_a_waiting_element_by_somebody_else_is_told(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    futures = _start(new_executor(), tmp_path)
    command("scancel", f"{futures[0].cluster_jobid}_1")
    (tmp_path / "gate").touch()
    assert [futures[index].result(LIMIT_S) for index in (0, 2)] == ["started0", "started2"]
    _assert_was_cancelled(futures[1], 1)
    assert not (tmp_path / "started1").exists()


def test_a_requeued_job_runs_again_and_counts_once(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    called_back: list[Any] = []
    future = new_executor().submit(jobs.note_run_and_wait, runs, gate)
    future.add_done_callback(called_back.append)
    wait_until(runs.exists, "the first run")
    command("scontrol", "requeue", future.cluster_jobid)
    let_run_again(future.cluster_jobid)
    wait_until(lambda: _lines(runs) == 2, "the second run")
    gate.touch()
    assert future.result(LIMIT_S) == 2
    assert called_back == [future]


def test_a_failure_of_a_call_that_ends_its_child_for_the_requeue_is_not_believed(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    future = new_executor().submit(jobs.end_child_at_sigterm, tmp_path / "runs")
    wait_until((tmp_path / "runs").exists, "the first run")
    command("scontrol", "requeue", future.cluster_jobid)
    let_run_again(future.cluster_jobid)
    assert future.result(LIMIT_S) == 2


# -- jobs that wait --------------------------------------------------------------------------------


def _said(caplog: pytest.LogCaptureFixture, reason: str, job_id: str) -> int:
    """How often the user was told that this job waits for this reason."""
    messages = [record.getMessage() for record in caplog.records]
    return sum(reason in text and job_id in text for text in messages)


def _assert_gave_up(future: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    text = assert_says(future.exception(LIMIT_S), RemoteNeverStartedException, future)
    assert f"reason {reason}) for longer than pending_timeout_s = {_PENDING_TIMEOUT_S} s" in text
    wait_until(lambda: future.cluster_jobid not in queue("%i"), "the given up job's end")


def test_a_dependency_that_can_never_be_satisfied_is_an_error(tmp_path: Path) -> None:
    (failed,) = command("sbatch", "--parsable", "--output=/dev/null", "--wrap=false")
    resources = {"mem": "50M", "dependency": f"afterok:{failed}"}
    with SLURM.new_executor(tmp_path, job_resources=resources) as executor:
        future = executor.submit(jobs.touch, tmp_path / "ran")
        text = assert_says(future.exception(LIMIT_S), RemoteNeverStartedException, future)
    assert "DependencyNeverSatisfied" in text
    assert not (tmp_path / "ran").exists()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")


def test_a_held_job_is_said_once_and_an_error_only_after_pending_timeout_s(
    new_executor: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    held = {"mem": "50M", "hold": True}
    released = new_executor(job_resources=held).submit(jobs.square, 5)
    impatient = new_executor(job_resources=held, pending_timeout_s=_PENDING_TIMEOUT_S)
    given_up = impatient.submit(jobs.square, 6)
    _assert_gave_up(given_up, "JobHeldUser", caplog)
    job_id = released.cluster_jobid
    assert not released.done()
    assert _said(caplog, "JobHeldUser", job_id) == 1
    command("scontrol", "release", job_id)
    assert released.result(LIMIT_S) == 25
    assert _said(caplog, "JobHeldUser", job_id) == 1


def _has_prolog(prolog: Path) -> bool:
    """Whether slurmctld has read of it."""
    return any(str(prolog) in line for line in command("scontrol", "show", "config"))


@pytest.fixture
def broken_prolog(mended_nodes: None, tmp_path: Path) -> Iterator[Path]:
    """A prolog that fails while there is the path."""
    broken, prolog = tmp_path / "broken", tmp_path / "prolog"
    broken.touch()
    prolog.write_text(f"#!/bin/sh\ntest ! -e {broken}\n")
    prolog.chmod(0o755)
    try:
        with controller.settings(Prolog=prolog):
            controller.reconfigure()
            wait_until(lambda: _has_prolog(prolog), "the prolog")
            yield broken
    finally:
        controller.reconfigure()


_FAILED_LAUNCH = "launch failed requeued held"


def test_a_job_whose_prolog_fails_is_said_and_runs_once_that_is_mended(
    broken_prolog: Path, new_executor: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    released = new_executor(job_resources={"mem": "50M", "nodelist": "c1"}).submit(jobs.square, 5)
    impatient = new_executor(
        job_resources={"mem": "50M", "nodelist": "c2"}, pending_timeout_s=_PENDING_TIMEOUT_S
    )
    given_up = impatient.submit(jobs.square, 6)
    _assert_gave_up(given_up, _FAILED_LAUNCH, caplog)
    job_id = released.cluster_jobid
    wait_until(lambda: _said(caplog, _FAILED_LAUNCH, job_id), "the warning")
    assert not released.done()
    broken_prolog.unlink()
    command("scontrol", "update", "nodename=c[1-2]", "state=resume")
    command("scontrol", "release", job_id)
    let_run_again(job_id)
    assert released.result(LIMIT_S) == 25
    assert _said(caplog, _FAILED_LAUNCH, job_id) == 1


# -- preemption ------------------------------------------------------------------------------------

_GRACE_S = 5


@pytest.fixture(scope="module")
def partitions() -> Iterator[None]:
    """Partitions whose jobs make room for those of `urgent`: they run again, or never, or end
    slowly.

    They are not in slurm.conf, so slurmctld forgets them when it starts again.
    """
    tiers = {
        "again": ("PriorityTier=1", "PreemptMode=REQUEUE"),
        "never": ("PriorityTier=1", "PreemptMode=CANCEL"),
        "slowly": ("PriorityTier=1", "PreemptMode=REQUEUE", f"GraceTime={_GRACE_S}"),
        "urgent": ("PriorityTier=9", "PreemptMode=OFF"),
    }
    with controller.configured(PreemptType="preempt/partition_prio", PreemptMode="REQUEUE"):
        try:
            for name, words in tiers.items():
                words = ("Nodes=ALL", "DefMemPerCPU=300", *words)
                command("scontrol", "create", f"PartitionName={name}", *words)
            yield
        finally:
            # Slurm 24.11 may have requeued one once more after its last run.
            for name in tiers:
                command("scancel", "--me", f"--partition={name}")
            wait_until(lambda: not queue(), "an empty queue")


@contextmanager
def _urgent_job() -> Generator[None]:
    """While a job is in the queue that wants everything; it may have to wait for those it
    preempts.
    """
    options = ("--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
    (job_id,) = command("sbatch", *options, "--wrap=sleep 300")
    try:
        yield
    finally:
        command("scancel", job_id)


def _resources(partition: str) -> dict[str, str]:
    return {"mem": "50M", "partition": partition}


@pytest.mark.usefixtures("partitions")
def test_a_preempted_job_that_is_requeued_runs_again_and_counts_once(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    called_back: list[Any] = []
    executor = new_executor(job_resources=_resources("again"))
    future = executor.submit(jobs.note_run_and_wait, runs, gate)
    future.add_done_callback(called_back.append)
    wait_until(runs.exists, "the first run")
    with _urgent_job():
        let_run_again(future.cluster_jobid)
    wait_until(lambda: _lines(runs) == 2, "the second run")
    gate.touch()
    assert future.result(LIMIT_S) == 2
    assert called_back == [future]


@pytest.mark.usefixtures("partitions")
def test_a_preempted_job_that_does_not_run_again_is_an_error(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(job_resources=_resources("never"))
    future = executor.submit(jobs.note_run_and_wait_long, tmp_path / "runs")
    wait_until((tmp_path / "runs").exists, "the call")
    with _urgent_job():
        text = assert_says(future.exception(LIMIT_S), RemotePreemptedException, future)
    assert "The job was preempted on node c" in text
    assert sacct_line(future) in text
    assert _lines(tmp_path / "runs") == 1


@pytest.mark.usefixtures("partitions")
def test_a_failure_because_preemption_ended_a_step_is_not_believed(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(job_resources=_resources("slowly"))
    future = executor.submit(jobs.fail_with_a_step, tmp_path / "runs")
    wait_until((tmp_path / "runs").exists, "the first run")
    with _urgent_job():
        # Steps are told at the beginning of the grace time, the call at its end.
        let_run_again(future.cluster_jobid)
    assert future.result(LIMIT_S) == 2
