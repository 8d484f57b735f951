"""Promises on jobs that somebody edits with scontrol: they are still ours."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import RemoteCancelledException, RemoteExitException
from support import jobs
from support.clusters import SLURM, command, element_of, queue
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("one_minute_job")]

_MEMORY = {"mem": "50M"}


def _update(job: str, *settings: str) -> None:
    command("scontrol", "update", f"JobId={job}", *settings)


def _rename(job: str) -> None:
    """As users and sites' plugins do; and other things that people edit."""
    _update(job, "JobName=mine", "Comment=of somebody", "Nice=3")


def _start(executor: Any, tmp_path: Path, count: int = 1) -> list[Any]:
    """Submits calls that wait for `gate`, and returns when they run."""
    calls = [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(count)]
    futures = executor.map_to_futures(jobs.touch_and_wait, calls)
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == count, "the calls")
    return futures


def test_a_job_that_is_renamed_while_it_runs_is_watched_and_explained(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor()
    futures = executor.map_to_futures(jobs.exit_at, [tmp_path / f"gate{i}" for i in range(2)])
    killed = _start(executor, tmp_path)[0]
    wait_until(lambda: all(future.running() for future in futures), "the calls")
    _rename(futures[0].cluster_jobid)
    _rename(element_of(futures[1]))
    _rename(killed.cluster_jobid)
    (tmp_path / "gate0").touch()
    (tmp_path / "gate1").touch()
    for future in futures:
        error = future.exception(LIMIT_S)
        assert isinstance(error, RemoteExitException)
        assert "exit code 3" in str(error)
    command("scancel", killed.cluster_jobid)
    assert isinstance(killed.exception(LIMIT_S), RemoteCancelledException)


def test_a_renamed_jobs_result_comes_however_long_it_takes(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    """What slurmctld is thought not to know is given up after a minute, which is asked for here at
    once.
    """
    executor = new_executor()
    (future,) = _start(executor, tmp_path)
    _rename(future.cluster_jobid)
    scheduler = executor._session.scheduler
    (job,) = executor._session.jobs.open()
    assert scheduler.find(job.token) == future.cluster_jobid
    assert scheduler.states({future.cluster_jobid: job.token})
    (tmp_path / "gate").touch()
    assert future.result(LIMIT_S) == "started0"


@pytest.mark.parametrize("of_element", [False, True], ids=["job", "element"])
def test_an_element_that_is_renamed_while_it_waits_is_cancelled(
    new_executor: Callable[..., Any], of_element: bool
) -> None:
    executor = new_executor(job_resources={**_MEMORY, "begin": "now+1hour"})
    futures = executor.map_to_futures(jobs.square, range(4))
    job = futures[0].cluster_jobid
    _rename(element_of(futures[2]) if of_element else job)
    assert futures[2].cancel()
    wait_until(lambda: f"{job}_2" not in queue("%i") and f"{job}_3" in queue("%i"), "its end")
    executor.shutdown(cancel_futures=True)
    wait_until(lambda: not queue("%i", f"--jobs={job}"), "an empty queue")


@pytest.mark.parametrize("pilots", [{}, {"pilot_jobs": 2}], ids=["jobs", "pilots"])
def test_renamed_jobs_are_gone_after_an_exception(tmp_path: Path, pilots: dict[str, int]) -> None:
    def leave() -> None:
        with SLURM.new_executor(tmp_path, **pilots) as executor:
            _start(executor, tmp_path, 2)
            for record in SLURM.elements_of(tmp_path):
                _rename(record.partition("JobId=")[2].partition(" ")[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")


def test_a_job_that_is_held_and_released_and_requeued_is_still_ours(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(job_resources={**_MEMORY, "begin": "now+1hour"})
    (future,) = executor.map_to_futures(jobs.square, [3])
    job = future.cluster_jobid
    _rename(job)
    command("scontrol", "hold", job)
    _update(job, "StartTime=now", "TimeLimit=10")
    command("scontrol", "release", job)
    assert future.result(LIMIT_S) == 9


def test_a_wrapper_that_gives_sbatch_a_copy_of_the_script_loses_no_job(
    new_executor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, copy = tmp_path / "bin", tmp_path / "a_copy"
    directory.mkdir()
    real = shutil.which("sbatch")
    wrapper = directory / "sbatch"
    wrapper.write_text(
        f'#!/bin/bash\ncat "${{@: -1}}" > {copy}.$$\n'
        f'exec {shlex.quote(str(real))} "${{@:1:$#-1}}" --job-name=of_the_site < {copy}.$$\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    executor = new_executor()
    dying = executor.submit(jobs.exit_at, tmp_path / "gate")
    wait_until(dying.running, "the call")
    (tmp_path / "gate").touch()
    error = dying.exception(LIMIT_S)
    assert isinstance(error, RemoteExitException)
    assert "exit code 3" in str(error)

    def leave() -> None:
        with executor:
            future = executor.submit(jobs.wait_long, tmp_path / "started")
            wait_until(future.running, "the call")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")


def test_with_singleton_calls_of_two_executors_do_not_overlap(tmp_path: Path) -> None:
    keywords: dict[str, Any] = {
        "job_name": f"one_{tmp_path.name}",
        "job_resources": {**_MEMORY, "dependency": "singleton"},
    }
    gate = tmp_path / "gate"
    with (
        SLURM.new_executor(tmp_path / "first", **keywords) as first,
        SLURM.new_executor(tmp_path / "second", **keywords) as second,
    ):
        runs = first.submit(jobs.touch_and_wait, (tmp_path / "started0", gate))
        wait_until((tmp_path / "started0").exists, "the first call")
        waits = second.submit(jobs.touch_and_wait, (tmp_path / "started1", gate))
        wait_until(
            lambda: queue("%r", f"--jobs={waits.cluster_jobid}") == ["Dependency"], "it to wait"
        )
        assert not (tmp_path / "started1").exists()
        gate.touch()
        assert [runs.result(LIMIT_S), waits.result(LIMIT_S)] == ["started0", "started1"]
