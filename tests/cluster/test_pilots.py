"""Promises on pilots: a few long-lived jobs that take task after task."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from cluster_tools.errors import (
    RemoteException,
    RemoteExitException,
    RemoteNeverStartedException,
    SubmissionException,
)
from cluster_tools.executors.local import LocalExecutor
from cluster_tools.format import pilots
from cluster_tools.schedulers.base import ArrayRequest, Options, RefusedForCount
from cluster_tools.schedulers.local import LocalScheduler
from support import jobs
from support.clusters import LOCAL, Cluster, element_of, log_of
from support.waiting import LIMIT_S, wait_until

NewExecutor = Callable[..., Any]


def note_and_square(directory: Path, number: int) -> int:
    """Leaves a line for each time that it runs."""
    with (directory / str(number % 10)).open("a") as file:
        file.write(f"{number}\n")
    return number * number


def note_pid_and_wait(pid: Path, gate: Path) -> int:
    pid.with_suffix(".tmp").write_text(str(os.getpid()))
    pid.with_suffix(".tmp").rename(pid)
    wait_until(gate.exists, str(gate))
    return os.getpid()


def stop_itself(directory: Path) -> str:
    """Stands still until somebody lets it go on; returns what others have done until then."""
    (directory / "pid.new").write_text(str(os.getpid()))
    (directory / "pid.new").rename(directory / "pid")
    os.kill(os.getpid(), signal.SIGSTOP)
    wait_until((directory / "on").exists, "to go on")
    return " ".join(sorted(path.name for path in directory.glob("done*")))


class Counts:
    number = 0

    def count(self, _: object) -> int:
        self.number += 1
        return self.number


class OwnArguments(Exception):
    def __init__(self, one: int, two: int, three: int) -> None:
        super().__init__(one, two, three)


def _refuse(_: str) -> None:
    raise OwnArguments(1, 2, 3)


def _runs(directory: Path) -> Counter[int]:
    return Counter(
        int(line) for path in directory.iterdir() for line in path.read_text().splitlines()
    )


def test_many_calls_run_on_few_jobs_and_each_once(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    executor = new_executor(pilot_jobs=2)
    numbers = range(500)
    futures = executor.map_to_futures(partial(note_and_square, notes), numbers)
    assert [future.result(LIMIT_S) for future in futures] == [n * n for n in numbers]
    assert len({element_of(future) for future in futures}) <= 2
    assert _runs(notes) == dict.fromkeys(numbers, 1)


def test_no_more_pilots_are_made_than_there_are_calls(
    new_executor: NewExecutor, cluster: Cluster, tmp_path: Path
) -> None:
    with new_executor(pilot_jobs=4) as executor:
        gate = tmp_path / "gate"
        future = executor.submit(jobs.wait_for, gate)
        wait_until(future.running, "the call")
        assert len(cluster.elements_of(tmp_path)) == 1
        gate.touch()
        assert future.result(LIMIT_S) == "gate"
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its job")


def test_an_idle_pilot_takes_the_next_call(new_executor: NewExecutor) -> None:
    executor = new_executor(pilot_jobs=1)
    pids = {executor.submit(os.getpid).result(LIMIT_S) for _ in range(5)}
    assert len(pids) == 1


def _pids(executor: Any, count: int) -> set[int]:
    """The processes of calls that were sent one after the other."""
    return {executor.submit(os.getpid).result(LIMIT_S) for _ in range(count)}


def test_pilots_that_nobody_can_wake_find_work_and_are_heard(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor(pilot_jobs=1)
    (pipes,) = tmp_path.glob(f"run.*/{pilots.WAKE}")
    shutil.rmtree(pipes)  # before the pilot could make its own, as on another machine
    assert len(_pids(executor, 5)) == 1


def test_pilots_whose_pipes_go_meanwhile_find_work_and_are_heard(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor(pilot_jobs=1)
    pids = _pids(executor, 2)
    (pipes,) = tmp_path.glob(f"run.*/{pilots.WAKE}")
    shutil.rmtree(pipes)
    assert _pids(executor, 5) == pids


def test_a_pilot_that_has_ended_leaves_no_pipe(new_executor: NewExecutor, tmp_path: Path) -> None:
    executor = new_executor(pilot_jobs=1)
    killed, other = executor.submit(jobs.kill_itself), executor.submit(os.getpid)
    assert isinstance(killed.exception(LIMIT_S), RemoteExitException)
    assert other.result(LIMIT_S)
    assert element_of(killed) != element_of(other)
    (pipes,) = tmp_path.glob(f"run.*/{pilots.WAKE}")
    wait_until(lambda: len(list(pipes.iterdir())) == 2, "the client's and the new pilot's alone")


def test_a_pilot_leaves_when_there_is_nothing_to_do_and_another_comes(
    new_executor: NewExecutor, cluster: Cluster, tmp_path: Path
) -> None:
    executor = new_executor(pilot_jobs=1, pilot_idle_timeout_s=0.2)
    first = executor.submit(os.getpid)
    first.result(LIMIT_S)
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its job")
    second = executor.submit(os.getpid)
    second.result(LIMIT_S)
    assert first.cluster_jobid != second.cluster_jobid


def test_a_pilot_that_dies_takes_one_call_with_it(
    new_executor: NewExecutor, cluster: Cluster, tmp_path: Path
) -> None:
    executor = new_executor(pilot_jobs=2)
    steps: list[Callable[[], Any]] = [partial(jobs.square, n) for n in range(40)]
    steps[13] = jobs.kill_itself
    futures = executor.map_to_futures(jobs.run, steps)
    errors = {n: error for n, f in enumerate(futures) if (error := f.exception(LIMIT_S))}
    assert list(errors) == [13]
    error = errors[13]
    assert isinstance(error, RemoteExitException)
    assert "Task 13 of 40 of run" in str(error)
    assert str(log_of(tmp_path, cluster, element_of(futures[13]))) in str(error)
    assert error.job_id == element_of(futures[13])
    assert [f.result() for n, f in enumerate(futures) if n != 13] == [
        n * n for n in range(40) if n != 13
    ]
    assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


def test_all_pilots_may_die_at_the_same_time(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=2) as executor:
        pids = [tmp_path / "first", tmp_path / "second"]
        steps = [
            *(partial(note_pid_and_wait, pid, tmp_path / "never") for pid in pids),
            *(partial(jobs.square, n) for n in range(30)),
        ]
        futures = executor.map_to_futures(jobs.run, steps)
        # The second may be held by who runs the first: idle pilots take it over.
        wait_until(lambda: all(pid.exists() for pid in pids), "both calls")
        for pid in pids:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        assert [future.result(LIMIT_S) for future in futures[2:]] == [n * n for n in range(30)]
        for future in futures[:2]:
            assert isinstance(future.exception(LIMIT_S), RemoteExitException)


def test_calls_that_kill_their_pilots_do_not_fail_the_others(new_executor: NewExecutor) -> None:
    executor = new_executor(pilot_jobs=1)
    steps = [jobs.kill_itself] * 6 + [partial(jobs.square, 3)]
    futures = executor.map_to_futures(jobs.run, steps)
    assert futures[-1].result(LIMIT_S) == 9
    assert all(isinstance(f.exception(LIMIT_S), RemoteExitException) for f in futures[:-1])


def test_short_calls_do_not_wait_behind_a_long_one(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor(pilot_jobs=2)
    gate = tmp_path / "gate"
    steps = [partial(jobs.wait_minutes_for, gate), *(partial(jobs.square, n) for n in range(20))]
    long, *short = executor.map_to_futures(jobs.run, steps)
    assert [future.result(LIMIT_S) for future in short] == [n * n for n in range(20)]
    assert not long.done()
    gate.touch()
    assert long.result(LIMIT_S) == "gate"


def test_long_calls_after_short_ones_are_for_all_pilots(new_executor: NewExecutor) -> None:
    """Ranges are as large as the calls before were short, but not so large that pilots go
    without.
    """
    executor = new_executor(pilot_jobs=3)
    assert sum(executor.map(jobs.square, range(2000))) == sum(n * n for n in range(2000))
    futures = executor.map_to_futures(partial(jobs.square_after, seconds=0.5), range(12))
    assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(12)]
    assert len({element_of(future) for future in futures}) == 3


def test_a_stopped_pilot_keeps_the_call_that_it_runs_and_no_other(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=2) as executor:
        steps = [
            partial(stop_itself, tmp_path),
            *(partial(jobs.touch, tmp_path / f"done{n}") for n in range(8)),
        ]
        stopped, *others = executor.map_to_futures(jobs.run, steps)
        assert not wait(others, LIMIT_S).not_done
        wait_until((tmp_path / "pid").exists, "the call that stops")
        assert not stopped.done()
        (tmp_path / "on").touch()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)
        assert stopped.result(LIMIT_S) == " ".join(f"done{n}" for n in range(8))


def test_cancelled_calls_do_not_begin(new_executor: NewExecutor, tmp_path: Path) -> None:
    executor = new_executor(pilot_jobs=1)
    gate = tmp_path / "gate"
    first = executor.submit(jobs.wait_for, gate)
    wait_until(first.running, "the first call")
    others = executor.map_to_futures(jobs.touch, [tmp_path / f"ran{n}" for n in range(5)])
    single = executor.submit(jobs.touch, tmp_path / "ran")
    for future in [*others[1:], single]:
        assert future.cancel()
    gate.touch()
    assert others[0].result(LIMIT_S)
    assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
    assert [path.name for path in tmp_path.glob("ran*")] == ["ran0"]


def test_a_log_is_forwarded_in_its_part_alone(
    new_executor: NewExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = new_executor(pilot_jobs=1)
    before, future, after = (executor.submit(jobs.say, f"word{n}") for n in range(3))
    for each in (before, future, after):
        each.result(LIMIT_S)
    assert executor.forward_log(future) == "word1"
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"(jid={future.cluster_jobid}) word1"]


def test_a_log_is_followed_to_the_end_of_the_calls_part(
    new_executor: NewExecutor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = new_executor(pilot_jobs=1)
    gate = tmp_path / "gate"
    future, after = executor.submit(jobs.say_wait_say, gate), executor.submit(jobs.say, "another")
    wait_until(future.running, "the call")
    gate.touch()
    executor.forward_log(future)
    after.result(LIMIT_S)
    out = capsys.readouterr().out
    assert "after\n" in out
    assert "another" not in out
    assert "cluster_tools" not in out


def test_a_function_with_a_state_begins_anew_with_each_call(new_executor: NewExecutor) -> None:
    """As where each call is a job of its own."""
    executor = new_executor(pilot_jobs=1)
    counts = executor.map_to_futures(Counts().count, range(3))
    assert [future.result(LIMIT_S) for future in counts] == [1, 1, 1]


def test_modules_are_found_where_the_client_finds_them_by_then(
    new_executor: NewExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = new_executor(pilot_jobs=1)
    assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
    (tmp_path / "made_later.py").write_text("def value(): return 5")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert executor.submit(jobs.imported, "made_later", "value").result(LIMIT_S) == 5


def test_calls_reach_pilots_while_others_wait_for_room(tmp_path: Path) -> None:
    names: list[str] = []

    class Full(LocalScheduler):
        def submit(self, request: ArrayRequest) -> str:
            if names:
                raise RefusedForCount("full")
            names.append(request.name)
            return super().submit(request)

    class Executor(LocalExecutor):
        def _make_scheduler(self, options: Options) -> LocalScheduler:
            return Full(options)

    with Executor(cfut_dir=tmp_path, pilot_jobs=2, job_name="mine") as executor:
        assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
        futures = [executor.submit(jobs.square, n) for n in range(3)]
        assert [future.result(LIMIT_S) for future in futures] == [0, 1, 4]
    assert names == ["mine"]


def test_a_failing_set_up_of_logging_fails_the_calls_whatever_it_raises(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=1, logging_setup_fn=_refuse) as executor:
        error = executor.submit(jobs.square, 2).exception(LIMIT_S)
    assert isinstance(error, RemoteException)
    assert "was not begun" in str(error)
    assert "OwnArguments" in str(error)


def test_calls_whose_records_come_before_their_array_are_not_lost(tmp_path: Path) -> None:
    """The client is busy with a callback while a pilot takes, runs and writes."""
    with LOCAL.new_executor(tmp_path, pilot_jobs=1) as executor:
        first = executor.submit(jobs.square, 1)
        first.add_done_callback(lambda _: time.sleep(1))
        futures = [executor.submit(jobs.square, n) for n in range(50)]
        assert [future.result(LIMIT_S) for future in futures] == [n * n for n in range(50)]


def test_outputs_are_kept_and_large_ones_arrive(new_executor: NewExecutor, tmp_path: Path) -> None:
    executor = new_executor(pilot_jobs=1)
    key = tmp_path / "kept.pickle"
    options = {"output_key": str(key)}
    kept = executor.submit(jobs.square, 5, __cfut_options=options)
    assert kept.result(LIMIT_S) == 25
    assert key.exists()
    large = executor.submit(jobs.return_bytes, 5_000_000)
    assert len(large.result(LIMIT_S)) == 5_000_000


def test_pilots_that_cannot_begin_fail_the_calls(tmp_path: Path) -> None:
    executor = LOCAL.new_executor(
        tmp_path, pilot_jobs=2, additional_setup_lines=["echo no luck; exit 3"]
    )
    with executor:
        futures = executor.map_to_futures(jobs.square, range(10))
        for future in futures:
            error = future.exception(LIMIT_S)
            assert isinstance(error, RemoteNeverStartedException), error
            assert "was not begun" in str(error)
            assert "exit code 3" in str(error)


@pytest.mark.slurm
def test_pilots_that_are_refused_fail_the_calls(tmp_path: Path) -> None:
    resources = {"partition": "nowhere"}
    with cluster_tools.get_executor(
        "slurm", cfut_dir=str(tmp_path), job_resources=resources, pilot_jobs=2
    ) as executor:
        error = executor.submit(jobs.square, 1).exception(LIMIT_S)
    assert isinstance(error, SubmissionException)
    assert "invalid partition" in str(error)


def test_no_file_is_left_but_logs(new_executor: NewExecutor, tmp_path: Path) -> None:
    directory = tmp_path / "cfut"
    with new_executor(pilot_jobs=2, cfut_dir=str(directory)) as executor:
        assert len(list(executor.map(jobs.square, range(100)))) == 100
    assert all(path.name.endswith(".log.stdout") for path in directory.iterdir())


@pytest.mark.parametrize(
    "settings", [{"pilot_jobs": 0}, {"pilot_jobs": 1, "pilot_idle_timeout_s": -1}]
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pilot_"):
        LOCAL.new_executor(tmp_path, **settings)
