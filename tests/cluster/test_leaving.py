"""Promises on what calls leave behind: it does not outlive their executor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import jobs, lingering_calls
from support.clusters import LOCAL, Cluster
from support.programs import executor_program
from support.waiting import LIMIT_S, wait_until

_NAMES = ["alone", "set up", "beside a shell", "on pilots"]
_WAYS: list[dict[str, Any]] = [
    {},
    {"additional_setup_lines": ["export SET_UP=yes"]},
    {"additional_setup_lines": ["sleep 600 &"]},
    {"pilot_jobs": 1},
]


def _pids(directory: Path) -> list[int]:
    return [int(path.read_text()) for path in directory.glob("pid*")]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


_SUBMIT = """
    from support import lingering_calls
    executor = new_executor(linger_s=600, **{way!r})
    with executor:
        print(executor.submit(lingering_calls.note_and_leave_a_thread, directory).result())
        {end}
"""


@pytest.mark.parametrize("end", ["pass", "raise KeyError"])
@pytest.mark.parametrize("way", _WAYS, ids=_NAMES)
def test_what_lingers_on_this_machine_has_ended_when_its_executor_was_left(
    tmp_path: Path, way: dict[str, Any], end: str
) -> None:
    with executor_program(LOCAL, tmp_path, _SUBMIT.format(way=way, end=end)) as program:
        assert program.exit_status() == (0 if end == "pass" else 1)
        assert program.stdout == "7\n"
    (pid,) = _pids(tmp_path)
    if end == "pass":
        assert not _is_alive(pid)
    wait_until(lambda: not _is_alive(pid), "the end of the job")


def test_what_lingers_anywhere_ends_after_its_executor_was_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.new_executor(tmp_path, linger_s=600) as executor:
        assert executor.submit(lingering_calls.leave_a_thread).result(LIMIT_S) == 7
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its job")


def test_what_lingers_does_not_keep_others_from_its_place(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, max_workers=1, linger_s=0.5) as executor:
        for number in range(3):
            call = (lingering_calls.note_and_leave_a_thread, tmp_path, number)
            assert executor.submit(*call).result(LIMIT_S) == 7
        first, second, _ = _pids(tmp_path)
        wait_until(lambda: not _is_alive(first) and not _is_alive(second), "their end")


def test_what_lingers_outlives_a_client_that_was_killed_by_its_patience(tmp_path: Path) -> None:
    body = """
        from support import lingering_calls
        executor = new_executor(linger_s=1)
        executor.submit(lingering_calls.note_and_leave_a_thread, directory).result()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.exit_status() == -signal.SIGKILL
    wait_until(lambda: not any(map(_is_alive, _pids(tmp_path))), "the end of the job")


def test_exit_functions_are_waited_for(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path / "cfut") as executor:
        assert executor.submit(lingering_calls.write_at_exit, tmp_path / "late").result(LIMIT_S)
    assert (tmp_path / "late").exists()


@pytest.mark.parametrize(
    "leave", [lingering_calls.leave_work_for_threads, lingering_calls.leave_work_for_processes]
)
def test_work_of_the_calls_own_executors_goes_on(
    tmp_path: Path, leave: Callable[[Path], int]
) -> None:
    with LOCAL.new_executor(tmp_path / "cfut", linger_s=0) as executor:
        assert executor.submit(leave, tmp_path).result(LIMIT_S) == 7
    wait_until((tmp_path / "late").exists, "the work")


def test_a_thread_does_not_keep_its_pilot(tmp_path: Path) -> None:
    with LOCAL.new_executor(
        tmp_path, pilot_jobs=1, pilot_idle_timeout_s=0.1, linger_s=0.5
    ) as executor:
        call = (lingering_calls.note_and_leave_a_thread, tmp_path)
        assert executor.submit(*call).result(LIMIT_S) == 7
        (pid,) = _pids(tmp_path)
        wait_until(lambda: not _is_alive(pid), "the end of the pilot")
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


@pytest.mark.parametrize("linger_s", [-1, float("nan"), float("inf"), "10", None])
def test_a_patience_that_is_no_number_of_seconds_is_refused(tmp_path: Path, linger_s: Any) -> None:
    with pytest.raises(ValueError, match="linger_s"):
        LOCAL.new_executor(tmp_path, linger_s=linger_s)
