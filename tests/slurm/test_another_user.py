"""Promises on jobs that begin when another user has put his run directory in the place of theirs.

The client does not help, as it is stopped: each job has to see for itself.
"""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.clusters import SLURM, command
from support.other_user import OTHER, fill_with_poison, only_root_is_two, replace
from support.programs import Program, executor_program
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, only_root_is_two]

_PROGRAM = """\
executor = new_executor(cfut_dir=str(directory), trust_group=True, **{keywords!r})
{calls}
for future in futures:
    print(repr(future.exception()))
"""
_LATER_JOBS = """\
futures = executor.map_to_futures(jobs.touch, [directory / f"ran{i}" for i in range(3)])
print(f"ready {futures[0].cluster_jobid}")
"""
_BUSY_PILOT = """\
futures = [executor.submit(jobs.touch_and_wait, (directory / "started", directory / "gate"))]
wait_until(started)
print("ready")
"""


def _program(calls: str, **keywords: Any) -> str:
    return _PROGRAM.format(keywords=keywords, calls=calls)


def _stop_and_replace(program: Program, directory: Path, trace: Path) -> None:
    program.send(signal.SIGSTOP)
    (run_directory,) = directory.glob("run.*")
    replace(run_directory, partial(fill_with_poison, trace=trace))


def _refusals(directory: Path) -> int:
    """How many logs say that what was found is another's."""
    logs = [log.read_text() for log in directory.glob("*.log.stdout")]
    return sum(f"belongs to the user {OTHER}" in log for log in logs)


def _ends_with_a_clear_error(program: Program) -> None:
    program.send(signal.SIGCONT)
    ready, *errors = program.succeed().splitlines()
    assert ready
    assert errors
    assert all("in the place of the run directory" in error for error in errors), errors


def test_an_element_that_begins_then_runs_nothing_of_his(
    group_directory: Path, trace: Path
) -> None:
    later = {"mem": "100M", "begin": "now+1hour"}
    program = executor_program(SLURM, group_directory, _program(_LATER_JOBS, job_resources=later))
    with program:
        program.wait_for("ready")
        _stop_and_replace(program, group_directory, trace)
        command("scontrol", "update", f"jobid={program.stdout.split()[1]}", "starttime=now")
        wait_until(lambda: _refusals(group_directory) == 3, "three refusals")
        _ends_with_a_clear_error(program)
    assert not trace.exists()
    assert not list(group_directory.glob("ran*"))


def test_a_pilot_that_takes_a_range_of_his_runs_nothing_of_it(
    group_directory: Path, trace: Path
) -> None:
    with executor_program(SLURM, group_directory, _program(_BUSY_PILOT, pilot_jobs=1)) as program:
        program.wait_for("ready")
        _stop_and_replace(program, group_directory, trace)
        (group_directory / "gate").touch()
        wait_until(lambda: _refusals(group_directory) == 1, "a refusal")
        _ends_with_a_clear_error(program)
    assert not trace.exists()
