"""Promises on what runs in a job: started here as a scheduler would, with real files."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from cluster_tools import FileOutputStore, pickling
from cluster_tools.cluster import run_directory
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.errors import remote_exception
from cluster_tools.format import FORMAT, numbers, run_files
from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_OUTPUT_NOT_WRITTEN, EXIT_REFUSED
from cluster_tools.format.measured import Measured, read_measured
from cluster_tools.job import worker
from support import jobs
from support.waiting import LIMIT_S, wait_until

START = Path(worker.__file__).parent / "start_worker.py"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def _write_array(
    directory: RunDirectory,
    *calls: tuple[Callable[..., Any], tuple[Any, ...]],
    key: str | None = None,
    **manifest: Any,
) -> str:
    writer = directory.begin_array()
    keywords: dict[str, Any] = {}
    for function, arguments in calls:
        writer.add(pickling.dumps(function), pickling.dump_fragments((arguments, keywords)), key)
    store = None if key is None else FileOutputStore()
    writer.finish({**run_directory.manifest(os.getcwd(), None, store), **manifest})
    return writer.path


def _start(
    array: str,
    index: int = 0,
    *,
    tasks: str = "0-1",
    submission: int = 0,
    restart: int = 0,
    interpreter: str = sys.executable,
) -> subprocess.Popen[str]:
    numbers = [str(number) for number in (tasks, submission, index, restart)]
    return subprocess.Popen(
        [interpreter, str(START), array, *numbers, f"12_{index}", "/logs/slurmpy.12.log.stdout"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(array: str, index: int = 0, **keywords: Any) -> tuple[int, str, str]:
    process = _start(array, index, **keywords)
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    return process.returncode, stdout, stderr


def _outcome(directory: RunDirectory, task: int = 0) -> run_directory.Outcome:
    return directory.outcome(task, run_files.output_name(task))


def _measured(directory: RunDirectory, task: int) -> Measured:
    record = _outcome(directory, task).record
    return read_measured(record["node"], record["measured"])


def _exception(outcome: run_directory.Outcome) -> BaseException:
    return remote_exception(outcome.exception, outcome.value, "12_0", "Task 0 of 1")


def test_it_runs_its_element_of_the_array(directory: RunDirectory) -> None:
    array = _write_array(directory, (jobs.square, (2,)), (jobs.square, (3,)))
    assert _run(array, 1) == (0, "", "")
    outcome = _outcome(directory, 1)
    assert (outcome.success, outcome.value) == (True, 9)
    assert directory.look_again([0, 1]) == ({1: [run_files.output_name(1)]}, {})


def test_elements_run_the_tasks_that_they_are_given(directory: RunDirectory) -> None:
    """Those that are submitted again are in no row."""
    _write_array(directory, (jobs.square, (1,)))
    array = _write_array(directory, *((jobs.square, (n,)) for n in range(9)))
    tasks = [2, 3, 5, 7, 8, 9]
    packed = run_files.pack_tasks(tasks)
    assert packed == "2-3,5,7-9"
    assert [run_files.task_at(packed, index) for index in range(6)] == tasks
    assert run_files.pack_tasks(range(2, 9)) == run_files.pack_tasks(list(range(2, 9)))
    with pytest.raises(ValueError, match="fewer tasks than elements"):
        run_files.task_at(packed, 6)
    assert _run(array, 2, tasks=packed)[0] == 0
    assert _outcome(directory, 5).value == 16


def test_the_record_says_when_and_where(directory: RunDirectory) -> None:
    before = time.time()
    _run(_write_array(directory, (jobs.square, (2,))))
    assert directory.claims(0) == ["12_0"]
    record = _outcome(directory).record
    assert (record["node"], record["attempt"]) == (os.uname().nodename, 1)
    measured = _measured(directory, 0)
    assert before <= measured.started_at <= measured.ended_at <= time.time()
    assert (measured.peak_memory_bytes or 0) > 1 << 20


def test_the_record_says_what_the_call_has_used(directory: RunDirectory) -> None:
    """User and system time, of children too; waiting uses none."""
    computing = "sum(range(20_000_000))"
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (exec, (computing,)),
        (jobs.check_command, ([sys.executable, "-c", computing],)),
        (time.sleep, (0.5,)),
        (jobs.allocate, (200,)),
    ]
    for task, call in enumerate(calls):
        assert _run(_write_array(directory, call), tasks=f"{task}-{task}")[0] == 0
    computed, computed_in_child, slept, allocated = map(partial(_measured, directory), range(4))
    for measured in (computed, computed_in_child):
        assert measured.cpu_s > 0.05
    assert slept.ended_at - slept.started_at >= 0.5
    assert slept.cpu_s < 0.25
    assert slept.peak_memory_bytes is not None
    assert allocated.peak_memory_bytes is not None
    assert slept.peak_memory_bytes < 200 << 20 <= allocated.peak_memory_bytes


def test_the_record_of_a_failure_and_that_of_a_kept_output_say_the_same(
    directory: RunDirectory, tmp_path: Path
) -> None:
    _run(_write_array(directory, (jobs.reciprocal, (0,))), submission=1, restart=2)
    _run(_write_array(directory, (jobs.square, (4,)), key=str(tmp_path / "kept")), tasks="1-1")
    for task, attempt in ((0, 4), (1, 1)):
        assert _outcome(directory, task).record["attempt"] == attempt
        measured = _measured(directory, task)
        assert 0 < measured.started_at <= measured.ended_at


def test_what_the_call_prints_is_in_the_log(directory: RunDirectory) -> None:
    array = _write_array(directory, (jobs.say, ("hello",)))
    assert _run(array)[:2] == (0, "hello\n")


def test_a_failure_is_an_output(directory: RunDirectory) -> None:
    assert _run(_write_array(directory, (jobs.reciprocal, (0,))))[0] == 0
    outcome = _outcome(directory)
    assert not outcome.success
    assert "ZeroDivisionError: division by zero" in outcome.value
    assert "in reciprocal" in outcome.value
    assert worker.__file__ not in outcome.value  # our own frames are nobody's business
    assert isinstance(_exception(outcome), ZeroDivisionError)


def test_an_output_is_private_whatever_the_umask(directory: RunDirectory) -> None:
    array = _write_array(directory, (jobs.square, (2,)))
    umask = os.umask(0)
    try:
        _run(array)
    finally:
        os.umask(umask)
    for path in Path(directory.path).rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("submission", "restart"), [(0, 0), (0, 1), (2, 0)])
def test_a_second_copy_of_an_element_runs_nothing(
    directory: RunDirectory, tmp_path: Path, submission: int, restart: int
) -> None:
    """Neither of the same claim, nor of a later one once there is an output."""
    array = _write_array(directory, (jobs.note_run_and_wait, (tmp_path / "runs", tmp_path)))
    assert _run(array)[0] == 0
    status, _, stderr = _run(array, submission=submission, restart=restart)
    assert status == 0
    assert stderr.startswith("cluster_tools: task 0 ")
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_revoked_task_does_not_begin(directory: RunDirectory, tmp_path: Path) -> None:
    array = _write_array(directory, (jobs.touch, (tmp_path / "ran",)))
    directory.revoke(0)
    status, _, stderr = _run(array)
    assert status == 0
    assert "was cancelled before it started" in stderr
    assert not (tmp_path / "ran").exists()


def test_what_is_revoked_while_its_call_is_loaded_does_not_begin(
    directory: RunDirectory, tmp_path: Path
) -> None:
    started, gate, ran = tmp_path / "started", tmp_path / "gate", tmp_path / "ran"
    argument = jobs.SlowToLoad(started, gate)
    process = _start(_write_array(directory, (jobs.touch_beside, (ran, argument))))
    wait_until(started.exists, "the argument")
    directory.revoke(0)
    gate.touch()
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "was cancelled before it started" in stderr
    assert not ran.exists()


def test_a_task_that_goes_in_again_does_not_begin_in_its_closed_submission(
    directory: RunDirectory, tmp_path: Path
) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    gate.touch()
    array = _write_array(directory, (jobs.note_run_and_wait, (runs, gate)))
    assert directory.close_submission(0, 0)
    status, _, stderr = _run(array, submission=0)
    assert status == 0
    assert "was given to another job" in stderr
    assert directory.claims(0) == []  # it came too late for one
    assert _run(array, submission=1)[0] == 0
    assert runs.read_text() == "run\n"
    assert len(directory.claims(0)) == 1


def test_a_submission_that_has_begun_is_not_closed(directory: RunDirectory, tmp_path: Path) -> None:
    array = _write_array(directory, (jobs.touch, (tmp_path / "ran",)))
    assert _run(array, submission=0)[0] == 0
    assert not directory.close_submission(0, 0)


def test_an_array_that_is_not_there_is_said(directory: RunDirectory) -> None:
    status, _, stderr = _run(str(Path(directory.path, "array.9")))
    assert status == EXIT_NO_ARRAY
    assert "cannot open" in stderr
    assert os.uname().nodename in stderr


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 500])
def test_an_array_that_is_cut_short_is_said(directory: RunDirectory, content: bytes) -> None:
    path = Path(directory.path, "array.0")
    path.write_bytes(content)
    status, _, stderr = _run(str(path))
    assert status == EXIT_NO_ARRAY
    assert "cut short" in stderr


def test_an_index_that_the_array_has_not_is_said(directory: RunDirectory) -> None:
    status, _, stderr = _run(_write_array(directory, (jobs.square, (2,))), 1)
    assert status == EXIT_NO_ARRAY
    assert "has no task 1" in stderr


def test_an_array_of_another_user_is_not_unpickled(directory: RunDirectory, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    array = _write_array(directory, (jobs.touch, (tmp_path / "ran",)))
    os.chown(array, 12345, 12345)
    status, _, stderr = _run(array)
    assert status == EXIT_REFUSED
    assert "belongs to the user 12345, and not to 0" in stderr
    assert not (tmp_path / "ran").exists()


def test_an_array_of_another_version_of_the_package_is_refused(directory: RunDirectory) -> None:
    array = _write_array(directory, (jobs.square, (2,)), format=FORMAT + 1)
    status, _, stderr = _run(array)
    assert status == EXIT_REFUSED
    assert f"another version than the client's, {cluster_tools.__version__}" in stderr


def test_another_python_is_refused_with_both_versions(directory: RunDirectory) -> None:
    array = _write_array(directory, (jobs.square, (2,)), python=(3, 9))
    status, _, stderr = _run(array)
    assert status == EXIT_REFUSED
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"the job runs Python {here} ({sys.executable}), the client Python 3.9" in stderr


def test_the_clients_path_is_the_jobs(directory: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "of_the_client.py").write_text("def f(): return 'found'\n")
    path = [*sys.path, str(tmp_path)]
    array = _write_array(directory, (jobs.imported, ("of_the_client", "f")), sys_path=path)
    _run(array)
    assert _outcome(directory).value == "found"


def test_the_workers_folder_is_not_on_the_path(directory: RunDirectory) -> None:
    """Its modules would hide others of the same names."""
    _run(_write_array(directory, (jobs.module_path, ())))
    assert _outcome(directory).value == [os.path.abspath(entry) for entry in sys.path]


def test_a_kept_output_goes_where_its_key_says(directory: RunDirectory, tmp_path: Path) -> None:
    key = str(tmp_path / "kept")
    _run(_write_array(directory, (jobs.square, (4,)), key=key))
    assert pickle.loads(Path(key).read_bytes()) == (True, 16)
    assert _outcome(directory).record["stored"]


def test_a_result_that_cannot_be_pickled_is_a_failure(directory: RunDirectory) -> None:
    assert _run(_write_array(directory, (jobs.return_lock, ())))[0] == 0
    outcome = _outcome(directory)
    assert not outcome.success
    assert "TypeError: cannot pickle" in outcome.value


def test_a_segmentation_fault_leaves_its_stack_in_the_log(directory: RunDirectory) -> None:
    status, _, stderr = _run(_write_array(directory, (jobs.segmentation_fault, ())))
    assert status == -signal.SIGSEGV
    assert "in segmentation_fault" in stderr
    assert directory.look_again([0]) == ({}, {})
    assert directory.claims(0) == ["12_0"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_finally_runs_after_a_signal_which_is_no_failure_of_the_calls(
    directory: RunDirectory, tmp_path: Path, signum: signal.Signals
) -> None:
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    process = _start(_write_array(directory, (jobs.clean_up_when_interrupted, (started, cleaned))))
    wait_until(started.exists, "the call")
    if signum == signal.SIGINT:
        directory.stop()
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signum
    assert cleaned.exists()
    assert directory.look_again([0]) == ({}, {})
    assert "in clean_up_when_interrupted" in stderr  # the log tells where it was


def test_an_interrupt_is_the_calls_own_where_its_executor_has_not_sent_it(
    directory: RunDirectory, tmp_path: Path
) -> None:
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    process = _start(_write_array(directory, (jobs.clean_up_when_interrupted, (started, cleaned))))
    wait_until(started.exists, "the call")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert isinstance(_exception(_outcome(directory)).__cause__, KeyboardInterrupt)


def _fails_as_interrupted(process: subprocess.Popen[str], directory: RunDirectory) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert directory.look_again([0]) == ({0: [run_files.interrupted_name(0)]}, {})


def test_a_signal_is_heard_that_the_call_handles_itself(
    directory: RunDirectory, tmp_path: Path
) -> None:
    process = _start(_write_array(directory, (jobs.end_child_at_sigterm, (tmp_path / "runs",))))
    wait_until((tmp_path / "runs").exists, "the call")
    _fails_as_interrupted(process, directory)


def test_a_signal_may_come_after_that_for_a_child(directory: RunDirectory) -> None:
    call = (jobs.check_command, (["sh", "-c", "kill -TERM $$"],))
    process = _start(_write_array(directory, call, notice_s=LIMIT_S))
    assert process.stderr is not None
    assert "lost a child to SIGTERM" in process.stderr.readline()
    _fails_as_interrupted(process, directory)


@pytest.mark.parametrize(("code", "notice_s"), [(143, 0.2), (143, 0), (1, LIMIT_S)])
def test_a_failing_command_counts_where_no_signal_comes(
    directory: RunDirectory, code: int, notice_s: float
) -> None:
    call = (jobs.check_command, (["sh", "-c", f"exit {code}"],))
    assert _run(_write_array(directory, call, notice_s=notice_s))[0] == 0
    assert isinstance(_exception(_outcome(directory)), subprocess.CalledProcessError)


def test_a_task_whose_output_was_taken_does_not_run_again(
    directory: RunDirectory, tmp_path: Path
) -> None:
    array = _write_array(directory, (jobs.note_run_and_wait, (tmp_path / "runs", tmp_path)))
    assert _run(array)[0] == 0
    directory.delete_outcome(0, run_files.output_name(0), leave_mark=True)
    for restart in (1, 0):  # the second after its claim has gone
        status, _, stderr = _run(array, restart=restart)
        assert (status, stderr.partition(" ")[0]) == (0, "cluster_tools:")
        directory.clear({0}, leave_marks=True)
        assert os.listdir(directory.shard(0)) == ["over"]
    assert (tmp_path / "runs").read_text() == "run\n"


def _open_files(pid: int) -> list[str]:
    found: list[str] = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return found


def test_a_task_whose_array_is_done_does_not_run_again(tmp_path: Path) -> None:
    """Also where the element had opened the array before: of the first run there is no other
    trace.
    """
    directory = _silent(tmp_path, 120)  # which it asks about again, a second later
    array = _write_array(directory, (jobs.touch, (tmp_path / "ran",)))
    process = _start(array)
    wait_until(lambda: array in _open_files(process.pid), "the array's opening")
    process.send_signal(signal.SIGSTOP)
    os.unlink(array)
    directory.beat()
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == EXIT_NO_ARRAY
    assert "all its calls are over" in stderr
    assert directory.claims(0) == []
    assert not (tmp_path / "ran").exists()


def test_no_room_for_the_claim_is_said(directory: RunDirectory) -> None:
    if os.geteuid() == 0 and not Path("/dev/full").exists():
        pytest.skip("nothing here that root can't write")
    array = _write_array(directory, (jobs.square, (2,)))
    Path(directory.shard(0)).write_text("a file where the directory should be")
    status, _, stderr = _run(array)
    assert status == EXIT_OUTPUT_NOT_WRITTEN
    assert "cannot write" in stderr


def test_numbers_are_packed_and_unpacked() -> None:
    some = [0, 1, 2**40, 2**63]
    assert numbers.unpack_numbers(numbers.pack_numbers(*some)) == some


# -- a client that is not there any more --


def _silent(tmp_path: Path, seconds: float, client_timeout_s: float | None = 60) -> RunDirectory:
    """A run directory whose client was last heard of so long ago."""
    directory = RunDirectory(str(tmp_path), client_timeout_s)
    heartbeat = Path(directory.path, run_files.HEARTBEAT)
    if heartbeat.exists():
        beat = heartbeat.stat().st_mtime - seconds
        os.utime(heartbeat, (beat, beat))
    return directory


def test_a_task_that_nobody_waits_for_is_not_begun(tmp_path: Path) -> None:
    directory = _silent(tmp_path, 120)
    code, _, stderr = _run(_write_array(directory, (jobs.touch, (tmp_path / "ran",))))
    assert code == 0
    assert "nothing was heard of the client (process " in stderr
    assert "client_timeout_s = 60 s" in stderr
    assert directory.has_left(0, 0, "12_0")
    assert not directory.has_left(0, 0, "13_0")
    assert directory.claims(0) == []
    assert not (tmp_path / "ran").exists()


def test_what_was_left_runs_in_its_next_submission(tmp_path: Path) -> None:
    directory = _silent(tmp_path, 120)
    array = _write_array(directory, (jobs.square, (3,)))
    _run(array)
    directory.beat()
    assert _run(array, submission=1)[0] == 0
    assert _outcome(directory).value == 9


def test_what_is_requeued_may_have_begun_and_does_not_leave(tmp_path: Path) -> None:
    directory = _silent(tmp_path, 120)
    assert _run(_write_array(directory, (jobs.square, (3,))), restart=1)[0] == 0
    assert _outcome(directory).value == 9


def test_a_client_that_comes_back_while_the_worker_looks_again_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = _silent(tmp_path, 120)
    assert "for 12" in worker.why_nobody_waits(directory.path)

    def beat(_: float) -> None:
        directory.beat()

    monkeypatch.setattr("time.sleep", beat)
    assert worker.why_nobody_waits(directory.path) == ""


@pytest.mark.parametrize(("silence_s", "client_timeout_s"), [(30, 60), (-3600, 60), (1e6, None)])
def test_a_client_that_is_there_or_does_not_care_has_its_calls_run(
    tmp_path: Path, silence_s: float, client_timeout_s: float | None
) -> None:
    directory = _silent(tmp_path, silence_s, client_timeout_s)
    assert _run(_write_array(directory, (jobs.square, (3,))))[0] == 0
    assert _outcome(directory).value == 9


def test_a_heartbeat_that_cannot_be_read_is_no_reason_to_leave(tmp_path: Path) -> None:
    directory = _silent(tmp_path, 120)
    heartbeat = Path(directory.path, run_files.HEARTBEAT)
    heartbeat.write_text("half a")
    os.utime(heartbeat, (0, 0))
    assert _run(_write_array(directory, (jobs.square, (3,))))[0] == 0
    assert _outcome(directory).value == 9


def test_no_file_but_the_mark_is_left_by_a_worker_that_looks_for_its_client(tmp_path: Path) -> None:
    directory = _silent(tmp_path, 120)
    array = _write_array(directory, (jobs.square, (3,)))
    _run(array)
    names = {path.name for path in Path(directory.path).rglob("*")}
    assert names == {"0", Path(array).name, run_files.HEARTBEAT, run_files.left_name(0, 0)}
