"""Promises on the shell script of an element, which a real shell runs here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from cluster_tools.format.exit_codes import EXIT_NO_WORKING_DIRECTORY
from cluster_tools.schedulers.script import job_script
from support.waiting import LIMIT_S, wait_until

PRINT = [sys.executable, "-c", "import os, sys; print(os.getcwd(), sys.argv[1:])"]


def _start(script: str) -> subprocess.Popen[str]:
    shell = script.partition("\n")[0].removeprefix("#!")
    return subprocess.Popen(
        [shell, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _run(script: str) -> tuple[int, str, str]:
    process = _start(script)
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    return process.returncode, stdout, stderr


def test_words_arrive_as_they_are_and_arguments_are_shell_text(tmp_path: Path) -> None:
    words = [*PRINT, "it's", "$HOME", "a b", ""]
    status, stdout, _ = _run(job_script(words, '"$((1 + 2))" "x  y"', str(tmp_path), []))
    expected = ["it's", "$HOME", "a b", "", "3", "x  y"]
    assert (status, stdout) == (0, f"{tmp_path} {expected}\n")


def test_the_working_directory_may_have_any_name(tmp_path: Path) -> None:
    directory = tmp_path / '-it\'s $HOME `x` "y"'
    directory.mkdir()
    for setup_lines in ([], ["true"]):
        _, stdout, stderr = _run(job_script(PRINT, "", str(directory), setup_lines))
        assert stdout == f"{directory} []\n", stderr


def test_a_working_directory_that_is_not_there_ends_it(tmp_path: Path) -> None:
    for setup_lines in ([], ["touch never"]):
        script = job_script(PRINT, "", str(tmp_path / "nowhere"), setup_lines)
        status, stdout, stderr = _run(script)
        assert (status, stdout) == (EXIT_NO_WORKING_DIRECTORY, "")
        assert f"{tmp_path}/nowhere does not exist on node" in stderr
    assert list(tmp_path.iterdir()) == []


def test_set_up_lines_are_lines_of_one_shell(tmp_path: Path) -> None:
    lines = ["greet() {", "  export GREETING=hello", "}", "greet", "true | false || true"]
    command = [sys.executable, "-c", "import os; print(os.environ['GREETING'])"]
    assert _run(job_script(command, "", str(tmp_path), lines)) == (0, "hello\n", "")


def test_a_failing_set_up_line_ends_it_and_is_named(tmp_path: Path) -> None:
    script = job_script(PRINT, "", str(tmp_path), ["true", "grep -q x /dev/null", "touch never"])
    status, stdout, stderr = _run(script)
    assert (status, stdout) == (1, "")
    assert "a set-up line failed with exit code 1: grep -q x /dev/null" in stderr
    assert list(tmp_path.iterdir()) == []


def test_the_exit_status_is_the_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit(7)"]
    for setup_lines in ([], ["true"]):
        assert _run(job_script(command, "", str(tmp_path), setup_lines))[0] == 7


_WAIT = """
import signal, sys, time
from pathlib import Path
def stop(signum, frame):
    Path("caught").write_text(str(signum)); sys.exit(5)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
Path("started").touch()
time.sleep(600)
"""


def test_signals_to_the_shell_reach_the_worker(tmp_path: Path) -> None:
    for setup_lines in ([], ["true"]):
        for signum in (signal.SIGINT, signal.SIGTERM):
            started = tmp_path / "started"
            started.unlink(missing_ok=True)
            process = _start(
                job_script([sys.executable, "-c", _WAIT], "", str(tmp_path), setup_lines)
            )
            wait_until(started.exists, "the worker")
            os.kill(process.pid, signum)
            process.communicate(timeout=LIMIT_S)
            assert process.returncode == 5
            assert (tmp_path / "caught").read_text() == str(int(signum))
