"""Promises on set-up lines: only a line that itself fails ends the job. A real bash runs them
here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster_tools.schedulers.script import job_script
from support.waiting import LIMIT_S


def _run(directory: Path, *lines: str) -> tuple[int, str, str]:
    script = job_script([sys.executable, "-c", "print('ran')"], "", str(directory), lines)
    shell = script.partition("\n")[0].removeprefix("#!")
    ended = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_a_function_may_go_on_after_a_command_that_fails_in_it(tmp_path: Path) -> None:
    """As those of module, conda and nvm do."""
    assert _run(tmp_path, "load() { false; true; }", "load") == (0, "ran\n", "")


def test_a_sourced_file_may_go_on_after_a_command_that_fails_in_it(tmp_path: Path) -> None:
    (tmp_path / "env.sh").write_text("false\nexport SEEN=yes\ngrep -q x /dev/null\ntrue\n")
    assert _run(tmp_path, "source ./env.sh", 'test "$SEEN" = yes') == (0, "ran\n", "")


def test_a_function_that_fails_ends_the_job(tmp_path: Path) -> None:
    status, stdout, stderr = _run(tmp_path, "load() { true; false; }", "load")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("cluster_tools: a set-up line failed with exit code 1: ")
    assert len(stderr.splitlines()) == 1


def test_a_sourced_file_that_fails_ends_the_job_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "env.sh").write_text("return 4\n")
    status, stdout, stderr = _run(tmp_path, "source ./env.sh")
    assert (status, stdout) == (4, "")
    assert stderr == "cluster_tools: a set-up line failed with exit code 4: source ./env.sh\n"


@pytest.mark.parametrize("code", [0, 3])
def test_set_up_lines_that_exit_are_told_to_have_ended_the_job(tmp_path: Path, code: int) -> None:
    status, stdout, stderr = _run(tmp_path, f"exit {code}")
    assert (status, stdout) == (code, "")
    assert stderr == f"cluster_tools: the set-up lines ended the job with exit code {code}\n"


@pytest.mark.parametrize("line", ["false || true", "if false; then true; fi", "! true || true"])
def test_a_failure_that_a_line_deals_with_is_none(tmp_path: Path, line: str) -> None:
    assert _run(tmp_path, line) == (0, "ran\n", "")
