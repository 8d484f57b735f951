"""Promises on pilots that end or fall silent: the call that one was running has a cause, no other
is lost or runs twice.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

import containers
import pytest
from endings import assert_says

import cluster_tools
from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteExitException,
    RemoteNodeFailureException,
)
from support import jobs
from support.clusters import command, element_of
from support.waiting import LIMIT_S, wait_until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("mended_nodes"),
]

_OTHERS = 60
_ONE_A_NODE = {"mem": "100M", "exclusive": True}


def note_and_square(notes: Path, number: int) -> int:
    with (notes / str(number)).open("a") as file:
        file.write("run\n")
    return number * number


def leave_room_for_few_bytes() -> None:
    """In the journal of the pilot that runs this: less than a record has."""
    open_files = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    (journal,) = (path for path in open_files if "/pilots.journals/" in path)
    limit = os.stat(journal).st_size + 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _steps(tmp_path: Path, first: Callable[[], Any]) -> list[Callable[[], Any]]:
    notes = tmp_path / "notes"
    notes.mkdir()
    return [first, *(partial(note_and_square, notes, n) for n in range(_OTHERS))]


def _others_are_right(futures: list[Any], tmp_path: Path) -> None:
    assert not wait(futures, LIMIT_S).not_done
    assert [future.result() for future in futures] == [n * n for n in range(_OTHERS)]
    runs = Counter({path.name: len(path.read_text()) for path in (tmp_path / "notes").iterdir()})
    assert set(runs.values()) == {len("run\n")}


def test_scancel_of_a_pilot_by_somebody_else_costs_the_call_that_it_runs(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(pilot_jobs=2)
    running = partial(jobs.wait_long, tmp_path / "running")
    first, *others = executor.map_to_futures(jobs.run, _steps(tmp_path, running))
    wait_until((tmp_path / "running").exists, "the call")
    command("scancel", first.cluster_jobid + f"_{first.cluster_jobindex}")
    text = assert_says(first.exception(LIMIT_S), RemoteCancelledException, first)
    assert f"Task 0 of {_OTHERS + 1} of run" in text
    _others_are_right(others, tmp_path)


def test_a_pilot_out_of_memory_names_the_call(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(pilot_jobs=2)
    first, *others = executor.map_to_futures(
        jobs.run, _steps(tmp_path, partial(jobs.allocate, 400))
    )
    error = first.exception(LIMIT_S)
    text = assert_says(error, cluster_tools.RemoteOutOfMemoryException, first)
    assert f"Task 0 of {_OTHERS + 1} of run" in text
    assert "100M" in text
    _others_are_right(others, tmp_path)


def test_a_pilot_whose_node_is_killed_costs_the_call_that_it_runs(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(job_resources=_ONE_A_NODE, pilot_jobs=2)
    first, *others = executor.map_to_futures(
        jobs.run, _steps(tmp_path, partial(jobs.stay_on_node, tmp_path))
    )
    wait_until(lambda: any(tmp_path.glob("started.*")), "the call")
    (started,) = tmp_path.glob("started.*")
    containers.kill(started.suffix.removeprefix("."))
    assert not wait([first], 2 * LIMIT_S).not_done
    assert_says(first.exception(0), RemoteNodeFailureException, first)
    _others_are_right(others, tmp_path)
    assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


def test_a_pilot_on_a_paused_node_keeps_the_call_that_it_runs_and_no_other(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(job_resources=_ONE_A_NODE, pilot_jobs=2)
    first, *others = executor.map_to_futures(
        jobs.run, _steps(tmp_path, partial(jobs.stay_on_node, tmp_path))
    )
    wait_until(lambda: any(tmp_path.glob("started.*")), "the call")
    (started,) = tmp_path.glob("started.*")
    node = started.suffix.removeprefix(".")
    containers.pause(node)
    try:
        _others_are_right(others, tmp_path)
        assert not first.done()
        (tmp_path / f"gate.{node}").touch()
    finally:
        containers.unpause(node)
    assert first.result(LIMIT_S) == node
    assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    _others_are_right(others, tmp_path)  # it has not begun what was taken from it


def test_a_journal_cut_short_costs_the_call_whose_record_it_was(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    """The pilot can't write it whole, and ends there."""
    executor = new_executor(pilot_jobs=2)
    first, *others = executor.map_to_futures(jobs.run, _steps(tmp_path, leave_room_for_few_bytes))
    error = first.exception(LIMIT_S)
    text = assert_says(error, RemoteExitException, first)
    assert f"Task 0 of {_OTHERS + 1} of run" in text
    _others_are_right(others, tmp_path)


def test_each_call_runs_on_one_pilot_alone(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    """Many take from the same small ranges, and from each other."""
    executor = new_executor(pilot_jobs=8)
    notes = tmp_path / "notes"
    notes.mkdir()
    futures = executor.map_to_futures(partial(note_and_square, notes), range(_OTHERS))
    _others_are_right(futures, tmp_path)
    assert len({element_of(future) for future in futures}) > 1
