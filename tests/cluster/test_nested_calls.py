"""Promises on submission from inside a job."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from cluster_tools.errors import RemoteExitException
from support import jobs
from support.clusters import Cluster
from support.waiting import LIMIT_S, wait_until


def _sum_of_squares(cluster: Cluster, directory: Path, numbers: list[int]) -> int:
    with cluster.new_executor(directory) as executor:
        return sum(executor.map(jobs.square, numbers, timeout=LIMIT_S))


def _fail_inside(cluster: Cluster, directory: Path) -> Any:
    with cluster.new_executor(directory) as executor:
        return executor.submit(jobs.reciprocal, 0).result(LIMIT_S)


def _die_inside(cluster: Cluster, directory: Path) -> Any:
    with cluster.new_executor(directory) as executor:
        return executor.submit(jobs.os_exit).result(LIMIT_S)


def _submit_and_wait(cluster: Cluster, directory: Path) -> Any:
    with cluster.new_executor(directory) as executor:
        return executor.submit(jobs.wait_long, directory / "started").result()


@pytest.fixture(scope="module")
def executor(cluster: Cluster, shared_directory: Path) -> Iterator[Any]:
    """One that lets its calls make executors."""
    with cluster.new_executor(shared_directory, **cluster.nesting) as shared_executor:
        yield shared_executor


def test_get_executor_works_inside_a_job(cluster: Cluster, executor: Any, tmp_path: Path) -> None:
    futures = [
        executor.submit(_sum_of_squares, cluster, tmp_path / str(n), [n, n + 1]) for n in range(3)
    ]
    assert [future.result(LIMIT_S) for future in futures] == [1, 5, 13]
    names = {path.name.partition(".")[0] for path in (tmp_path / "0").iterdir()}
    assert names == {cluster.log_prefix}


def test_the_inner_exception_arrives_once(cluster: Cluster, executor: Any, tmp_path: Path) -> None:
    steps = [
        partial(_fail_inside, cluster, tmp_path / "fails"),
        partial(_die_inside, cluster, tmp_path / "dies"),
    ]
    failed, died = executor.map_to_futures(jobs.run, steps)
    error = failed.exception(LIMIT_S)
    assert isinstance(error, ZeroDivisionError)
    assert isinstance(error, cluster_tools.RemoteException)
    assert type(error).__mro__.count(cluster_tools.RemoteException) == 1
    assert "The call of reciprocal" in error.error
    dead = died.exception(LIMIT_S)
    assert type(dead) is RemoteExitException
    assert "The call of os_exit" in str(dead)
    assert dead.job_id != died.cluster_jobid


def test_cancelling_the_outer_job_cancels_the_inner_one(cluster: Cluster, tmp_path: Path) -> None:
    inner_directory = tmp_path / "inner"
    outer = cluster.new_executor(tmp_path / "outer", **cluster.nesting)
    with pytest.raises(ZeroDivisionError), outer:
        outer.submit(_submit_and_wait, cluster, inner_directory)
        wait_until((inner_directory / "started").exists, "the inner call")
        raise ZeroDivisionError
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of both jobs")
