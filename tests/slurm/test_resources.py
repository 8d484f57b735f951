"""Promises on what a job asks for, is named, and is started with."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import SLURM, command
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("one_minute_job")]


@contextmanager
def _record_of_running(tmp_path: Path, **keywords: Any) -> Generator[dict[str, str]]:
    """What scontrol has on a job that runs."""
    started, gate = tmp_path / "started", tmp_path / "gate"
    with SLURM.new_executor(tmp_path, **keywords) as executor:
        future = executor.submit(jobs.touch_and_wait, (started, gate))
        wait_until(lambda: started.exists() or future.done(), "the call")
        try:
            (line,) = command("scontrol", "--oneliner", "show", "job", future.cluster_jobid)
            words = [word.partition("=") for word in line.split()]
            yield {name: value for name, _, value in words}
        finally:
            gate.touch()
        assert future.result(LIMIT_S) == "started"


def test_job_resources_are_what_the_job_asks_for(tmp_path: Path) -> None:
    resources = {
        "mem": "123M",
        "c": 3,
        "time": "00:17:00",
        "exclusive": None,
        "no_requeue": True,
        "contiguous": False,
        "comment": "with spaces, 'quotes' and $HOME",
    }
    with _record_of_running(tmp_path, job_resources=resources) as record:
        assert record["MinMemoryNode"] == "123M"
        assert record["CPUs/Task"] == "3"
        assert record["TimeLimit"] == "00:17:00"
        assert record["NumTasks"] == "1"
        assert record["OverSubscribe"] != "NO"
        assert record["Requeue"] == "0"
        assert record["Contiguous"] == "0"
        assert command("squeue", "-h", "-o", "%k", "-j", record["JobId"]) == [resources["comment"]]
    assert resources["c"] == 3


def test_exclusive_is_a_whole_node(tmp_path: Path) -> None:
    resources = {"mem": "123M", "exclusive": True}
    with _record_of_running(tmp_path, job_resources=resources) as record:
        assert record["OverSubscribe"] == "NO"
        assert record["NumCPUs"] == "16"


def test_a_count_of_tasks_is_the_users(tmp_path: Path) -> None:
    resources = {"mem": "50M", "ntasks": 2}
    with _record_of_running(tmp_path, job_resources=resources) as record:
        assert record["NumTasks"] == "2"


def test_the_job_is_named_after_the_function(tmp_path: Path) -> None:
    with _record_of_running(tmp_path) as record:
        assert record["JobName"] == "touch_and_wait"


def test_the_job_has_the_name_that_is_given(tmp_path: Path) -> None:
    with _record_of_running(tmp_path, job_name="my-name%j;'") as record:
        assert record["JobName"] == "my-name%j;'"


def test_the_job_runs_in_the_submitters_directory_as_its_user(tmp_path: Path) -> None:
    with _record_of_running(tmp_path) as record:
        assert record["UserId"] == "root(0)"
        assert record["StdOut"].startswith(str(tmp_path / "slurmpy."))


def test_set_up_lines_run_before_the_worker(tmp_path: Path) -> None:
    lines = ["export FROM_SET_UP='a b'", "cd /", 'export "LATER=$FROM_SET_UP c"']
    with SLURM.new_executor(tmp_path, additional_setup_lines=lines) as executor:
        futures = executor.map_to_futures(jobs.environment, ["FROM_SET_UP", "LATER"])
        assert [future.result(LIMIT_S) for future in futures] == ["a b", "a b c"]


def test_python_executable_runs_the_call(tmp_path: Path) -> None:
    other_name = tmp_path / "another_name_of_python"
    other_name.symlink_to(os.path.realpath(sys.executable))
    with SLURM.new_executor(tmp_path, python_executable=str(other_name)) as executor:
        assert executor.submit(jobs.interpreter).result(LIMIT_S) == str(other_name)


def test_command_prefix_stands_before_the_interpreter(tmp_path: Path) -> None:
    prefix = ["env", "PREFIX_SAYS=it's $HOME"]
    with SLURM.new_executor(tmp_path, command_prefix=prefix) as executor:
        assert executor.submit(jobs.environment, "PREFIX_SAYS").result(LIMIT_S) == "it's $HOME"


def test_the_submitters_environment_is_the_jobs(
    executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SUBMITTER", "seen")
    assert executor.submit(jobs.environment, "OF_THE_SUBMITTER").result(LIMIT_S) == "seen"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_CPU_BIND", "quiet,mask_cpu:0xF000"),
        ("SBATCH_OUTPUT", "/dev/null"),
        ("SBATCH_ARRAY_INX", "0-5"),
        ("SBATCH_WAIT", "1"),
        ("SQUEUE_FORMAT", "%u"),
        ("SQUEUE_STATES", "FAILED"),
        ("SACCT_FORMAT", "User"),
        ("SCANCEL_INTERACTIVE", "1"),
        ("SLURM_TIME_FORMAT", "relative"),
    ],
)
def test_variables_of_the_environment_do_no_harm(
    executor: Any, shared_directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    futures = executor.map_to_futures(jobs.run, [jobs.working_directory, jobs.raise_own_error])
    assert futures[0].result(LIMIT_S) == os.getcwd()
    assert isinstance(futures[1].exception(LIMIT_S), jobs.OwnError)
    assert (shared_directory / f"slurmpy.{futures[0].cluster_jobid}_0.log.stdout").exists()


def test_partition_of_the_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    with SLURM.new_executor(tmp_path) as executor:
        error = executor.submit(jobs.square, 1).exception(LIMIT_S)
    assert "invalid partition specified: nowhere" in str(error)


def test_a_keyword_of_another_strategy_is_ignored(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with SLURM.new_executor(tmp_path, max_workers=3, start_method="spawn") as executor:
            assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


def test_a_value_of_job_resources_arrives_as_it_is(tmp_path: Path) -> None:
    comment = f'it\'s $(touch {tmp_path}/ran) "quoted"; `touch {tmp_path}/ran` %j | \\n'
    resources = {"mem": "50M", "comment": comment}
    with SLURM.new_executor(tmp_path, job_resources=resources) as executor:
        started, gate = tmp_path / "started", tmp_path / "gate"
        future = executor.submit(jobs.touch_and_wait, (started, gate))
        wait_until(started.exists, "the call")
        assert command("squeue", "-h", "-j", future.cluster_jobid, "-o", "%k") == [comment]
        gate.touch()
        future.result(LIMIT_S)
    assert not (tmp_path / "ran").exists()


def test_nothing_of_the_environment_is_written_to_the_shared_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_SUBMITTER", "hush-hush")
    with SLURM.new_executor(tmp_path) as executor:
        started, gate = tmp_path / "started", tmp_path / "gate"
        future = executor.submit(jobs.touch_and_wait, (started, gate))
        wait_until(started.exists, "the call")
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) >= 4  # the array, the claim, the heartbeat, the log
        assert not [path for path in files if b"hush-hush" in path.read_bytes()]
        gate.touch()
        future.result(LIMIT_S)
