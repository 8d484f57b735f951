"""Promises on the lives of executors: in threads, in forked children, as garbage, and several."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from support import jobs
from support.clusters import LOCAL, Cluster
from support.programs import executor_program
from support.waiting import LIMIT_S, wait_until


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("cluster_tools")}


def _wait_for_the_end_of_threads(before: set[threading.Thread]) -> None:
    wait_until(lambda: _threads() <= before, f"the end of {_threads() - before}")


def test_no_thread_lives_on_after_shutdown(cluster: Cluster, tmp_path: Path) -> None:
    before = _threads()
    with cluster.new_executor(tmp_path) as executor:
        assert list(executor.map(jobs.square, [1, 2])) == [1, 4]
    _wait_for_the_end_of_threads(before)


def test_several_executors_at_once_keep_to_themselves(cluster: Cluster, tmp_path: Path) -> None:
    executors = [cluster.new_executor(tmp_path / "shared") for _ in range(4)]
    arrays = [e.map_to_futures(jobs.square, range(i, i + 3)) for i, e in enumerate(executors)]
    singles = [e.submit(jobs.square, 10 + i) for i, e in enumerate(executors)]
    for i, futures in enumerate(arrays):
        assert [f.result(LIMIT_S) for f in futures] == [n * n for n in range(i, i + 3)]
        assert singles[i].result(LIMIT_S) == (10 + i) ** 2
    for executor in executors:
        executor.shutdown()
    names = [path.name for path in (tmp_path / "shared").iterdir()]
    assert len(names) == 4 * 4
    assert all(name.startswith(cluster.log_prefix) for name in names)


def test_an_executor_in_a_thread_works_and_warns_of_signals(
    cluster: Cluster, tmp_path: Path
) -> None:
    body = """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
        def work():
            with new_executor() as executor:
                print(executor.submit(jobs.square, 3).result())
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    with executor_program(cluster, tmp_path, body) as program:
        printed = program.succeed()
    assert printed.endswith("9\n")
    assert "WARNING This executor was made outside the main thread" in printed
    assert "install_signal_handlers" in printed


def test_signal_handlers_are_not_installed_outside_the_main_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(cluster_tools.ClusterExecutor.install_signal_handlers)
        assert isinstance(future.exception(LIMIT_S), RuntimeError)


def test_twenty_executors_in_twenty_threads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    before = _threads()

    def work(number: int) -> int:
        with LOCAL.new_executor(tmp_path, max_workers=1) as executor:
            return sum(executor.map(jobs.square, [number, number + 1]))

    with ThreadPoolExecutor(20) as pool:
        sums = list(pool.map(work, range(20), timeout=LIMIT_S))
    assert sums == [n * n + (n + 1) ** 2 for n in range(20)]
    _wait_for_the_end_of_threads(before)
    assert caplog.records == []


def test_several_threads_may_share_an_executor(executor: Any) -> None:
    def sum_of_squares(n: int) -> int:
        return sum(executor.map(jobs.square, [n, n]))

    with ThreadPoolExecutor(5) as pool:
        sums = list(pool.map(sum_of_squares, range(5), timeout=LIMIT_S))
    assert sums == [2 * n * n for n in range(5)]


def test_an_executor_that_is_garbage_ends_its_threads(tmp_path: Path) -> None:
    before = _threads()
    executor = LOCAL.new_executor(tmp_path)
    future = executor.submit(jobs.square, 3)
    del executor
    gc.collect()
    assert future.result(LIMIT_S) == 9
    del future
    gc.collect()
    _wait_for_the_end_of_threads(before)
    assert {path.suffix for path in tmp_path.iterdir()} == {".stdout"}


def test_a_forked_child_cannot_use_the_executor_and_ends_cleanly(tmp_path: Path) -> None:
    body = """
        executor = new_executor()
        future = executor.submit(jobs.touch_and_wait, (directory / "started", directory / "gate"))
        wait_until(started)
        child = os.fork()
        if child == 0:
            for submit in (executor.submit, executor.map, executor.map_to_futures):
                try:
                    submit(jobs.square, [1])
                except RuntimeError as error:
                    print("child:", error)
            executor.shutdown()
            sys.exit(7)  # with everything that runs at exit
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        (directory / "gate").touch()
        print(future.result())
        executor.shutdown()
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        *of_child, of_parent = program.succeed().splitlines()
    assert len(of_child) == 3
    assert all("forked" in line for line in of_child)
    assert of_parent == "started"


def test_a_signal_to_a_forked_child_leaves_the_jobs_alone(tmp_path: Path) -> None:
    body = """
        executor = new_executor()
        future = executor.submit(jobs.touch_and_wait, (directory / "started", directory / "gate"))
        wait_until(started)
        child = os.fork()
        if child == 0:
            jobs.touch(directory / "child")
            signal.pause()
        wait_until((directory / "child").exists)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        (directory / "gate").touch()
        print(future.result())
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == "started\n"


def test_a_forked_child_may_make_an_executor_of_its_own(tmp_path: Path) -> None:
    body = """
        with new_executor() as executor:
            executor.submit(jobs.square, 1).result()
            child = os.fork()
            if child == 0:
                with new_executor() as own:
                    print("child", own.submit(jobs.square, 3).result(), flush=True)
                sys.exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            print("parent", executor.submit(jobs.square, 4).result())
    """
    with executor_program(LOCAL, tmp_path, body) as program:
        assert program.succeed() == "child 9\nparent 16\n"


def test_shutdown_without_waiting_lets_calls_finish(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor()
    gate = tmp_path / "gate"
    futures = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(2)]
    )
    executor.shutdown(wait=False)
    gate.touch()
    assert [future.result(LIMIT_S) for future in futures] == ["started0", "started1"]
    executor.shutdown()
    assert not list(tmp_path.glob("run.*"))


def test_calls_go_on_after_the_working_directory_has_changed(
    new_executor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = new_executor()
    seen: list[Any] = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        seen.append(executor.submit(jobs.working_directory))
    assert [future.result(LIMIT_S) for future in seen] == [
        str(tmp_path / "one"),
        str(tmp_path / "other"),
    ]


def test_files_are_private_whatever_the_umask(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    umask = os.umask(0)
    try:
        executor = new_executor()
        started, gate = tmp_path / "started", tmp_path / "gate"
        executor.submit(jobs.touch_and_wait, (started, gate))
        wait_until(started.exists, "the call")
        (run_directory,) = tmp_path.glob("run.*")
        assert run_directory.stat().st_mode & 0o777 == 0o700
        files = [path for path in run_directory.rglob("*") if path.is_file()]
        assert len(files) >= 2
        assert {path.stat().st_mode & 0o077 for path in files} == {0}
        gate.touch()
    finally:
        os.umask(umask)


def test_an_executors_heart_beats_until_its_end(tmp_path: Path) -> None:
    before = _threads()
    executor = LOCAL.new_executor(tmp_path, client_timeout_s=1)
    (heartbeat,) = tmp_path.glob("run.*/client")
    first_beat = heartbeat.stat().st_mtime_ns
    wait_until(lambda: heartbeat.stat().st_mtime_ns > first_beat, "another beat")
    host, pid, _, seconds = heartbeat.read_text().splitlines()
    assert (host, pid, seconds) == (os.uname().nodename, str(os.getpid()), "1")
    executor.shutdown()
    _wait_for_the_end_of_threads(before)
