"""Crosses each test with the cluster strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.clusters import CLUSTERS, Cluster
from support.other_user import group_directory, trace

__all__ = ["group_directory", "trace"]


@pytest.fixture(scope="module", params=CLUSTERS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return request.param


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `cfut_dir` of a module's shared executor."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def executor(cluster: Cluster, shared_directory: Path) -> Iterator[Any]:
    """An executor that the tests of a module share. They leave it as they found it."""
    with cluster.new_executor(shared_directory) as shared_executor:
        yield shared_executor


@pytest.fixture
def new_executor(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes executors of a test's own, with `tmp_path` for `cfut_dir`."""
    executors: list[Any] = []

    def new(**keywords: Any) -> Any:
        executors.append(cluster.new_executor(tmp_path, **keywords))
        return executors[-1]

    yield new
    for executor in executors:
        executor.shutdown(cancel_futures=True)
