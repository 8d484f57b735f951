"""Promises on what schedulers with commands for users have in common, with a small queueing system
whose commands are fakes on PATH.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Options,
    Refused,
    RefusedForCount,
    RefusedForSize,
    SchedulerError,
    State,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.commands import read_ranges
from cluster_tools.schedulers.resources import requested
from support.small_queue import SmallQueueScheduler
from support.waiting import wait_until

TOKEN = "0a1b2c3d.0.0.0"
_QUEUE = f"5 call.{TOKEN} runs 0\n5 call.{TOKEN} waits 2-3\n6 call.11223344.0.0.0 runs 0\n"
Fake = Callable[..., None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a command on PATH that prints a text, and notes its arguments in a file of its name."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    monkeypatch.chdir(tmp_path)  # the run directory

    def install(name: str, stdout: str = "", stderr: str = "", status: int = 0) -> None:
        (directory / name).write_text(
            f'#!/bin/sh\necho "$@" >{tmp_path}/{name}.part\n'
            f"mv {tmp_path}/{name}.part {tmp_path}/{name}\n"
            f"printf %s '{stdout}'\nprintf %s '{stderr}' >&2\nexit {status}\n"
        )
        (directory / name).chmod(0o755)

    return install


def _scheduler() -> SmallQueueScheduler:
    return SmallQueueScheduler(Options(log_directory="/logs/a b"))


def _request() -> ArrayRequest:
    return ArrayRequest("a call", TOKEN, 3, True, ["worker"], "/somewhere", os.getcwd())


def test_the_submit_command_is_given_a_script_and_says_the_job_id(
    fake: Fake, tmp_path: Path
) -> None:
    fake("put", "Welcome!\njob 5\n")
    assert _scheduler().submit(_request()) == "5"
    path = tmp_path / f"{TOKEN}.job"
    assert (tmp_path / "put").read_text() == f"a_call.{TOKEN} 3 {path}\n"
    assert not path.exists()
    script = (tmp_path / f"{TOKEN}.sh").read_text()
    names = script[: script.index("export")].removeprefix("exec 3<&-\n")
    shown = subprocess.run(
        ["/bin/sh", "-c", f'{names}echo "$cluster_tools_index $cluster_tools_log"'],
        env={"ID": "5", "INDEX": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert shown.stdout == "2 /logs/a b/small.5_2.log.stdout\n"
    assert 'exec worker "$cluster_tools_index" "0" "$cluster_tools_job"' in script


@pytest.mark.parametrize(
    ("stderr", "status", "error"),
    [
        ("no answer to hello", 1, Unreachable),
        ("no answer", 1, Uncertain),
        ("too large", 1, RefusedForSize),
        ("anything", 7, RefusedForCount),
        ("too large", 7, RefusedForCount),  # the first in the table
        ("anything", 1, Refused),
        ("", 0, Uncertain),  # no job id
    ],
)
def test_the_table_of_refusals_says_what_a_failure_means(
    fake: Fake, stderr: str, status: int, error: type[SchedulerError]
) -> None:
    fake("put", stderr=stderr, status=status)
    with pytest.raises(SchedulerError) as raised:
        _scheduler().submit(_request())
    assert type(raised.value) is error


def test_states_are_of_the_queue_and_of_accounting(fake: Fake, tmp_path: Path) -> None:
    fake("list", _QUEUE)
    fake("past")
    (tmp_path / "bin" / "past").write_text(
        f'#!/bin/sh\n[ "$1" = 7 ] && echo "7 call.{TOKEN} 3 1\n7 earlier 0 2" || exit 1\n'
    )
    states = _scheduler().states({"5": TOKEN, "6": TOKEN, "7": TOKEN})
    assert {element: report.state for element, report in states.items()} == {
        Element("5", 0): State.RUNNING,
        Element("5", 2): State.PENDING,
        Element("5", 3): State.PENDING,
        Element("7", 1): State.ENDED,
    }


def test_endings_are_those_of_records_and_without_one_an_element_is_lost(fake: Fake) -> None:
    fake("past", f"5 call.{TOKEN} 3 1\n")
    one, other = Element("5", 1), Element("5", 2)
    endings = _scheduler().explain({one: None, other: None}, {"5": TOKEN})
    assert endings[one].exit_code == 3
    assert endings[other].cause is Cause.LOST
    assert "Small Queue does not know job 5_2" in endings[other].message
    assert "past has no record" in endings[other].message


def test_a_helper_cancels_elements_by_a_scheduler_of_another_package(
    fake: Fake, tmp_path: Path
) -> None:
    fake("list", _QUEUE)
    fake("drop")
    elements = [Element("5", 0), Element("5", 2), Element("5", 3), Element("7", 0)]
    _scheduler().cancel(elements, "0a1b2c3d")
    wait_until((tmp_path / "drop").exists, "drop")
    assert (tmp_path / "drop").read_text() == "5[0-0] 5[2-3]\n"


def test_a_job_in_the_queue_whose_name_was_changed_is_known_by_its_script(
    fake: Fake, tmp_path: Path
) -> None:
    fake("list")
    (tmp_path / "bin" / "list").write_text(
        f'#!/bin/sh\n[ -z "$1" ] && echo 5 renamed runs 0 || echo "/a/{TOKEN}.job"\n'
    )
    assert _scheduler().states({"5": TOKEN}).keys() == {Element("5", 0)}
    assert _scheduler().jobs_of("0a1b2c3d", {"5"}) == {"5"}
    assert _scheduler().jobs_of("0a1b2c3d", set()) == set()
    assert _scheduler().jobs_of("11223344", {"5"}) == set()


def test_nothing_is_stopped_where_nothing_was_submitted(fake: Fake, tmp_path: Path) -> None:
    fake("list", _QUEUE)
    fake("drop")
    _scheduler().stop(["5"], "0a1b2c3d")
    assert not (tmp_path / "list").exists()


@pytest.mark.parametrize(
    ("text", "first", "indexes"),
    [
        ("7", 0, [7]),
        ("2", 1, [1]),
        ("4-8:2,11", 1, [3, 5, 7, 10]),
        ("0-2", 0, [0, 1, 2]),
        ("", 0, []),
    ],
)
def test_ranges_of_indexes_are_read(text: str, first: int, indexes: list[int]) -> None:
    assert [index for some in read_ranges(text, first=first) for index in some] == indexes


def test_resources_are_checked_by_a_table() -> None:
    def read(resources: Mapping[str, object]) -> list[tuple[str, object]]:
        return list(requested(resources, command="put", owned={"o"}, makes_no_job={"t": {"try"}}))

    asked = {"-m": 4, "x": True, "n": None, "f": False, "t": "now"}
    assert read(asked) == [("m", 4), ("x", True), ("t", "now")]
    with pytest.raises(ValueError, match="'-o' is the option -o of put"):
        read({"-o": None})
    with pytest.raises(ValueError, match="with 'try' put makes no job"):
        read({"t": "try"})
