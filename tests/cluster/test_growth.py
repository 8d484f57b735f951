"""Promises on what stays: files and memory are bounded by what is open, not by what was."""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.format import pilots
from support import jobs
from support.clusters import LOCAL, SLURM, Cluster
from support.waiting import LIMIT_S, wait_until

NewExecutor = Callable[..., Any]

# What an executor itself has, also with pilots: its heartbeat, directories' marks, a journal a
# pilot.
_FEW_FILES = 20
# A pilot's journal keeps at most two parts of a megabyte.
_FEW_BYTES = 5_000_000
# Of all containers of the process together; caches of the interpreter and of pytest grow a little.
_FEW_KILOBYTES = 20


def _files(directory: Path) -> list[Path]:
    return [Path(folder, name) for folder, _, names in os.walk(directory) for name in names]


def _bytes(directory: Path) -> int:
    total = 0
    for path in _files(directory):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _kilobytes_in_containers() -> float:
    """Of what has room for one more: so also of those that hold numbers alone."""
    gc.collect()
    kinds = (dict, list, set, deque)
    containers: list[object] = [held for held in gc.get_objects() if isinstance(held, kinds)]
    return sum(map(sys.getsizeof, containers)) / 1000


def _count(kind: type) -> int:
    gc.collect()
    return sum(isinstance(held, kind) for held in gc.get_objects())


def fail(number: int) -> None:
    raise ValueError(number)


def return_much_now_and_then(number: int) -> bytes:
    """Of 20 results one is small and printed, one is in a journal, one is a file of its own."""
    if number % 20 == 0:
        print(number)
    return bytes({1: 300_000, 2: 2_000_000}.get(number % 20, number % 2))


def _use(executor: Any, calls: int) -> None:
    """All ways in which calls come in, and in which they end."""
    assert list(executor.map(jobs.square, range(calls))) == [n * n for n in range(calls)]
    futures = executor.map_to_futures(return_much_now_and_then, range(calls // 10))
    futures += [executor.submit(jobs.square, number) for number in range(calls // 20)]
    failing = [executor.submit(fail, number) for number in range(5)]
    for future in [executor.submit(jobs.square, number) for number in range(20)]:
        future.cancel()
    assert not wait([*futures, *failing], LIMIT_S).not_done
    assert all(future.exception() is None for future in futures)
    assert all(isinstance(future.exception(), ValueError) for future in failing)


@pytest.mark.parametrize(
    ("keywords", "calls", "rounds"), [({"pilot_jobs": 2}, 1_500, 12), ({}, 20, 5)]
)
def test_many_calls_through_one_executor_leave_nothing(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    keywords: dict[str, Any],
    calls: int,
    rounds: int,
) -> None:
    caplog.set_level("CRITICAL")  # records of failures are kept by pytest
    others = _count(TaskArray)  # of tests before this one, whose records it keeps
    with LOCAL.new_executor(tmp_path, keep_logs=False, **keywords) as executor:
        for _ in range(2):
            _use(executor, calls)
        wait_until(lambda: len(_files(tmp_path)) <= _FEW_FILES, "files to go")
        before = _kilobytes_in_containers()
        for _ in range(rounds):
            _use(executor, calls)
        wait_until(lambda: len(_files(tmp_path)) <= _FEW_FILES, "files to go")
        assert _bytes(tmp_path) <= _FEW_BYTES
        wait_until(lambda: _kilobytes_in_containers() - before < _FEW_KILOBYTES, "memory to go")
        assert _count(TaskArray) - others <= 2  # of the pilots


def test_what_is_over_of_a_long_array_goes_before_its_end(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor()
    gate = tmp_path / "gate"
    count = 12
    steps = [partial(jobs.wait_minutes_for, gate)] + [partial(jobs.square, n) for n in range(count)]
    first, *others = executor.map_to_futures(jobs.run, steps)
    assert [future.result(LIMIT_S) for future in others] == [n * n for n in range(count)]
    wait_until(first.running, "the long one")

    def left() -> list[str]:
        return [path.name for path in tmp_path.glob("run.*/0/*")]

    wait_until(lambda: set(left()) <= {"0.claim.0.0", "over"}, "files to go")
    assert not first.done()
    gate.touch()
    assert first.result(LIMIT_S) == "gate"
    wait_until(lambda: set(left()) <= {"over"}, "the rest to go")


def test_a_directory_of_tasks_goes_with_the_last_of_them(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=2) as executor:
        for _ in range(4):
            large = executor.map_to_futures(jobs.return_bytes, [2_000_000] * 3)
            assert list(executor.map(jobs.square, range(900))) == [n * n for n in range(900)]
            assert all(len(future.result(LIMIT_S)) == 2_000_000 for future in large)
        # Of the newest tasks, and of those of the pilots, which are open.
        wait_until(lambda: len(list(tmp_path.glob("run.*/[0-9]*"))) <= 2, "directories to go")


def test_pilots_that_have_left_leave_no_journals(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=3, pilot_idle_timeout_s=0) as executor:
        for number in range(10):
            assert executor.submit(jobs.square, number).result(LIMIT_S) == number**2
            wait_until(lambda: not list(tmp_path.glob(f"run.*/{pilots.JOURNALS}/*")), "their end")
        assert not executor._session._pool._runs


def test_cancelled_calls_on_pilots_are_forgotten(tmp_path: Path) -> None:
    """And nobody begins them, though nothing tells any more that they were cancelled."""
    with LOCAL.new_executor(tmp_path, pilot_jobs=1) as executor:
        started, gate, ran = tmp_path / "started", tmp_path / "gate", tmp_path / "ran"
        running = executor.submit(jobs.touch_and_wait, (started, gate))
        wait_until(started.exists, "the call")
        (directory,) = tmp_path.glob("run.*")
        for _ in range(4):
            for future in executor.map_to_futures(jobs.touch, [ran] * 1_000):
                assert future.cancel()
        others = executor.map_to_futures(jobs.touch, [ran, tmp_path / "other"])
        assert others[0].cancel()
        wait_until(lambda: len(list((directory / pilots.TODO).iterdir())) <= 4, "what is to do")
        assert (directory / pilots.REVOKED).stat().st_size < 20_000
        gate.touch()
        assert running.result(LIMIT_S) == "started"
        assert others[1].result(LIMIT_S) == "other"
        assert not ran.exists()


@pytest.mark.parametrize(
    "cluster", [LOCAL, pytest.param(SLURM, marks=pytest.mark.slurm)], ids=["local", "slurm"]
)
def test_results_that_were_read_are_on_no_disk(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.new_executor(tmp_path, pilot_jobs=1) as executor:
        for _ in range(12):
            assert len(executor.submit(jobs.return_bytes, 900_000).result(LIMIT_S)) == 900_000
        wait_until(lambda: _bytes(tmp_path) <= 2_500_000, "results to go")
