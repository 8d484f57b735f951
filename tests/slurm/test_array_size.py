"""Promises on the size of arrays, and on how much of one runs at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from limits import piece_sizes, restart_slurmctld

from cluster_tools import SlurmExecutor
from support import jobs
from support.clusters import SLURM, command, queue
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.slurm

CONFIGURATION = Path("/etc/slurm/slurm.conf")
MAX_ARRAY_SIZE = 5


@pytest.fixture(scope="module")
def low_max_array_size() -> Iterator[int]:
    """A Slurm that takes no larger arrays."""
    ordinary = CONFIGURATION.read_text()
    lines = [line for line in ordinary.splitlines() if not line.startswith("MaxArraySize")]
    try:
        CONFIGURATION.write_text("\n".join([*lines, f"MaxArraySize={MAX_ARRAY_SIZE}\n"]))
        restart_slurmctld()
        yield MAX_ARRAY_SIZE
    finally:
        CONFIGURATION.write_text(ordinary)
        restart_slurmctld()


def test_an_array_of_more_than_max_array_size_becomes_pieces(
    low_max_array_size: int, new_executor: Callable[..., Any]
) -> None:
    futures = new_executor().map_to_futures(jobs.square, range(12))
    assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(12)]
    assert piece_sizes(futures) == [5, 5, 2]


def test_an_array_of_max_array_size_is_one_job(
    low_max_array_size: int, new_executor: Callable[..., Any]
) -> None:
    futures = new_executor().map_to_futures(jobs.square, range(low_max_array_size))
    assert [future.result(LIMIT_S) for future in futures] == [0, 1, 4, 9, 16]
    assert piece_sizes(futures) == [5]


def test_a_bad_call_in_a_later_piece_is_named_by_its_place_in_the_whole(
    low_max_array_size: int, new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor()
    futures = executor.map_to_futures(jobs.reciprocal, [*range(1, 8), 0, 1])
    error = futures[7].exception(LIMIT_S)
    assert isinstance(error, ZeroDivisionError)
    job_id = futures[7].cluster_jobid
    assert futures[7].cluster_jobindex == 2
    assert f"Task 7 of 9 of reciprocal (job {job_id}_2)" in error.error  # type: ignore[attr-defined]
    assert str(tmp_path / f"slurmpy.{job_id}_2.log.stdout") in error.error  # type: ignore[attr-defined]
    assert [f.result(LIMIT_S) for f in [*futures[:7], futures[8]]] == [
        *[1 / n for n in range(1, 8)],
        1,
    ]


def test_get_max_array_size_is_what_slurm_says_now(low_max_array_size: int) -> None:
    assert SlurmExecutor.get_max_array_size() == low_max_array_size


def test_max_array_size_of_the_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, executor: Any
) -> None:
    monkeypatch.setenv("SLURM_MAX_ARRAY_SIZE", "4")
    assert SlurmExecutor.get_max_array_size() == 4
    futures = executor.map_to_futures(jobs.square, range(10))
    assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(10)]
    assert piece_sizes(futures) == [4, 4, 2]


def test_max_running_size_of_the_environment_bounds_what_runs_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executor: Any
) -> None:
    wait_until(lambda: not queue(), "an empty queue")
    assert SlurmExecutor.get_max_running_size() == 0
    monkeypatch.setenv("SLURM_MAX_RUNNING_SIZE", "2")
    assert SlurmExecutor.get_max_running_size() == 2
    gate = tmp_path / "gate"
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(5)]
    )
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == 2, "the first two calls")
    records = command("scontrol", "--oneliner", "show", "job", futures[0].cluster_jobid)
    assert any("ArrayTaskThrottle=2" in record for record in records)
    assert SlurmExecutor.get_number_of_submitted_jobs("RUNNING") == 2
    assert SlurmExecutor.get_number_of_submitted_jobs("PENDING") == 3
    assert SlurmExecutor.get_number_of_submitted_jobs() == 5
    pending = executor.get_pending_tasks()
    assert pending == {f"{futures[0].cluster_jobid}_{index}" for index in (2, 3, 4)}
    gate.touch()
    assert [future.result(LIMIT_S) for future in futures] == [f"started{i}" for i in range(5)]


def test_a_limit_of_the_environment_that_is_no_number_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_MAX_ARRAY_SIZE", "many")
    with SLURM.new_executor(tmp_path) as executor:
        future = executor.submit(jobs.square, 2)
        error = future.exception(LIMIT_S)
    assert "SLURM_MAX_ARRAY_SIZE" in str(error)
    assert "many" in str(error)


def test_a_hundred_calls_in_one_map(executor: Any) -> None:
    results = list(executor.map(jobs.square, range(100), timeout=LIMIT_S))
    assert results == [n * n for n in range(100)]


def test_jobs_run_on_both_nodes(executor: Any, tmp_path: Path) -> None:
    """More than one node has room for."""
    gate = tmp_path / "gate"
    wide = executor.map_to_futures(
        jobs.node_once_open, [(tmp_path / f"started{i}", gate) for i in range(20)]
    )
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == 20, "twenty calls at once")
    gate.touch()
    assert {future.result(LIMIT_S) for future in wide} == {"c1", "c2"}
