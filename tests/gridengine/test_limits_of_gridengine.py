"""Promises on what Grid Engine refuses, and on how much it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import SubmissionException
from support import jobs, sge
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.gridengine

NewExecutor = Callable[..., Any]
Configure = Callable[[str, object], None]


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"q": "nowhere.q"}, 'unknown queue "nowhere.q"'),
        ({"mem": "4G"}, 'unknown resource "mem"'),
        ({"pe": "mpi 4"}, 'parallel environment "mpi" does not exist'),
        ({"P": "nothing"}, 'project "nothing" does not exist'),
        ({"h_vmem": "1GB"}, "1GB"),
        ({"w": "e", "pe": "smp 4000"}, "no suitable queues"),
    ],
)
def test_what_grid_engine_refuses_gets_its_words_and_the_command(
    new_executor: NewExecutor, tmp_path: Path, resources: dict[str, Any], words: str
) -> None:
    executor = new_executor(job_resources=resources)
    for future in executor.map_to_futures(jobs.square, [1, 2]):
        with pytest.raises(SubmissionException) as raised:
            future.result(LIMIT_S)
        assert words in str(raised.value)
        assert "of 2 of square" in str(raised.value)
        assert "qsub -terse" in str(raised.value)


@pytest.mark.parametrize("option", ["t", "-o", "notify", "terse", "r", "N", "sync"])
def test_an_option_that_the_executor_owns_is_refused_and_leaves_nothing(
    new_executor: NewExecutor, tmp_path: Path, option: str
) -> None:
    with pytest.raises(ValueError, match=f"'{option}' is the option -"):
        new_executor(job_resources={option: "x"})
    assert list(tmp_path.iterdir()) == []


def test_a_large_array_becomes_several_jobs(
    new_executor: NewExecutor, configure: Configure
) -> None:
    configure("max_aj_tasks", 3)
    futures = new_executor().map_to_futures(jobs.square, range(7))
    assert [future.result(LIMIT_S) for future in futures] == [i * i for i in range(7)]
    assert list(Counter(future.cluster_jobid for future in futures).values()) == [3, 3, 1]


def test_jobs_beyond_the_users_limit_go_in_when_there_is_room(
    new_executor: NewExecutor, configure: Configure, tmp_path: Path
) -> None:
    wait_until(lambda: not sge.elements(), "an empty queue")  # others' would count, too
    configure("max_u_jobs", 2)
    executor = new_executor()
    waiting = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(3)]
    )
    also = executor.map_to_futures(jobs.touch_and_wait, [(tmp_path / "also", tmp_path / "gate")])
    wait_until(lambda: also[0].running(), "the second array")
    late = executor.submit(jobs.square, 5)
    (tmp_path / "gate").touch()
    assert late.result(LIMIT_S) == 25
    assert [future.result(LIMIT_S) for future in waiting] == ["started0", "started1", "started2"]


def test_held_jobs_are_said_once(
    new_executor: NewExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    future = new_executor(job_resources={**sge.RESOURCES, "h": True}).submit(jobs.square, 3)
    wait_until(lambda: "held, or waiting for another job" in caplog.text, "the warning")
    sge.run("qrls", future.cluster_jobid)
    assert future.result(LIMIT_S) == 9
    assert caplog.text.count("held, or waiting") == 1
