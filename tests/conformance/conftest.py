"""Crosses each test with the strategies, and makes the executors."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from strategies import STRATEGIES, NewExecutor, Strategy

import cluster_tools

_MARKS = {
    "slurm": [pytest.mark.slurm],
    "slurm_pilots": [pytest.mark.slurm],
    "gridengine": [pytest.mark.gridengine],
    "gridengine_pilots": [pytest.mark.gridengine],
    "kubernetes": [pytest.mark.kubernetes],
    "kubernetes_pilots": [pytest.mark.kubernetes],
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "holds_for(property): the promise is kept by strategies with this property"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "strategy" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("holds_for")
    metafunc.parametrize(
        "strategy",
        [
            pytest.param(strategy, id=name, marks=_MARKS.get(name, []))
            for name, strategy in STRATEGIES.items()
            if marker is None or getattr(strategy, marker.args[0])
        ],
        indirect=True,
        scope="module",
    )


@pytest.fixture(scope="module")
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return request.param


@pytest.fixture(scope="session")
def directories(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Strategy], Path]]:
    """New directories that the calls of a strategy see, too."""
    numbers = itertools.count()
    tmp_root = tmp_path_factory.mktemp("conformance")
    # The nodes of a cluster share the checkout with us, and not /tmp.
    shared_root = Path.cwd() / ".cfut" / f"conformance-{os.getpid()}"

    def new_directory(strategy: Strategy) -> Path:
        root = shared_root if strategy.environment == "slurm" else tmp_root
        directory = root / str(next(numbers))
        directory.mkdir(parents=True)
        return directory

    yield new_directory
    shutil.rmtree(shared_root, ignore_errors=True)


@pytest.fixture
def directory(strategy: Strategy, directories: Callable[[Strategy], Path]) -> Path:
    return directories(strategy)


@pytest.fixture(scope="module")
def executor(strategy: Strategy, directories: Callable[[Strategy], Path]) -> Iterator[Any]:
    """An executor that the tests of a module share. They leave it as they found it."""
    with cluster_tools.get_executor(
        strategy.environment, **strategy.arguments(directories(strategy))
    ) as shared_executor:
        yield shared_executor


@pytest.fixture
def new_executor(strategy: Strategy, directory: Path) -> Iterator[NewExecutor]:
    """Makes executors for tests that shut them down, or need a narrow one."""
    executors: list[Any] = []

    def new(*, narrow: bool = False, **keywords: Any) -> Any:
        arguments = {**strategy.arguments(directory, narrow=narrow), **keywords}
        executors.append(cluster_tools.get_executor(strategy.environment, **arguments))
        return executors[-1]

    yield new
    for executor in executors:
        executor.shutdown(cancel_futures=True)
