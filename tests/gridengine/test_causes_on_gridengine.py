"""Promises on why calls have failed, as far as Grid Engine tells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteExitException,
    RemoteLostException,
    RemoteNeverStartedException,
    RemoteOutOfMemoryException,
    RemoteTimeLimitException,
)
from support import jobs, sge
from support.clusters import GRIDENGINE, element_of, log_of
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.gridengine

NewExecutor = Callable[..., Any]

# What is gone from the queue without a record in accounting is given up after a minute, and some
# seconds.
_FORGOTTEN_LIMIT_S = 110


def _asking(**resources: object) -> dict[str, Any]:
    return {"job_resources": {**sge.RESOURCES, **resources}}


def _hold_memory_twice(megabytes: int) -> None:
    """As much in a child process. One process alone would get a MemoryError."""
    held = bytearray(megabytes << 20)
    program = f"import sys, time; held = bytearray({megabytes << 20}); time.sleep(600)"
    subprocess.run([sys.executable, "-c", program], check=False)
    del held


def test_a_job_beyond_its_memory_is_an_error_that_says_so(new_executor: NewExecutor) -> None:
    future = new_executor(**_asking(h_vmem="500M")).submit(_hold_memory_twice, 300)
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteOutOfMemoryException)
    assert "asked for h_vmem=500M, used " in str(error)
    assert f"qacct -j {future.cluster_jobid}" in str(error)


def test_a_call_that_gets_no_memory_has_its_memory_error(new_executor: NewExecutor) -> None:
    executor = new_executor(**_asking(h_vmem="500M"))
    assert isinstance(executor.submit(jobs.allocate, 2000).exception(LIMIT_S), MemoryError)


@pytest.mark.parametrize("call", [jobs.wait_long, jobs.ignore_interrupts_and_wait])
def test_a_job_beyond_its_time_limit_is_an_error_that_says_so(
    new_executor: NewExecutor, tmp_path: Path, call: Callable[[Path], None]
) -> None:
    future = new_executor(**_asking(h_rt=3)).submit(call, tmp_path / "started")
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteTimeLimitException)
    assert isinstance(error, cluster_tools.RemoteResourceLimitException)
    assert "limit of h_rt=3" in str(error)
    assert f"(job {future.cluster_jobid})" in str(error)
    assert str(log_of(tmp_path, GRIDENGINE, future.cluster_jobid)) in str(error)


def test_a_call_cleans_up_before_its_time_is_over(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor(**_asking(h_rt=3))
    future = executor.submit(
        jobs.clean_up_when_interrupted, tmp_path / "started", tmp_path / "cleaned"
    )
    assert isinstance(future.exception(LIMIT_S), RemoteTimeLimitException)
    assert (tmp_path / "cleaned").exists()


def test_pilots_leave_before_their_time_is_over_and_others_come(new_executor: NewExecutor) -> None:
    """The limit leaves no time for a second round of calls."""
    executor = new_executor(pilot_jobs=1, **_asking(h_rt=125))
    assert executor.submit(jobs.square_after, 3, 6).result(LIMIT_S) == 9
    assert executor.submit(jobs.square, 4).result(LIMIT_S) == 16


def _start(executor: Any, tmp_path: Path, count: int) -> list[Any]:
    """Submits calls that wait for ever, and returns when they run."""
    futures = executor.map_to_futures(
        jobs.wait_long, [tmp_path / f"started{i}" for i in range(count)]
    )
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == count, "the calls")
    return futures


def test_a_deleted_job_and_a_deleted_element_are_cancelled(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    futures = _start(new_executor(), tmp_path, 3)
    job_id, _, index = element_of(futures[1]).partition("_")
    sge.run("qdel", f"{job_id}.{int(index) + 1}")
    error = futures[1].exception(LIMIT_S)
    assert isinstance(error, RemoteCancelledException)
    assert "was deleted" in str(error)
    assert futures[0].running()
    sge.run("qdel", job_id)
    assert isinstance(futures[0].exception(LIMIT_S), RemoteCancelledException)
    assert isinstance(futures[2].exception(LIMIT_S), RemoteCancelledException)


@pytest.mark.timeout(_FORGOTTEN_LIMIT_S + 30)
def test_a_job_that_is_deleted_before_it_begins_is_lost_and_the_error_says_both(
    new_executor: NewExecutor,
) -> None:
    future = new_executor(**_asking(h=True)).submit(jobs.square, 1)
    wait_until(lambda: future.cluster_jobid in sge.elements(), "the job")
    sge.run("qdel", future.cluster_jobid)
    error = future.exception(_FORGOTTEN_LIMIT_S)
    assert isinstance(error, RemoteLostException)
    assert "deleted it before it began" in str(error)


def test_a_job_that_is_deleted_by_force_is_cancelled(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    """Accounting has zeros for it, as for a success."""
    (future,) = _start(new_executor(), tmp_path, 1)
    sge.run("qdel", "-f", future.cluster_jobid)
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteCancelledException)
    assert "by force" in str(error)


@pytest.mark.parametrize(("code", "reported"), [(3, 3), (99, 1), (100, 1)])
def test_no_exit_code_leaves_a_job(
    new_executor: NewExecutor, tmp_path: Path, code: int, reported: int
) -> None:
    future = new_executor().submit(jobs.exit_at_once, code)
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteExitException)
    assert f"exit code {reported}" in str(error)
    assert GRIDENGINE.elements_of(tmp_path) == []


def test_a_killed_call_is_no_deleted_job(new_executor: NewExecutor) -> None:
    error = new_executor().submit(jobs.kill_itself).exception(LIMIT_S)
    assert isinstance(error, RemoteExitException)
    assert "killed (signal 9)" in str(error)


def test_a_job_in_an_error_state_is_given_up_with_the_reason_and_deleted(
    new_executor: NewExecutor, tmp_path: Path, queue_attribute: Callable[[str, str], None]
) -> None:
    """Exit code 100 of what starts its shell: it would stay in the queue for ever."""
    starter = tmp_path / "starter"
    starter.write_text("#!/bin/sh\nexit 100\n")
    starter.chmod(0o755)
    queue_attribute("starter_method", str(starter))
    future = new_executor(job_resources=sge.ODD_RESOURCES).submit(jobs.square, 1)
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    assert "Eqw" in str(error)
    assert "qmod -cj" in str(error)
    wait_until(lambda: not GRIDENGINE.elements_of(tmp_path), "the end of its job")
