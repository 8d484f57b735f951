"""Promises on a client that is killed, stopped or interrupted: its jobs neither run on nor get
lost.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import controller
import pytest

from support.clusters import SLURM, command
from support.programs import Program, executor_program
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]

# After which workers take the client for gone.
_TIMEOUT_S = 3
# In which a client ends that was interrupted, whatever slurmctld does: README.md says so.
_END_LIMIT_S = 15

# The first call runs until there is a gate, the others wait behind it.
_FOUR_CALLS = f"""\
os.environ["SLURM_MAX_RUNNING_SIZE"] = "1"
executor = new_executor(client_timeout_s={_TIMEOUT_S}, **keywords)
pairs = [(directory / f"started{{i}}", directory / "gate") for i in range(4)]
futures = executor.map_to_futures(jobs.touch_and_wait, pairs)
print(futures[0].cluster_jobid)
wait_until(lambda: futures[0].running(), "the first call")
print("waiting")
print([future.result() for future in futures])
executor.shutdown()
"""


def _is_silent(tmp_path: Path) -> bool:
    """Whether workers that begin now find the client gone."""
    (heartbeat,) = tmp_path.glob("cfut/run.*/client")
    clock = tmp_path / "clock"
    clock.touch()
    return clock.stat().st_mtime - heartbeat.stat().st_mtime > _TIMEOUT_S


def _marks(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.glob("cfut/run.*/0/*.left.0"))


def _started(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("started*")))


def test_calls_of_a_client_that_was_killed_are_not_begun_and_leave_the_queue(
    tmp_path: Path,
) -> None:
    with executor_program(SLURM, tmp_path, f"keywords = {{}}\n{_FOUR_CALLS}") as program:
        program.wait_for("waiting")
        program.send(signal.SIGKILL)
        assert program.exit_status() == -signal.SIGKILL
    wait_until(lambda: _is_silent(tmp_path), "the silence")
    (tmp_path / "gate").touch()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
    assert _marks(tmp_path) == ["1.left.0", "2.left.0", "3.left.0"]
    assert _started(tmp_path) == 1
    logs = [log.read_text() for log in (tmp_path / "cfut").glob("*.stdout")]
    assert sum("nothing was heard of the client" in text for text in logs) == 3


def test_calls_of_a_client_that_was_killed_run_all_the_same_if_it_has_asked_for_that(
    tmp_path: Path,
) -> None:
    body = f"keywords = dict(keep_jobs_on_exit=True)\n{_FOUR_CALLS}"
    with executor_program(SLURM, tmp_path, body) as program:
        program.wait_for("waiting")
        program.send(signal.SIGKILL)
        program.exit_status()
    (tmp_path / "gate").touch()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
    assert _started(tmp_path) == 4


def test_calls_go_on_after_a_signal_to_a_client_that_has_asked_for_that(tmp_path: Path) -> None:
    body = f"keywords = dict(keep_jobs_on_exit=True)\n{_FOUR_CALLS}"
    with executor_program(SLURM, tmp_path, body) as program:
        program.wait_for("waiting")
        program.send(signal.SIGTERM)
        assert program.exit_status() == -signal.SIGTERM
    (tmp_path / "gate").touch()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
    assert _started(tmp_path) == 4


def test_calls_go_on_after_an_exception_of_a_client_that_has_asked_for_that(tmp_path: Path) -> None:
    body = """\
    os.environ["SLURM_MAX_RUNNING_SIZE"] = "1"
    pairs = [(directory / f"started{i}", directory / "gate") for i in range(3)]
    with new_executor(keep_jobs_on_exit=True) as executor:
        executor.submit(jobs.touch, directory / "started9").result()
        results = executor.map(jobs.touch_and_wait, pairs)
        wait_until(lambda: started() == 2, "the first call of the map")
        for result in results:
            raise RuntimeError(jobs.touch(directory / "gate"))
    """
    with executor_program(SLURM, tmp_path, body) as program:
        wait_until(lambda: _started(tmp_path) == 2, "the first call of the map")
        (tmp_path / "gate").touch()
        assert program.exit_status() == 1
        assert "RuntimeError" in program.stderr
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
    assert _started(tmp_path) == 4


def test_what_was_left_while_the_client_was_stopped_is_submitted_again(tmp_path: Path) -> None:
    with executor_program(SLURM, tmp_path, f"keywords = {{}}\n{_FOUR_CALLS}") as program:
        program.wait_for("waiting")
        program.send(signal.SIGSTOP)
        wait_until(lambda: _is_silent(tmp_path), "the silence")
        (tmp_path / "gate").touch()
        wait_until(lambda: len(_marks(tmp_path)) == 3, "three that leave")
        program.send(signal.SIGCONT)
        output = program.succeed()
    assert "['started0', 'started1', 'started2', 'started3']" in output
    # Those that are lost at one time go in together, with one line.
    lines = re.findall(r"^(?:(\d+) tasks of )?.* in again", program.stderr, re.MULTILINE)
    assert sum(int(count or 1) for count in lines) == 3
    assert not list((tmp_path / "cfut").glob("run.*"))


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param("list(executor.map(jobs.wait_long, paths))", id="map"),
        pytest.param("executor.map_to_futures(jobs.wait_long, paths)", id="leaving-with"),
    ],
)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_while_the_client_waits_leaves_no_job_and_no_directory(
    tmp_path: Path, waiting: str, times: int
) -> None:
    body = f"""\
    paths = [directory / f"started{{i}}" for i in range(3)]
    with new_executor() as executor:
        {waiting}
    """
    with executor_program(SLURM, tmp_path, body) as program:
        wait_until(lambda: _started(tmp_path) == 3, "the calls")
        for _ in range(times):
            program.send(signal.SIGINT)
        program.exit_status()
        assert "KeyboardInterrupt" in program.stderr
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
    wait_until(lambda: not list((tmp_path / "cfut").glob("run.*")), "the end of the directory")


def test_a_client_that_ends_with_futures_pending_waits_for_them(tmp_path: Path) -> None:
    body = """\
    futures = new_executor().map_to_futures(jobs.square, range(3))
    for future in futures:
        future.add_done_callback(lambda future: print("done", future.result()))
    """
    with executor_program(SLURM, tmp_path, body) as program:
        output = program.succeed()
    assert sorted(output.split()) == ["0", "1", "4", "done", "done", "done"]
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")


def _processes(word: str) -> list[str]:
    return [line for line in command("ps", "-A", "-ww", "-o", "args=") if word in line]


def _end_in_silence(program: Program, signum: signal.Signals) -> None:
    """Interrupts the client, which ends; what cancels its jobs stays."""
    began = time.monotonic()
    program.send(signum)
    assert program.exit_status() == -signum, program.stderr
    assert time.monotonic() - began < _END_LIMIT_S
    assert _processes("slurm.stop")


def _all_is_cancelled(tmp_path: Path) -> None:
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")
    wait_until(lambda: not _processes("slurm.stop"), "the end of what cancels")
    assert not SLURM.elements_of(tmp_path)


def test_a_client_that_is_told_to_end_while_slurmctld_is_silent_ends_and_its_jobs_later(
    tmp_path: Path,
) -> None:
    with executor_program(SLURM, tmp_path, f"keywords = {{}}\n{_FOUR_CALLS}") as program:
        program.wait_for("waiting")
        with controller.silent():
            _end_in_silence(program, signal.SIGTERM)
            assert "goes on by itself" in program.stderr
        _all_is_cancelled(tmp_path)
    assert _started(tmp_path) == 1


def test_what_a_silent_slurmctld_was_given_before_the_interrupt_is_cancelled_later(
    tmp_path: Path,
) -> None:
    body = """\
    with new_executor() as executor:
        print("ready")
        wait_until((directory / "go").exists)
        start(executor)[0].result()
    """
    with executor_program(SLURM, tmp_path, body) as program:
        program.wait_for("ready")
        with controller.silent():
            (tmp_path / "go").touch()
            wait_until(lambda: _processes("sbatch --parsable --job-name=wait_long"), "sbatch")
            _end_in_silence(program, signal.SIGINT)
        _all_is_cancelled(tmp_path)
    assert _started(tmp_path) == 0
