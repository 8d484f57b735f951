"""Promises on what a job is called in Slurm, and on the options of sbatch that users give."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.executors.slurm import SlurmExecutor
from cluster_tools.schedulers.base import ArrayRequest, Element, Options
from cluster_tools.schedulers.slurm.commands import SQUEUE_HEADER, queue_rows
from cluster_tools.schedulers.slurm.scheduler import SlurmScheduler
from support.waiting import wait_until

SESSION = "0a1b2c3d"
TOKEN = f"{SESSION}.0.0.0"
Words = Callable[[str], list[str]]


@pytest.fixture
def words_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Words:
    """Stands for Slurm's commands; tells what the last one of a name was given."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, printed in (
        ("sbatch", "77"),
        ("squeue", f"{SQUEUE_HEADER}\n77_1|RUNNING|None|/cfut/{TOKEN}.sh"),
        ("sacct", ""),
        ("scancel", ""),
    ):
        program = directory / name
        note = shlex.quote(str(tmp_path / name))
        program.write_text(
            f"#!/bin/sh\nenv > {note}.env\nprintf '%s\\n' \"$@\" > {note}.part\n"
            f"mv {note}.part {note}\necho {shlex.quote(printed)}\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    monkeypatch.chdir(tmp_path)  # the run directory
    for name in ("SLURM_MAX_SUBMIT_JOBS", "SLURM_MAX_ARRAY_SIZE", "SBATCH_CLUSTERS"):
        monkeypatch.delenv(name, raising=False)

    def words(name: str) -> list[str]:
        path = tmp_path / name
        wait_until(path.exists, name)  # scancel runs in a process of its own
        return path.read_text().splitlines()

    return words


def _scheduler(**resources: Any) -> SlurmScheduler:
    return SlurmScheduler(Options(job_resources=resources, log_directory="/logs"))


def _submit(scheduler: SlurmScheduler) -> None:
    scheduler.submit(ArrayRequest("call", TOKEN, 2, True, ["python"], "/", os.getcwd()))


@pytest.mark.parametrize("option", ["job-name", "job_name", "--job-name", "J", "-J"])
def test_a_name_among_the_resources_is_the_jobs(words_of: Words, option: str) -> None:
    _submit(_scheduler(**{option: "mine"}))
    words = words_of("sbatch")
    assert [word for word in words if "mine" in word] == ["--job-name=mine"]


@pytest.mark.parametrize("option", ["job-n", "job_nam", "arr", "out", "chd", "--par", "err", "wra"])
def test_an_abbreviation_of_an_option_that_is_ours_is_refused(option: str) -> None:
    """sbatch takes each beginning of an option for the option."""
    with pytest.raises(ValueError, match=option):
        _scheduler(**{option: "x"})


@pytest.mark.parametrize(
    "option",
    ["test-only", "--test-only", "help", "h", "usage", "version", "-V", "uid", "test", "vers"],
)
def test_an_option_with_which_no_job_of_ours_is_made_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="is the option --"):
        _scheduler(**{option: True})


@pytest.mark.parametrize("option", ["gres", "hint", "--mem-bind", "gpu_bind"])
def test_a_value_that_only_prints_help_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="makes no job"):
        _scheduler(**{option: "help"})


@pytest.mark.parametrize("option", ["qo", "clus", "part", "acc", "depend", "sig", "req"])
def test_an_option_that_is_read_has_to_be_written_in_full(option: str) -> None:
    with pytest.raises(ValueError, match="in full"):
        _scheduler(**{option: "x"})


@pytest.mark.parametrize("value", ["all", "a,b"])
def test_more_than_one_cluster_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="more than one cluster"):
        _scheduler(M=value)
    monkeypatch.setenv("SLURM_CLUSTERS", value)
    with pytest.raises(ValueError, match="more than one cluster"):
        _scheduler()
    _scheduler(clusters="a")


@pytest.mark.parametrize("option", ["requeue", "signal", "--signal"])
def test_what_can_have_no_effect_on_pilots_is_refused_with_them(
    tmp_path: Path, option: str
) -> None:
    with pytest.raises(ValueError, match="with pilots"):
        SlurmExecutor(cfut_dir=tmp_path, pilot_jobs=2, job_resources={option: "B:USR2@60"})
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_does_not_reach_the_call_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="signal=B:USR2@60"):
        _scheduler(signal="USR2@60")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _scheduler(signal="B:USR2@60")
        _scheduler(signal="RB:USR2@60")


def test_an_sbatch_line_among_the_set_up_lines_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="#SBATCH"):
        SlurmScheduler(Options(setup_lines=["#SBATCH --mem=4G"], log_directory="/logs"))


@pytest.mark.parametrize("option", ["dependency", "d", "--dependency"])
def test_with_singleton_one_element_runs_at_a_time(words_of: Words, option: str) -> None:
    """Slurm takes an array for one job, and which calls go together is for us to decide."""
    _submit(_scheduler(**{option: "afterok:1,singleton"}))
    words = words_of("sbatch")
    assert "--array=0-1%1" in words
    assert "--dependency=afterok:1,singleton" in words
    assert "--job-name=call" in words


@pytest.mark.parametrize("option", ["wait-all-nodes", "ntasks", "mem", "partition"])
def test_options_that_only_look_alike_are_let_through(words_of: Words, option: str) -> None:
    _submit(_scheduler(**{option: "1"}))
    assert f"--{option}=1" in words_of("sbatch")


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x1c", "\x85", "\u2028"])
def test_a_name_with_any_line_end_is_refused(tmp_path: Path, end: str) -> None:
    with pytest.raises(ValueError, match="job-name"):
        _scheduler(**{"job-name": f"a{end}b"})
    with pytest.raises(ValueError, match="job_name"):
        SlurmExecutor(cfut_dir=tmp_path, job_name=f"a{end}b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x1c", "\x85", "\u2028"])
def test_a_row_of_squeue_ends_only_with_its_line(end: str) -> None:
    """Others' jobs may have any command."""
    first, second = queue_rows(f"7_0|RUNNING|None|/a{end}b|c/{TOKEN}.sh\n8|PENDING|Priority|c\n")
    assert (first.job_id, first.index, first.command) == ("7", 0, f"/a{end}b|c/{TOKEN}.sh")
    assert second.job_id == "8"


def test_a_log_directory_that_sbatch_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="backslash"):
        SlurmScheduler(Options(log_directory="/logs\\here"))


def test_all_commands_ask_the_cluster_that_the_job_was_sent_to(
    words_of: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_CLUSTERS", "far")
    scheduler = _scheduler()
    _submit(scheduler)
    scheduler.states({"77": TOKEN})
    scheduler.cancel([Element("77", 1)], SESSION)
    for name in ("sbatch", "squeue", "scancel"):
        assert "--clusters=far" in words_of(name)
    assert not [w for w in words_of("sbatch.env") if w.startswith("SBATCH_CLUSTERS=")]


@pytest.mark.parametrize("option", ["clusters", "M"])
def test_a_cluster_among_the_resources_is_asked_by_all_commands(
    words_of: Words, option: str
) -> None:
    scheduler = _scheduler(**{option: "near"})
    _submit(scheduler)
    scheduler.states({"77": TOKEN})
    scheduler.cancel([Element("77", 1)], SESSION)
    for name in ("sbatch", "squeue", "scancel"):
        assert "--clusters=near" in words_of(name)


def test_an_empty_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="job_name '' is not one line of text"):
        SlurmExecutor(cfut_dir=tmp_path, job_name="")
