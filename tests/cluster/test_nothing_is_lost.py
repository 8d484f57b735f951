"""Promises on calls between two files, on a disk that fails for a moment, and on early cancels."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import RemoteException, RemoteExitException
from cluster_tools.format import pilots
from cluster_tools.format.pilots import read_range
from cluster_tools.job.pilot import Claimer
from support import jobs
from support.clusters import LOCAL
from support.programs import executor_program
from support.waiting import LIMIT_S, wait_until


def _pool_directory(cfut: Path, name: str) -> Path:
    (directory,) = cfut.glob(f"run.*/{name}")
    return directory


# -- what has begun is in a file --


def _one_has_begun(tmp_path: Path) -> tuple[Path, Claimer, pilots.Range, Claimer]:
    """A pilot begins the first of ten tasks.

    Returns: the directory of held ranges, that pilot, the range that it holds, and a second pilot.
    """
    todo, held = tmp_path / "todo", tmp_path / "held"
    todo.mkdir()
    held.mkdir()
    (todo / "0.0-10").touch()
    first, second = Claimer(str(todo), str(held), "first"), Claimer(str(todo), str(held), "second")
    taken = first.take()
    assert taken is not None
    begun = first.advance(taken)
    assert begun is not None
    return held, first, begun, second


def _two_busy_pilots(executor: Any, tmp_path: Path) -> tuple[Any, Any]:
    """The futures of two calls that run: one waits to be killed, the other for the file `gate`."""
    first = executor.submit(jobs.note_pid_and_wait_long, tmp_path / "pid")
    wait_until((tmp_path / "pid").exists, "the first pilot")
    second = executor.submit(jobs.wait_for, tmp_path / "gate")
    wait_until(second.running, "the second pilot")
    return first, second


def test_what_has_begun_stays_in_a_file_when_another_takes_the_rest(tmp_path: Path) -> None:
    held, first, begun, second = _one_has_begun(tmp_path)
    rest = second.steal(0)
    assert rest is not None
    assert (rest.next, rest.end) == (1, 10)
    ranges = [read_range(name) for name in os.listdir(held)]
    assert pilots.Range(0, 0, 1, 1, "first", "second") in ranges
    assert first.advance(begun) is None
    first.forget_begun()
    assert os.listdir(held) == [rest.held_name()]


def test_who_comes_too_late_leaves_nothing(tmp_path: Path) -> None:
    held, first, begun, second = _one_has_begun(tmp_path)
    assert second.steal(LIMIT_S) is None  # now it knows the range by this name
    further = first.advance(begun)
    assert further is not None
    second.steal(0)  # by the old name, or by the new one
    assert all(
        tasks is not None and tasks.next == 2
        for tasks in map(read_range, os.listdir(held))
        if tasks is not None and tasks.taker
    )


def test_a_pilot_that_dies_between_its_rename_and_its_record_fails_that_call(
    tmp_path: Path,
) -> None:
    """Its files are made by hand: another pilot has the rest, no journal tells of the call."""
    with LOCAL.new_executor(tmp_path / "cfut", max_workers=2, pilot_jobs=2) as executor:
        first, _ = _two_busy_pilots(executor, tmp_path)
        futures = executor.map_to_futures(jobs.square, range(2))
        todo = _pool_directory(tmp_path / "cfut", pilots.TODO)
        held = _pool_directory(tmp_path / "cfut", pilots.HELD)
        wait_until(lambda: _ranges(todo), "the ranges")
        (own,) = (r for r in _ranges(held) if r.array == first.array.number)
        wanted = next(r for r in _ranges(todo) if r.begin == futures[0].array.first)
        begun = pilots.Range(
            wanted.array, wanted.begin, wanted.begin + 1, wanted.begin + 1, own.pilot, "another"
        )
        (todo / wanted.todo_name()).rename(held / begun.held_name())
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert isinstance(futures[0].exception(LIMIT_S), RemoteExitException)
        assert isinstance(first.exception(LIMIT_S), RemoteExitException)
        assert futures[1].result(LIMIT_S) == 1
        (tmp_path / "gate").touch()


def _ranges(directory: Path) -> list[pilots.Range]:
    return [tasks for name in os.listdir(directory) if (tasks := read_range(name)) is not None]


def _tasks(directory: Path) -> list[int]:
    return [task for tasks in _ranges(directory) for task in range(tasks.next, tasks.end)]


def test_a_call_that_no_file_tells_of_has_an_end(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path / "cfut", max_workers=2, pilot_jobs=2) as executor:
        first, second = _two_busy_pilots(executor, tmp_path)
        futures = executor.map_to_futures(jobs.square, range(4))
        todo = _pool_directory(tmp_path / "cfut", pilots.TODO)
        wait_until(lambda: len(_tasks(todo)) == len(futures), "the ranges")
        for tasks in _ranges(todo):
            (todo / tasks.todo_name()).unlink()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert isinstance(first.exception(LIMIT_S), RemoteExitException)
        for future in futures:  # though a pilot is there
            error = future.exception(LIMIT_S)
            assert isinstance(error, RemoteException)
            assert "was lost with the pilot" in str(error)
        assert not second.done()
        (tmp_path / "gate").touch()


def test_an_idle_pilot_keeps_no_array_that_is_done(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path / "cfut", max_workers=1, pilot_jobs=1) as executor:
        future = executor.submit(os.getpid)
        pid, array = future.result(LIMIT_S), Path(future.array.path)

        def keeps_one() -> bool:
            links = (os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
            try:
                return any("/array." in link and link.endswith("(deleted)") for link in links)
            except FileNotFoundError:  # closed meanwhile
                return True

        wait_until(lambda: not array.exists(), "the array's end")
        wait_until(lambda: not keeps_one(), "the pilot to let go")


# -- an error is no answer --


@pytest.mark.parametrize("options", [{}, {"pilot_jobs": 1}], ids=["jobs", "pilots"])
def test_running_out_of_descriptors_for_a_moment_loses_no_call(
    options: dict[str, int], tmp_path: Path
) -> None:
    """In that moment the job of a running call is killed, too."""
    text = """
        import resource
        with new_executor(max_workers=1, **OPTIONS) as executor:
            victim = executor.submit(jobs.note_pid_and_wait_long, directory / "pid")
            wait_until((directory / "pid").exists, "the call")
            pid = int((directory / "pid").read_text())
            futures = executor.map_to_futures(jobs.square, range(4))
            time.sleep(0.5)  # they wait behind it
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
            os.kill(pid, signal.SIGKILL)
            time.sleep(3)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            print(type(victim.exception(30)).__name__, [future.result(30) for future in futures])
        """
    body = text.replace("OPTIONS", repr(options))
    with executor_program(LOCAL, tmp_path, body) as program:
        assert "RemoteExitException [0, 1, 4, 9]" in program.succeed()


# -- what was cancelled does not begin --


@pytest.mark.parametrize("options", [{}, {"pilot_jobs": 1}], ids=["jobs", "pilots"])
def test_what_waits_and_is_cancelled_does_not_begin(
    options: dict[str, int], tmp_path: Path
) -> None:
    """Even while a callback holds up the thread that ends futures."""
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    begun.mkdir()
    with LOCAL.new_executor(
        tmp_path / "cfut", max_workers=1, keep_logs=False, **options
    ) as executor:
        first = executor.submit(jobs.wait_for, gate)
        wait_until(first.running, "the first call")
        futures = executor.map_to_futures(jobs.touch, [begun / str(i) for i in range(50)])
        if not options:
            assert futures[0].cluster_jobid
        held_up, free = threading.Event(), threading.Event()

        def hold_up(_: Any) -> None:
            held_up.set()
            assert free.wait(LIMIT_S)

        first.add_done_callback(hold_up)
        gate.touch()
        assert held_up.wait(LIMIT_S)
        cancelled = [future for future in futures if future.cancel()]
        known = {path.name for path in begun.iterdir()}
        free.set()
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    late = {str(i) for i, future in enumerate(futures) if future in cancelled} - known
    assert not late.intersection(path.name for path in begun.iterdir())
    assert os.listdir(tmp_path / "cfut") == []


def test_what_has_just_begun_and_is_cancelled_is_ended(tmp_path: Path) -> None:
    """Else it would keep the only process from the next call."""
    with LOCAL.new_executor(tmp_path / "cfut", max_workers=1) as executor:
        future = executor.submit(jobs.wait_long, tmp_path / "begun")
        future.start = lambda: None  # as if the client had not seen yet that it runs
        wait_until((tmp_path / "begun").exists, "the call")
        assert future.cancel()
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


def test_what_a_pilot_has_taken_is_not_cancelled(tmp_path: Path) -> None:
    """The pilot is loading the call, and the client has not seen that yet."""
    started, gate, ran = tmp_path / "started", tmp_path / "gate", tmp_path / "ran"
    with LOCAL.new_executor(tmp_path / "cfut", max_workers=1, pilot_jobs=1) as executor:
        assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
        future = executor.submit(jobs.touch_beside, ran, jobs.SlowToLoad(started, gate))
        executor._session._pool._on_began = lambda *_: None
        wait_until(started.exists, "the argument")
        assert not future.cancel()
        assert future.running()
        gate.touch()
        assert future.result(LIMIT_S) == "ran"


def test_a_log_that_cannot_be_written_holds_up_nobody(tmp_path: Path) -> None:
    """In the place of the next log lies a FIFO that nobody reads."""
    cfut = tmp_path / "cfut"
    with LOCAL.new_executor(cfut, max_workers=1) as executor:
        first = executor.submit(jobs.wait_for, tmp_path / "gate")
        waiting = executor.submit(jobs.square, 2)
        os.mkfifo(cfut / f"{LOCAL.log_prefix}.{waiting.cluster_jobid}.log.stdout")
        (tmp_path / "gate").touch()
        first.result(LIMIT_S)
        assert "File exists" in str(waiting.exception(LIMIT_S))
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


# -- work is linear --


def test_a_hundred_thousand_futures_are_small(tmp_path: Path) -> None:
    body = """
        from concurrent.futures import as_completed
        with new_executor(max_workers=2, pilot_jobs=2) as executor:
            executor.submit(jobs.square, 1).result()

            def resident():
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                return pages * os.sysconf("SC_PAGESIZE")

            before = resident()
            futures = executor.map_to_futures(jobs.square, range(100_000))
            done = enumerate(as_completed(futures))
            peak = max(resident() for number, _ in done if not number % 1000)
        print((peak - before) / 100_000)
        """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert float(program.succeed()) < 1_150  # bytes each


def test_a_pilot_that_is_killed_while_it_starts_costs_no_call(tmp_path: Path) -> None:
    """Another pilot comes in its place."""
    lines = [f"[ -e {tmp_path}/first ] || {{ touch {tmp_path}/first; kill -9 $$; }}"]
    with LOCAL.new_executor(
        tmp_path / "cfut", max_workers=1, pilot_jobs=1, additional_setup_lines=lines
    ) as executor:
        futures = executor.map_to_futures(jobs.square, range(3))
        assert [future.result(LIMIT_S) for future in futures] == [0, 1, 4]


def test_the_run_directory_goes_though_descriptors_are_short(tmp_path: Path) -> None:
    body = """
        import resource
        executor = new_executor()
        assert executor.submit(jobs.square, 2).result() == 4
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
        executor.shutdown(wait=False)
        time.sleep(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        executor.shutdown()
        print(list(directory.glob("cfut/run.*")))
        """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert "[]" in program.succeed()


def test_a_future_of_a_call_that_was_not_submitted_does_not_keep_its_executor(
    tmp_path: Path,
) -> None:
    """It ends when nobody refers to it any more. The error still tells where it was raised."""
    executor = LOCAL.new_executor(tmp_path / "cfut")
    futures = [
        executor.submit(jobs.square, _Unsendable()),
        *executor.map_to_futures(jobs.square, [_Unsendable()]),
    ]
    del executor
    gc.collect()
    wait_until(lambda: not list(tmp_path.glob("cfut/run.*")), "the executor's end")
    for future in futures:
        error = future.exception(LIMIT_S)
        assert error is not None
        if sys.version_info >= (3, 11):
            text = "".join(traceback.format_exception(error))
            assert "test_nothing_is_lost.py" in text


class _Unsendable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError
