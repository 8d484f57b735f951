"""Promises on how a job's process ends, and on what an earlier run of its element has left."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster_tools import pickling
from cluster_tools.cluster import run_directory
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.format import run_files
from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_OUTPUT_NOT_WRITTEN
from cluster_tools.job import worker
from support import jobs, lingering_calls
from support.clusters import LOCAL
from support.lingering_calls import LEAVING
from support.waiting import LIMIT_S, wait_until

START = Path(worker.__file__).parent / "start_worker.py"
_LINGERS = "cluster_tools: what the call has left behind still runs; the job ends"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "cfut"))


def _write_array(
    directory: RunDirectory, function: Callable[..., Any], *arguments: Any, linger_s: float = 60.0
) -> str:
    writer = directory.begin_array()
    keywords: dict[str, Any] = {}
    writer.add(pickling.dumps(function), pickling.dump_fragments((arguments, keywords)), None)
    writer.finish(run_directory.manifest(os.getcwd(), None, None, linger_s=linger_s))
    return writer.path


def _start(
    array: str, *, submission: int = 0, restart: int = 0, **options: Any
) -> subprocess.Popen[str]:
    numbers = [str(number) for number in (0, submission, 0, restart)]
    usual: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    return subprocess.Popen(
        [sys.executable, str(START), array, *numbers, "12_0", "/logs/job.log"],
        text=True,
        **{**usual, **options},
    )


def _end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=LIMIT_S)
    return process.returncode, stderr


def _run(
    directory: RunDirectory, function: Callable[..., Any], *arguments: Any, linger_s: float = 60.0
) -> tuple[int, str]:
    return _end_of(_start(_write_array(directory, function, *arguments, linger_s=linger_s)))


def _outcome(directory: RunDirectory) -> run_directory.Outcome:
    return directory.outcome(0, run_files.output_name(0))


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


@pytest.mark.parametrize("leave", LEAVING)
def test_what_a_call_leaves_behind_does_not_keep_the_job(
    directory: RunDirectory, leave: Callable[[], int]
) -> None:
    status, stderr = _run(directory, leave, linger_s=0.5)
    assert (status, stderr) == (0, f"{_LINGERS}\n")
    assert _outcome(directory).value == 7


def test_a_job_ends_whose_interpreter_runs_no_python_any_more(directory: RunDirectory) -> None:
    _, stderr = _run(
        directory, lingering_calls.hang_in_c_at_exit_and_let_no_python_run, linger_s=0.5
    )
    assert "in _hang_in_c_and_let_no_python_run" in stderr  # the log tells where it was
    assert _outcome(directory).value == 7


def test_a_daemon_thread_does_not_keep_the_job(directory: RunDirectory) -> None:
    assert _run(directory, lingering_calls.leave_a_daemon_thread) == (0, "")
    assert _outcome(directory).value == 7


@pytest.mark.parametrize("leave", [lingering_calls.leave_a_child, lingering_calls.leave_a_command])
def test_a_process_that_a_call_has_started_does_not_keep_the_job(
    directory: RunDirectory, leave: Callable[[], int]
) -> None:
    array = _write_array(directory, leave, linger_s=0.5)
    process = _start(
        array, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert process.wait(LIMIT_S) == 0
        assert _outcome(directory).value == 7
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # as a scheduler does


def test_the_patience_may_be_none_at_all(directory: RunDirectory) -> None:
    assert _run(directory, lingering_calls.leave_a_thread, linger_s=0)[0] == 0
    assert _outcome(directory).value == 7


@pytest.mark.parametrize(
    "leave", [lingering_calls.leave_work_for_threads, lingering_calls.leave_work_for_processes]
)
def test_an_executor_of_the_standard_librarys_that_has_work_keeps_the_job(
    directory: RunDirectory, tmp_path: Path, leave: Callable[[Path], int]
) -> None:
    assert _run(directory, leave, tmp_path, linger_s=0.5) == (0, "")
    assert (tmp_path / "late").exists()


def test_looking_for_work_keeps_nothing_of_other_threads_alive() -> None:
    class Large:
        pass

    begun, gate = threading.Event(), threading.Event()
    seen: list[weakref.ref[Large]] = []

    def hold() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        begun.set()
        gate.wait(LIMIT_S)

    with ThreadPoolExecutor(1) as executor:
        executor.submit(int).result(LIMIT_S)
        wait_until(lambda: not worker.has_work(), "the thread to wait for work")
        thread = threading.Thread(target=hold)
        thread.start()
        assert begun.wait(LIMIT_S)
        gc.disable()
        try:
            assert not worker.has_work()
            gate.set()
            thread.join(LIMIT_S)
            assert seen[0]() is None
        finally:
            gc.enable()


def test_an_executor_that_waits_for_its_own_jobs_keeps_the_job(
    directory: RunDirectory, tmp_path: Path
) -> None:
    call = (lingering_calls.leave_a_nested_executor, LOCAL.new_executor, tmp_path)
    _, stderr = _run(directory, *call, linger_s=0.5)
    assert stderr == ""
    assert (tmp_path / "late").exists()
    assert list((tmp_path / "nested").iterdir()) == []


def test_what_lingers_ends_once_its_executor_was_left(directory: RunDirectory) -> None:
    """By its own doing: its client may be gone, or on another machine."""
    process = _start(_write_array(directory, lingering_calls.leave_a_thread, linger_s=1e6))
    wait_until(lambda: directory.look_again([0])[0], "the output")
    directory.remove()
    assert _end_of(process)[0] == 0


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
    assert directory.look_again([0]) == ({0: [run_files.interrupted_name(0)]}, {})
    assert _end_of(_start(array, **again))[0] == 9
    assert directory.look_again([0]) == ({}, {})


def test_an_element_that_begins_when_its_executor_has_ended_makes_nothing(tmp_path: Path) -> None:
    gone = tmp_path / "run.gone"
    with pytest.raises(worker.Stop, match="its executor has ended") as stop:
        worker._claim(str(gone), 0, 0, 0, "12_0")
    assert stop.value.code == EXIT_NO_ARRAY
    assert not gone.exists()


def test_an_output_for_an_executor_that_has_ended_is_told_so(directory: RunDirectory) -> None:
    status, stderr = _run(directory, remove, directory.path)
    assert status == EXIT_OUTPUT_NOT_WRITTEN
    assert "the output could not be written (its executor has ended)" in stderr


def test_an_output_that_cannot_be_written_is_not_blamed_on_the_executor(
    directory: RunDirectory,
) -> None:
    status, stderr = _run(directory, put_a_file_in_place_of, directory.shard(0))
    assert status == EXIT_OUTPUT_NOT_WRITTEN
    assert "the output could not be written" in stderr
    assert "executor has ended" not in stderr
