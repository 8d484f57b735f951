"""Promises on nodes that are lost while calls run there: each call has one result, or an error that
names them.

Slurm notices after SlurmdTimeout; how long a future may take from then on is LIMIT_S.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import containers
import pytest
from endings import assert_says, let_run_again, sacct_line

from cluster_tools.errors import RemoteNodeFailureException
from support import jobs
from support.clusters import SLURM, command, element_of
from support.waiting import LIMIT_S, wait_until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("mended_nodes"),
]


def _node_of(directory: Path) -> str:
    """Where a call of `stay_on_node` has started."""
    wait_until(lambda: any(directory.glob("started.*")), "the call")
    (started,) = directory.glob("started.*")
    return started.suffix.removeprefix(".")


def _other(node: str) -> str:
    return "c2" if node == "c1" else "c1"


def _wait_until_lost(node: str) -> None:
    def state() -> str:
        return command("sinfo", "--noheader", f"--nodes={node}", "--format=%T")[0]

    wait_until(lambda: state().endswith("*"), f"a question that {node} does not answer")
    wait_until(lambda: state().startswith("down"), f"Slurm to give up {node}")


def _left(directory: Path) -> list[str]:
    """What an executor has left there besides logs."""
    return [path.name for path in directory.iterdir() if not path.name.startswith("slurmpy.")]


def test_calls_of_a_killed_node_run_again_or_say_that_it_failed(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    again = new_executor().submit(jobs.stay_on_node, tmp_path)
    node = _node_of(tmp_path)
    once = {"mem": "50M", "no-requeue": True, "nodelist": node}
    never = new_executor(job_resources=once).submit(jobs.wait_long, tmp_path / "running")
    wait_until((tmp_path / "running").exists, "the call that runs once")
    containers.kill(node)
    _wait_until_lost(node)
    text = assert_says(never.exception(LIMIT_S), RemoteNodeFailureException, never)
    assert f"The job's node failed on node {node}" in text
    assert sacct_line(never) in text
    let_run_again(again.cluster_jobid)
    (tmp_path / f"gate.{_other(node)}").touch()
    assert again.result(LIMIT_S) == _other(node)


def test_a_call_that_goes_on_when_its_node_is_unpaused_does_not_count_twice(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own = tmp_path_factory.mktemp("own")
    called_back: list[Any] = []
    with SLURM.new_executor(own) as executor:
        future = executor.submit(jobs.stay_on_node, tmp_path)
        future.add_done_callback(called_back.append)
        node = _node_of(tmp_path)
        containers.pause(node)
        _wait_until_lost(node)
        let_run_again(future.cluster_jobid)
        (tmp_path / f"gate.{_other(node)}").touch()
        assert future.result(LIMIT_S) == _other(node)
        (tmp_path / f"gate.{node}").touch()
        containers.unpause(node)
        # The late copy writes its output although nobody waits for it any more.
        wait_until(lambda: any(own.glob("run.*/*/*.output")), "the late output")
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
        assert future.result(0) == _other(node)
    assert called_back == [future]
    assert not _left(own)


def test_a_call_on_a_node_that_is_cut_off_does_not_count_twice(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own = tmp_path_factory.mktemp("own")
    runs, before = tmp_path / "runs", tmp_path / "before"
    called_back: list[Any] = []
    with SLURM.new_executor(own) as executor:
        steps = [
            partial(jobs.note_run_and_wait, runs, before),
            partial(jobs.stay_on_node, tmp_path),
        ]
        early, late = futures = executor.map_to_futures(jobs.run, steps)
        for future in futures:
            future.add_done_callback(called_back.append)
        node = _node_of(tmp_path)
        wait_until(runs.exists, "the call that ends before Slurm notices")
        where = containers.disconnect(node)
        # What comes from there counts at once, and for good: its element is requeued all the same.
        before.touch()
        assert early.result(LIMIT_S) == 1
        _wait_until_lost(node)
        for future in futures:
            let_run_again(element_of(future))
        wait_until((tmp_path / f"started.{_other(node)}").exists, "the second copy")
        # Both copies run: the first result counts, whosever it is.
        (tmp_path / f"gate.{node}").touch()
        assert late.result(LIMIT_S) == node
        (tmp_path / f"gate.{_other(node)}").touch()
        wait_until((tmp_path / f"finished.{_other(node)}").exists, "the second copy's end")
        containers.connect(node, where)
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
        assert (early.result(0), late.result(0)) == (1, node)
    assert called_back == futures
    assert not _left(own)
    assert runs.read_text() == "run\n"


def test_calls_that_are_lost_with_a_node_before_they_began_go_in_again_as_one_job(
    new_executor: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their set-up lines still ran. One among them is cancelled: so they are in no row."""
    count, gate = 10, tmp_path / "gate"
    lines = [
        f"touch {tmp_path}/set-up.$(hostname).$SLURM_ARRAY_TASK_ID",
        f"until [ -e {gate} ]; do sleep 0.1; done",
    ]
    resources = {"mem": "900M", "no-requeue": True}  # eight fit on a node
    executor = new_executor(job_resources=resources, additional_setup_lines=lines)
    runs = [tmp_path / f"run{number}" for number in range(count)]
    steps = [partial(jobs.note_run_and_wait, path, gate) for path in runs]
    futures = executor.map_to_futures(jobs.run, steps)
    wait_until(lambda: len(list(tmp_path.glob("set-up.*"))) == count, "the set-up lines")
    indexes = [int(path.suffix[1:]) for path in tmp_path.glob("set-up.c1.*")]
    assert 2 < len(indexes) < count
    first_job = futures[0].cluster_jobid
    cancelled = sorted(indexes)[1]
    assert futures[cancelled].cancel()
    containers.kill("c1")
    _wait_until_lost("c1")
    lost = [futures[index] for index in indexes if index != cancelled]
    wait_until(lambda: f"{len(lost)} tasks of run" in caplog.text, "what Slurm says of them")
    wait_until(lambda: first_job not in {future.cluster_jobid for future in lost}, "the other job")
    assert len({future.cluster_jobid for future in lost}) == 1
    gate.touch()
    others = [future for future in futures if future is not futures[cancelled]]
    assert [future.result(LIMIT_S) for future in others] == [1] * (count - 1)
    assert len({element_of(future) for future in others}) == count - 1
    assert [path.exists() for path in runs].count(False) == 1
