"""Promises on batches whose executor is a cluster's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from support import jobs
from support.clusters import Cluster
from support.waiting import LIMIT_S


@pytest.fixture
def batching(cluster: Cluster, tmp_path: Path) -> Iterator[Any]:
    inner = {"name": cluster.environment, "cfut_dir": str(tmp_path), **cluster.keywords}
    with cluster_tools.get_executor("batching", executor=inner, batch_size=2) as executor:
        yield executor


def test_map_makes_one_array_of_the_batches(batching: Any, tmp_path: Path) -> None:
    assert list(batching.map(jobs.square, range(5))) == [0, 1, 4, 9, 16]
    (job,) = {log.name.partition("_")[0] for log in tmp_path.glob("*.log.stdout")}
    assert {log.name for log in tmp_path.glob("*.log.stdout")} == {
        f"{job}_{index}.log.stdout" for index in range(3)
    }


def test_each_item_has_a_future(batching: Any) -> None:
    futures = batching.map_to_futures(jobs.square, range(5))
    assert [future.result(LIMIT_S) for future in futures] == [0, 1, 4, 9, 16]


def test_a_batch_that_fails_fails_each_of_its_items(batching: Any) -> None:
    futures = batching.map_to_futures(jobs.os_exit_at_two, [1, 2, 3])
    for future in futures[:2]:
        assert isinstance(future.exception(LIMIT_S), cluster_tools.RemoteException)
    assert futures[2].result(LIMIT_S) == 3
