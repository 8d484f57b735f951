"""Promises on how a job's process ends, and on what an earlier run of its element has left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
from clusters import LOCAL
from waiting import LIMIT_S, wait_until

from cluster_tools import pickling, worker
from cluster_tools.cluster import run_directory
from cluster_tools.cluster.run_directory import RunDirectory

START = Path(worker.__file__).parent / "cluster" / "start_worker.py"
_LINGERS = "cluster_tools: what the call has left behind still runs; the job ends"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "cfut"))


def _write_array(
    directory: RunDirectory, function: Callable[..., Any], *arguments: Any, linger_s: float = 60.0
) -> str:
    writer = directory.begin_array()
    writer.add(pickling.dumps(function), pickling.dump_pieces((arguments, {})), None)
    writer.finish(run_directory.manifest(os.getcwd(), None, None, linger_s=linger_s))
    return writer.path


def _start(
    array: str, *, submission: int = 0, restart: int = 0, **options: Any
) -> subprocess.Popen[str]:
    numbers = [str(number) for number in (0, submission, 0, restart)]
    return subprocess.Popen(
        [sys.executable, str(START), array, *numbers, "12_0", "/logs/job.log"],
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        },
    )


def _end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=LIMIT_S)
    return process.returncode, stderr


def _run(
    directory: RunDirectory, function: Callable[..., Any], *arguments: Any, linger_s: float = 60.0
) -> tuple[int, str]:
    return _end_of(_start(_write_array(directory, function, *arguments, linger_s=linger_s)))


def _outcome(directory: RunDirectory) -> run_directory.Outcome:
    return directory.outcome(0, worker.output_name(0))


def leave_a_thread() -> int:
    threading.Thread(target=threading.Event().wait, args=(600,)).start()
    return 7


def leave_an_exit_function() -> int:
    import atexit

    atexit.register(threading.Event().wait, 600)
    return 7


def leave_a_daemon_thread() -> int:
    threading.Thread(target=threading.Event().wait, args=(600,), daemon=True).start()
    return 7


def touch_late(path: Path) -> None:
    """Beyond the patience for what a call leaves behind."""
    threading.Event().wait(1.5)
    path.touch()


def leave_an_executor(directory: Path) -> int:
    LOCAL.new_executor(directory / "nested", max_workers=1, keep_logs=False).submit(
        touch_late, directory / "late"
    )
    return 7


def fail_at_sigterm_and_later_die(started: Path) -> None:
    if started.exists():
        os._exit(9)
    try:
        jobs.wait_long(started)
    except SystemExit:
        raise ValueError("told to end") from None


def remove(path: str) -> None:
    shutil.rmtree(path)


def put_a_file_in_place_of(path: str) -> None:
    shutil.rmtree(path)
    Path(path).touch()


@pytest.mark.parametrize("leave", [leave_a_thread, leave_an_exit_function])
def test_what_a_call_leaves_behind_keeps_the_job_for_a_limited_time(
    directory: RunDirectory, leave: Callable[[], int]
) -> None:
    status, stderr = _run(directory, leave, linger_s=1)
    assert (status, stderr) == (0, f"{_LINGERS}\n")
    assert _outcome(directory).value == 7


def test_a_daemon_thread_does_not_keep_the_job(directory: RunDirectory) -> None:
    assert _run(directory, leave_a_daemon_thread) == (0, "")
    assert _outcome(directory).value == 7


def test_an_executor_that_waits_for_its_own_jobs_keeps_the_job(
    directory: RunDirectory, tmp_path: Path
) -> None:
    _, stderr = _run(directory, leave_an_executor, tmp_path, linger_s=1)
    assert stderr == ""
    assert (tmp_path / "late").exists()
    assert list((tmp_path / "nested").iterdir()) == []


@pytest.mark.parametrize("again", [{"restart": 1}, {"submission": 1}])
def test_what_interrupted_an_earlier_run_is_not_the_cause_of_a_later_ones_end(
    directory: RunDirectory, tmp_path: Path, again: dict[str, int]
) -> None:
    started = tmp_path / "started"
    array = _write_array(directory, fail_at_sigterm_and_later_die, started)
    first = _start(array)
    wait_until(started.exists, "the first run")
    first.send_signal(signal.SIGTERM)
    _end_of(first)
    assert directory.look_again([0]) == {0: [worker.interrupted_name(0)]}
    assert _end_of(_start(array, **again))[0] == 9
    assert directory.look_again([0]) == {}


def test_an_element_that_begins_when_its_executor_has_ended_makes_nothing(tmp_path: Path) -> None:
    gone = tmp_path / "run.gone"
    with pytest.raises(worker.Stop, match="its executor has ended") as stop:
        worker._claim(str(gone), 0, 0, 0, "12_0")
    assert stop.value.code == worker.EXIT_NO_ARRAY
    assert not gone.exists()


def test_an_output_for_an_executor_that_has_ended_is_told_so(directory: RunDirectory) -> None:
    status, stderr = _run(directory, remove, directory.path)
    assert status == worker.EXIT_OUTPUT_NOT_WRITTEN
    assert "the output could not be written (its executor has ended)" in stderr


def test_an_output_that_cannot_be_written_is_not_blamed_on_the_executor(
    directory: RunDirectory,
) -> None:
    status, stderr = _run(directory, put_a_file_in_place_of, directory.shard(0))
    assert status == worker.EXIT_OUTPUT_NOT_WRITTEN
    assert "the output could not be written" in stderr
    assert "executor has ended" not in stderr
