"""Promises on sbatch, squeue and sacct that hang, fail or print what they should not.

Wrappers stand before the real commands on PATH; jobs, queue and accounting are Slurm's own.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import controller
import pytest

from cluster_tools.errors import RemoteExitException
from cluster_tools.schedulers.slurm import commands, scheduler
from support import jobs
from support.clusters import SLURM, element_of, queue
from support.other_user import only_root_is_two, replace
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]

_COUNT = 4
# What a command that hangs is given, instead of a minute and more.
_TIMEOUT_S = 3

Wrap = Callable[[str, str], None]


@pytest.fixture
def wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrap:
    """Puts a script of bash before a command of Slurm's, where `real "$@"` is the command
    itself.
    """
    directory = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return partial(controller.wrap, directory)


@pytest.fixture
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "QUERY_TIMEOUT_S", _TIMEOUT_S)
    monkeypatch.setattr(scheduler, "SBATCH_TIMEOUT_S", _TIMEOUT_S)


_HANGS = "exec sleep 600"
_PRINTS_GARBAGE = r"printf '\377\001 |7|\n|||\nJob 12 of 3\n'; exit 0"
_FAILS = (
    'echo "$(basename "$0"): error: Unable to contact slurm controller (connect failure)" >&2; '
    "exit 1"
)
_TIMES_OUT = (
    'echo "sbatch: error: Batch job submission failed: '
    'Socket timed out on send/recv operation" >&2; exit 1'
)
_IS_KILLED = "kill -9 $$"


def _four_times_of_five(counter: Path, fault: str) -> str:
    counts = shlex.quote(str(counter))
    return f'echo >> {counts}\nif (( $(wc -l < {counts}) % 5 )); then {fault}; fi\nreal "$@"'


@pytest.mark.usefixtures("_short_patience")
@pytest.mark.parametrize("command", ["sbatch", "squeue", "sacct"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(_HANGS, id="hangs"),
        pytest.param(_PRINTS_GARBAGE, id="prints_garbage"),
        pytest.param(_FAILS, id="fails"),
    ],
)
def test_four_faults_of_five_of_a_command_cost_no_result_and_no_cause(
    tmp_path: Path, wrap: Wrap, command: str, fault: str
) -> None:
    calls = tmp_path / "calls"
    wrap(command, _four_times_of_five(calls, fault))
    with SLURM.new_executor(tmp_path / "cfut") as executor:
        futures = executor.map_to_futures(jobs.os_exit_at_two, range(_COUNT))
        results = [futures[i].result(LIMIT_S) for i in (0, 1, 3)]
        assert results == [0, 1, 3]
        error = futures[2].exception(2 * LIMIT_S)
        assert isinstance(error, RemoteExitException)
        assert "exit code 3" in str(error)
        assert f"(job {element_of(futures[2])})" in str(error)
    assert calls.exists()


def _run_once(executor: Any, tmp_path: Path) -> list[Any]:
    """The futures of calls that tell how often they have run, once there is `gate`."""
    gate = tmp_path / "gate"
    runs = [tmp_path / f"runs{i}" for i in range(_COUNT)]
    steps = [partial(jobs.note_run_and_wait, path, gate) for path in runs]
    futures = executor.map_to_futures(jobs.run, steps)
    wait_until(lambda: all(path.exists() for path in runs), "the calls")
    return futures


@pytest.mark.usefixtures("_short_patience")
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(_TIMES_OUT, id="times_out"),
        pytest.param(_HANGS, id="hangs"),
        pytest.param(_IS_KILLED, id="is_killed"),
        pytest.param(_PRINTS_GARBAGE, id="prints_garbage"),
    ],
)
def test_an_array_whose_submission_was_not_answered_is_found_and_not_submitted_again(
    tmp_path: Path, wrap: Wrap, end: str
) -> None:
    submitted = tmp_path / "submitted"
    lose = f'real "$@" > /dev/null; [ -e {submitted} ] || {{ touch {submitted}; {end}; }}'
    wrap("sbatch", f"if [ -e {submitted} ]; then echo again >> {submitted}; fi\n{lose}")
    with SLURM.new_executor(tmp_path / "cfut") as executor:
        futures = _run_once(executor, tmp_path)
        assert futures[0].cluster_jobid  # the answer has been missed, and the job found
        assert len(SLURM.elements_of(tmp_path)) == _COUNT
        (tmp_path / "gate").touch()
        assert [future.result(LIMIT_S) for future in futures] == [1] * _COUNT
    assert submitted.read_text() == ""


def test_an_array_that_was_submitted_twice_runs_once(tmp_path: Path, wrap: Wrap) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    wrap(
        "sbatch",
        f'[ -e {first} ] || {{ real "$@" > {first}; {_TIMES_OUT}; }}\ntouch {again}; real "$@"',
    )
    # A slurmctld that has just come back may not know of it yet.
    header = f"echo '{commands.SQUEUE_HEADER}'"
    wrap("squeue", f'[ -e {again} ] || {{ {header}; exit 0; }}\nreal "$@"')
    with SLURM.new_executor(tmp_path / "cfut") as executor:
        futures = _run_once(executor, tmp_path)
        job_id = first.read_text().strip()
        wait_until(
            lambda: all(future.cluster_jobid == job_id for future in futures),
            "the first job to be found out",
        )
        assert again.exists()
        (tmp_path / "gate").touch()
        assert [future.result(LIMIT_S) for future in futures] == [1] * _COUNT


@only_root_is_two
def test_a_script_in_another_users_directory_is_not_submitted(
    group_directory: Path, tmp_path: Path, wrap: Wrap
) -> None:
    """He has put it in the place of the run directory while slurmctld could not be reached."""
    asked, gate, again = tmp_path / "asked", tmp_path / "gate", tmp_path / "again"
    wrap(
        "sbatch",
        f"""\
[ ! -e {asked} ] || touch {again}
touch {asked}
until [ -e {gate} ]; do sleep 0.1; done
echo "sbatch: error: Unable to contact slurm controller (connect failure)" >&2
exit 1""",
    )
    with SLURM.new_executor(group_directory, trust_group=True) as executor:
        future = executor.submit(jobs.square, 3)
        wait_until(asked.exists, "sbatch")
        (run_directory,) = group_directory.glob("run.*")
        replace(run_directory, lambda _: None)
        gate.touch()
        for one in (future, executor.submit(jobs.square, 4)):
            assert "in the place of the run directory" in str(one.exception(LIMIT_S))
    assert not again.exists()


def test_a_cancellation_that_slurmctld_does_not_answer_is_repeated(
    tmp_path: Path, wrap: Wrap
) -> None:
    """As one that was stopped, and forgets what it was told meanwhile."""
    asked = tmp_path / "asked"
    words = "Kill job error on job id 7: Socket timed out on send/recv operation"
    fails = f'touch {asked}; echo "scancel: error: {words}" >&2; exit 140'
    wrap("scancel", f'[ -e {asked} ] || {{ {fails}; }}\nreal "$@"')
    later = {"mem": "50M", "begin": "now+1hour"}
    with SLURM.new_executor(tmp_path / "cfut", job_resources=later) as executor:
        future = executor.submit(jobs.square, 3)
        job_id = future.cluster_jobid
        assert future.cancel()
        wait_until(asked.exists, "scancel")
        wait_until(lambda: job_id not in queue("%i"), "an empty queue")
