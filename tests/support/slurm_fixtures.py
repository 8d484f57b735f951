"""Executors on Slurm, for suites that need a real one: conftest modules import these fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.clusters import SLURM

__all__ = ["executor", "new_executor", "shared_directory"]


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `cfut_dir` of a module's shared executor."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def executor(shared_directory: Path) -> Iterator[Any]:
    """An executor that the tests of a module share. They leave it as they found it."""
    with SLURM.new_executor(shared_directory) as shared_executor:
        yield shared_executor


@pytest.fixture
def new_executor(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes executors of a test's own, with `tmp_path` for `cfut_dir`."""
    executors: list[Any] = []

    def new(**keywords: Any) -> Any:
        executors.append(SLURM.new_executor(tmp_path, **keywords))
        return executors[-1]

    yield new
    for executor in executors:
        executor.shutdown(cancel_futures=True)
