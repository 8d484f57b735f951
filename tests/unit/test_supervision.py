"""Promises on the script that opens the log, passes on signals and maps exit codes, which a real
shell runs here.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_REFUSED
from cluster_tools.schedulers.supervision import (
    EXIT_NO_LOG,
    exports,
    supervising_script,
    write_element_script,
)
from support.waiting import LIMIT_S, wait_until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a Python program as the element of a job, whose log is tmp_path / "log"."""

    def start_job(
        program: str,
        *,
        log: Path = tmp_path / "log",
        grace_s: float = 60.0,
        trusts_group: bool = False,
        setup_lines: tuple[str, ...] = (),
    ) -> subprocess.Popen[bytes]:
        path, names = str(tmp_path / "element's.sh"), f"cluster_tools_log={shlex.quote(str(log))}\n"
        command = [sys.executable, "-c", program]
        shell = write_element_script(
            path, names, exports({"OWN_"}), command, "", str(tmp_path), setup_lines
        )
        script = supervising_script(
            path,
            shell,
            names,
            owner=os.geteuid(),
            umask=0o027,
            trusts_group=trusts_group,
            warning="USR2",
            grace_s=grace_s,
            not_to_end_with=(99, 100),
        )
        return subprocess.Popen(
            ["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True
        )

    return start_job


_WAIT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *arguments: sys.exit("told to end"))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("code", "reported"), [(0, 0), (3, 3), (99, 1), (100, 1), (255, 255)])
def test_a_job_ends_with_the_exit_code_but_for_those_with_another_meaning(
    start: Start, tmp_path: Path, code: int, reported: int
) -> None:
    assert start(f"raise SystemExit({code})").wait(LIMIT_S) == reported
    said = (tmp_path / "log").read_text()
    assert (f"exit code {code} has another meaning" in said) is (code != reported)


def test_a_set_up_line_cannot_end_a_job_with_such_a_code(start: Start) -> None:
    assert start("", setup_lines=("exit 99",)).wait(LIMIT_S) == 1


@pytest.mark.parametrize("setup_lines", [(), ("trap true EXIT",)], ids=["exec", "traps"])
def test_a_warning_tells_the_element_to_end_and_the_job_has_been_killed(
    start: Start, tmp_path: Path, setup_lines: tuple[str, ...]
) -> None:
    process = start(_WAIT, setup_lines=setup_lines)
    wait_until(lambda: "ready" in _text(tmp_path / "log"), "the element")
    os.killpg(process.pid, signal.SIGUSR2)
    assert process.wait(LIMIT_S) == -signal.SIGKILL
    assert "told to end" in _text(tmp_path / "log")


def test_what_does_not_end_by_itself_is_killed(start: Start, tmp_path: Path) -> None:
    process = start(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ready', flush=True); time.sleep(600)",
        grace_s=0.2,
    )
    wait_until(lambda: "ready" in _text(tmp_path / "log"), "the element")
    os.killpg(process.pid, signal.SIGUSR2)
    assert process.wait(LIMIT_S) == -signal.SIGKILL
    wait_until(lambda: not _has_processes(process.pid), "the end of its group")


def test_a_log_that_cannot_be_made_ends_the_job_before_its_call(
    start: Start, tmp_path: Path
) -> None:
    program = f"open({str(tmp_path / 'begun')!r}, 'w')"
    assert start(program, log=tmp_path / "nowhere" / "log").wait(LIMIT_S) == EXIT_NO_LOG
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert start(program, log=tmp_path / "link").wait(LIMIT_S) == EXIT_REFUSED
    os.mkfifo(tmp_path / "fifo")
    assert start(program, log=tmp_path / "fifo").wait(LIMIT_S) == EXIT_REFUSED
    assert not (tmp_path / "begun").exists()
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(("trusts_group", "mode"), [(False, 0o600), (True, 0o640)])
def test_a_log_is_for_us_alone_and_calls_have_the_clients_umask(
    start: Start, tmp_path: Path, trusts_group: bool, mode: int
) -> None:
    start("print(open('file', 'w'))", trusts_group=trusts_group).wait(LIMIT_S)
    assert (tmp_path / "log").stat().st_mode & 0o777 == mode
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_log_is_appended_to(start: Start, tmp_path: Path) -> None:
    for word in ("one", "two"):
        start(f"print({word!r})").wait(LIMIT_S)
    assert _text(tmp_path / "log").split() == ["one", "two"]


def test_a_script_that_has_gone_is_said(start: Start, tmp_path: Path) -> None:
    """Its executor was left before the job began."""
    (tmp_path / "log").touch()
    process = start("print('begun')")
    process.wait(LIMIT_S)
    (tmp_path / "element's.sh").unlink()
    script = cast(list[str], process.args)[2]
    again = subprocess.run(["/bin/sh", "-c", script], check=False, timeout=LIMIT_S)
    assert again.returncode == EXIT_NO_ARRAY
    assert "Either its executor has gone" in _text(tmp_path / "log")


def test_the_environment_arrives_but_for_what_is_the_jobs(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONG", "x" * 20_000)
    monkeypatch.setenv("ODD", "it's\n$HOME `x` \\ \udce4\u00e4")
    monkeypatch.setenv("OWN_THING", "of the client")
    monkeypatch.setenv("a-b", "no name in a shell")
    program = "import os; print(ascii([os.environ.get(n) for n in ('LONG', 'ODD')]))"
    process = start(program)
    script = (tmp_path / "element's.sh").read_text(errors="surrogateescape")
    process.wait(LIMIT_S)
    assert "OWN_THING" not in script
    assert "a-b" not in script
    assert _text(tmp_path / "log").strip() == ascii([os.environ["LONG"], os.environ["ODD"]])


def _has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
