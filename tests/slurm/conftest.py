"""Executors on Slurm, and a job that runs into its time limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support import jobs
from support.clusters import SLURM, command
from support.other_user import group_directory, trace
from support.slurm_fixtures import executor, new_executor, shared_directory

__all__ = ["executor", "group_directory", "new_executor", "shared_directory", "trace"]


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
