"""Promises on pilots that need Kubernetes: their time limit, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import RemoteTimeLimitException
from support import jobs, kube
from support.clusters import element_of
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.kubernetes


@pytest.mark.timeout(180)
def test_a_call_that_a_pilots_limit_has_ended_gets_a_full_one_once(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor({"time_limit_s": 15}, pilot_jobs=1)
    steps = [
        partial(jobs.square_after, 2, 1),
        partial(jobs.note_run_and_wait_long, tmp_path / "runs"),
        partial(jobs.square, 3),
    ]
    quick, long, after = executor.map_to_futures(jobs.run, steps)
    assert quick.result(LIMIT_S) == 4
    error = long.exception(3 * LIMIT_S)
    assert isinstance(error, RemoteTimeLimitException), error
    assert "Task 1 of 3 of run" in str(error)
    assert "15 s" in str(error)
    assert (tmp_path / "runs").read_text() == "run\n" * 2
    assert after.result(LIMIT_S) == 9


@pytest.mark.timeout(180)
def test_a_pilot_begins_nothing_that_its_limit_would_end(
    new_executor: Callable[..., Any],
) -> None:
    executor = new_executor({"time_limit_s": 20}, pilot_jobs=1)
    futures = executor.map_to_futures(partial(jobs.square_after, seconds=4), range(4))
    assert [future.result(2 * LIMIT_S) for future in futures] == [0, 1, 4, 9]
    assert len({element_of(future) for future in futures}) > 1


def test_nothing_is_left_of_pilots(new_executor: Callable[..., Any], tmp_path: Path) -> None:
    with new_executor(pilot_jobs=2) as executor:
        assert list(executor.map(jobs.square, range(20))) == [n * n for n in range(20)]
    wait_until(lambda: not kube.jobs_in(tmp_path), "the end of the Jobs")
