"""Promises on how many elements may be in the queue: what is more goes in when there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from limits import NO_LIMIT, limit_qos, limit_user, piece_sizes

from cluster_tools import SlurmExecutor
from support import jobs
from support.clusters import command, queue
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def _empty_queue() -> None:
    """What other tests have left to end would count, too."""
    wait_until(lambda: not queue(), "an empty queue")


@pytest.fixture
def user_limit() -> Iterator[Callable[[int], None]]:
    yield limit_user
    limit_user(NO_LIMIT)


@pytest.fixture
def qos_limit() -> Iterator[Callable[[int], None]]:
    yield limit_qos
    limit_qos(NO_LIMIT)


def _start(executor: Any, tmp_path: Path, count: int) -> list[Any]:
    """Submits so many calls, which wait for `gate`."""
    return executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(count)]
    )


def _started(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("started*")))


def _finish(tmp_path: Path, futures: list[Any]) -> None:
    (tmp_path / "gate").touch()
    assert [future.result(LIMIT_S) for future in futures] == [
        f"started{i}" for i in range(len(futures))
    ]


def test_ten_calls_under_a_users_limit_of_six_are_two_jobs(
    user_limit: Callable[[int], None], new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    user_limit(6)
    assert SlurmExecutor.get_max_submit_jobs() == 6
    futures = _start(new_executor(), tmp_path, 10)  # does not wait for the queue
    wait_until(lambda: _started(tmp_path) == 6, "the first six calls")
    assert len(queue()) == 6
    assert futures[6].cancelled() is futures[6].running() is False
    _finish(tmp_path, futures)
    assert piece_sizes(futures) == [6, 4]


def test_ten_calls_under_a_qos_limit_of_six_are_two_jobs(
    qos_limit: Callable[[int], None], new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    qos_limit(6)
    assert SlurmExecutor.get_max_submit_jobs() == 6
    futures = _start(new_executor(), tmp_path, 10)
    wait_until(lambda: _started(tmp_path) == 6, "the first six calls")
    _finish(tmp_path, futures)
    assert piece_sizes(futures) == [6, 4]


def test_the_users_limit_counts_before_that_of_the_qos(
    user_limit: Callable[[int], None],
    qos_limit: Callable[[int], None],
) -> None:
    qos_limit(3)
    user_limit(6)
    assert SlurmExecutor.get_max_submit_jobs() == 6


def test_a_lower_limit_of_the_qos_is_found_too(
    user_limit: Callable[[int], None],
    qos_limit: Callable[[int], None],
    new_executor: Callable[..., Any],
) -> None:
    qos_limit(3)
    user_limit(6)
    executor = new_executor()
    futures = executor.map_to_futures(jobs.square, range(7))
    assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(7)]
    assert max(piece_sizes(futures)) <= 3


def test_a_limit_that_falls_while_calls_run_is_kept(
    user_limit: Callable[[int], None], new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    user_limit(6)
    futures = _start(new_executor(), tmp_path, 11)
    wait_until(lambda: _started(tmp_path) == 6, "the first six calls")
    user_limit(3)
    assert SlurmExecutor.get_max_submit_jobs() == 3
    _finish(tmp_path, futures)
    assert piece_sizes(futures) == [6, 3, 2]


def test_a_limit_that_rises_while_calls_run_is_used(
    user_limit: Callable[[int], None], new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    user_limit(2)
    futures = _start(new_executor(), tmp_path, 4)
    wait_until(lambda: _started(tmp_path) == 2, "the first two calls")
    user_limit(NO_LIMIT)
    wait_until(lambda: _started(tmp_path) == 4, "the others, while the first ones run")
    _finish(tmp_path, futures)
    assert piece_sizes(futures) == [2, 2]


def test_calls_of_submit_are_cut_to_the_limit_too(
    user_limit: Callable[[int], None], new_executor: Callable[..., Any]
) -> None:
    user_limit(2)
    executor = new_executor()
    futures = [executor.submit(jobs.square, number) for number in range(7)]
    assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(7)]


def test_several_executors_share_the_limit(
    user_limit: Callable[[int], None], tmp_path: Path, new_executor: Callable[..., Any]
) -> None:
    user_limit(4)
    executors = [new_executor(), new_executor()]
    arrays = [executor.map_to_futures(jobs.square, range(6)) for executor in executors]
    for futures in arrays:
        assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(6)]


def test_jobs_that_are_not_ours_only_delay_ours(
    user_limit: Callable[[int], None],
    new_executor: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    user_limit(3)
    gate = tmp_path / "gate"
    (job_id,) = command(
        *("sbatch", "--parsable", "--output=/dev/null", "--array=0-1", "--mem=50M"),
        f"--wrap=until [ -e '{gate}' ]; do sleep 0.2; done",
    )
    try:
        futures = new_executor().map_to_futures(jobs.square, range(3))
        wait_until(lambda: "wait for room in the queue" in caplog.text, "our array to wait")
        assert not futures[0].done()
    finally:
        gate.touch()
    assert [future.result(LIMIT_S) for future in futures] == [0, 1, 4]
    wait_until(
        lambda: command("sacct", "-nPX", "-j", job_id, "--format=State") == ["COMPLETED"] * 2,
        "the good end of the other jobs, in accounting",
    )


def test_what_waits_for_room_can_be_cancelled(
    user_limit: Callable[[int], None], new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    user_limit(2)
    futures = _start(new_executor(), tmp_path, 5)
    wait_until(lambda: _started(tmp_path) == 2, "the first two calls")
    assert all(future.cancel() for future in futures[2:])
    _finish(tmp_path, futures[:2])
    wait_until(lambda: not queue(), "an empty queue")
    assert _started(tmp_path) == 2


def test_max_submit_jobs_of_the_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_MAX_SUBMIT_JOBS", "6")
    assert SlurmExecutor.get_max_submit_jobs() == 6
    futures = _start(new_executor(), tmp_path, 10)
    wait_until(lambda: _started(tmp_path) == 6, "the first six calls")
    assert len(queue()) == 6
    _finish(tmp_path, futures)
    assert piece_sizes(futures) == [6, 4]
