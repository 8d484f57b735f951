"""Promises on why a job ended: what Slurm did to it is in the error, and an output beats it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
from clusters import SLURM, command, element_of
from waiting import LIMIT_S, wait_until

import cluster_tools
from cluster_tools.errors import RemoteNeverStartedException

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("one_minute_job")]


def _state(element: str) -> str:
    """What accounting calls the element's end, "" while there is none."""
    states = command("sacct", "-nPX", "-j", element, "--format=State")
    return states[0] if states and states[0] not in ("PENDING", "RUNNING") else ""


def _requeued(job_id: str) -> str:
    """The record of a requeued job that waits, "" before."""
    (record,) = command("scontrol", "--oneliner", "show", "job", job_id)
    return record if "JobState=PENDING" in record and "Reason=BeginTime" in record else ""


def test_out_of_memory_tells_what_was_asked_for(executor: Any) -> None:
    steps = [partial(jobs.square, 2), partial(jobs.allocate, 400), partial(jobs.square, 3)]
    futures = executor.map_to_futures(jobs.run, steps)
    error = futures[1].exception(LIMIT_S)
    assert isinstance(error, cluster_tools.RemoteOutOfMemoryException)
    assert isinstance(error, cluster_tools.RemoteResourceLimitException)
    assert "out of memory" in str(error)
    assert "100M" in str(error)
    assert "job_resources" in str(error)
    assert f"Task 1 of 3 of run (job {element_of(futures[1])})" in str(error)
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == [4, 9]
    wait_until(lambda: _state(element_of(futures[1])) == "OUT_OF_MEMORY", "accounting")


def test_a_call_that_survives_its_childs_end_by_memory_has_its_result(executor: Any) -> None:
    future = executor.submit(jobs.lose_a_child_to_memory, 400)
    assert future.result(LIMIT_S) == -9
    wait_until(lambda: _state(future.cluster_jobid), "accounting")
    assert _state(future.cluster_jobid) == "OUT_OF_MEMORY"


def test_a_requeued_job_runs_again_and_counts_once(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    called_back: list[Any] = []
    future = new_executor().submit(jobs.note_run_and_wait, runs, gate)
    future.add_done_callback(called_back.append)
    wait_until(runs.exists, "the first run")
    command("scontrol", "requeue", future.cluster_jobid)
    # slurmctld holds a requeued job back for two minutes, once the first run is cleaned up.
    wait_until(lambda: _requeued(future.cluster_jobid), "the requeue")
    # In the second of the requeue the node would still refuse the job ("credential revoked").
    command("scontrol", "update", f"jobid={future.cluster_jobid}", "starttime=now+2")
    wait_until(lambda: len(runs.read_text().splitlines()) == 2, "the second run")
    gate.touch()
    assert future.result(LIMIT_S) == 2
    assert called_back == [future]


def test_a_dependency_that_can_never_be_satisfied_is_an_error(tmp_path: Path) -> None:
    (failed,) = command("sbatch", "--parsable", "--output=/dev/null", "--wrap=false")
    resources = {"mem": "50M", "dependency": f"afterok:{failed}"}
    with SLURM.new_executor(tmp_path, job_resources=resources) as executor:
        future = executor.submit(jobs.touch, tmp_path / "ran")
        error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    assert "DependencyNeverSatisfied" in str(error)
    assert f"(job {future.cluster_jobid})" in str(error)
    assert not (tmp_path / "ran").exists()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")


def test_a_held_job_is_said_and_runs_once_it_is_released(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SLURM.new_executor(tmp_path, job_resources={"mem": "50M", "hold": True}) as executor:
        future = executor.submit(jobs.square, 5)
        job_id = future.cluster_jobid

        def said() -> bool:
            return any(
                "JobHeldUser" in r.getMessage() and job_id in r.getMessage() for r in caplog.records
            )

        wait_until(said, "the warning")
        command("scontrol", "release", job_id)
        assert future.result(LIMIT_S) == 25
