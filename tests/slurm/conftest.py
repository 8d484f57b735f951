"""Executors on Slurm, for suites that need a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
from clusters import SLURM, command


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


@pytest.fixture(scope="session")
def one_minute_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The future of a call that runs into the shortest time limit there is.

    Slurm takes up to a minute and a half to end it: the tests that ask for this fixture first have
    no use for it, and are what happens meanwhile.
    """
    directory = tmp_path_factory.mktemp("one_minute")
    resources = {"mem": "50M", "time": "00:01:00"}
    with SLURM.new_executor(directory, job_resources=resources) as executor:
        future = executor.submit(jobs.wait_long, directory / "started")
        yield future
        if not future.done():  # the test that waits for it was not among those that were asked for
            command("scancel", future.cluster_jobid)
