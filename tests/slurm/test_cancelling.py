"""Promises on cancelling, by us."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import SLURM, queue
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("one_minute_job")]


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an array one element runs, and the others wait in the queue."""
    monkeypatch.setenv("SLURM_MAX_RUNNING_SIZE", "1")


def _start(executor: Any, tmp_path: Path, count: int) -> list[Any]:
    """Submits calls that wait for `gate`, of which the first runs."""
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(count)]
    )
    wait_until((tmp_path / "started0").exists, "the first call")
    wait_until(futures[0].running, "running()")
    return futures


@pytest.mark.usefixtures("one_at_a_time")
def test_one_pending_future_is_cancelled_at_once_and_leaves_the_queue(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    futures = _start(new_executor(), tmp_path, 4)
    assert futures[2].cancel() is True
    assert futures[2].cancelled()
    assert wait(futures, LIMIT_S, FIRST_COMPLETED).done == {futures[2]}
    assert next(as_completed(futures, LIMIT_S)) is futures[2]
    with pytest.raises(CancelledError):
        futures[2].result(0)
    job_id = futures[2].cluster_jobid
    wait_until(
        lambda: f"{job_id}_2" not in queue("%i") and f"{job_id}_3" in queue("%i"),
        "the cancelled element's end",
    )
    (tmp_path / "gate").touch()
    results = [future.result(LIMIT_S) for i, future in enumerate(futures) if i != 2]
    assert results == ["started0", "started1", "started3"]
    assert not (tmp_path / "started2").exists()


def test_a_running_future_is_not_cancelled(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    futures = _start(new_executor(), tmp_path, 1)
    assert futures[0].cancel() is False
    (tmp_path / "gate").touch()
    assert futures[0].result(LIMIT_S) == "started0"


def test_a_call_of_submit_is_cancelled_in_the_queue(tmp_path: Path) -> None:
    resources = {"mem": "100M", "begin": "now+1hour"}
    with SLURM.new_executor(tmp_path, job_resources=resources) as executor:
        future = executor.submit(jobs.touch, tmp_path / "ran")
        job_id = future.cluster_jobid
        assert future.cancel() is True
        wait_until(lambda: job_id not in queue("%i"), "an empty queue")


def test_a_call_that_is_not_submitted_yet_can_be_cancelled(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor()
    futures = [executor.submit(jobs.touch, tmp_path / f"ran{i}") for i in range(3)]
    assert [future.cancel() for future in futures] == [True] * 3
    executor.shutdown()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
    assert not list(tmp_path.glob("ran*"))


@pytest.mark.usefixtures("one_at_a_time")
def test_shutdown_with_cancel_futures_cancels_all_that_wait(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor()
    futures = _start(executor, tmp_path, 4)
    executor.shutdown(wait=False, cancel_futures=True)
    for future in futures[1:]:
        with pytest.raises(CancelledError):
            future.result(LIMIT_S)
    job_id = futures[0].cluster_jobid
    wait_until(lambda: queue("%i", f"--jobs={job_id}") == [f"{job_id}_0"], "the others' end")
    (tmp_path / "gate").touch()
    assert futures[0].result(LIMIT_S) == "started0"
    executor.shutdown()
    assert {p.name for p in tmp_path.iterdir()} == {
        "gate",
        "started0",
        f"slurmpy.{job_id}_0.log.stdout",
    }


def test_leaving_with_by_an_exception_leaves_no_job(tmp_path: Path) -> None:
    def leave() -> None:
        with SLURM.new_executor(tmp_path) as executor:
            futures.extend(_start(executor, tmp_path, 3))
            raise ZeroDivisionError

    futures: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        leave()
    assert all(future.cancelled() for future in futures)
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
