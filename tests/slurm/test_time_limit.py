"""Promises on a job that reaches its time limit."""

from __future__ import annotations

from typing import Any

import pytest

import cluster_tools

pytestmark = pytest.mark.slurm

LIMIT_S = 150  # Slurm looks for jobs to end twice a minute


@pytest.mark.timeout(LIMIT_S + 10)
def test_a_job_beyond_its_time_limit_is_an_error_that_says_so(one_minute_job: Any) -> None:
    error = one_minute_job.exception(LIMIT_S)
    assert isinstance(error, cluster_tools.RemoteTimeLimitException)
    assert isinstance(error, cluster_tools.RemoteResourceLimitException)
    assert "time limit of 00:01:00" in str(error)
    assert f"(job {one_minute_job.cluster_jobid})" in str(error)
    assert f"slurmpy.{one_minute_job.cluster_jobid}.log.stdout" in str(error)
