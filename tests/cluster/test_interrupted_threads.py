"""Promises on threads that are cut short while they submit or cancel: the executor still ends."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import LOCAL
from support.waiting import LIMIT_S, wait_until

_SEEDS = range(20)


def _shut_down(executor: Any) -> None:
    """In a thread of its own, as it may hang."""
    thread = threading.Thread(target=executor.shutdown, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive(), "shutdown() does not return"


@pytest.fixture(params=[{}, {"pilot_jobs": 1}], ids=["jobs", "pilots"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    executor = LOCAL.new_executor(tmp_path / "cfut", max_workers=1, **request.param)
    yield executor
    _shut_down(executor)


# What is raised in a weak reference's callback is lost, which Python says.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("way", ["submit", "map_to_futures", "map"])
def test_ctrl_c_while_calls_are_submitted_leaves_nothing_open(
    local: Any, way: str, seed: int
) -> None:
    interrupted, ends = threading.Event(), threading.Event()

    def raise_interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    # Without the executors' own handler, which would abort them.
    previous = signal.signal(signal.SIGINT, raise_interrupt)
    thread = threading.Thread(target=_interrupt_main, args=(seed, ends))
    try:
        thread.start()
        while not interrupted.is_set():
            _submit(local, way)
    except KeyboardInterrupt:
        pass
    finally:
        ends.set()
        thread.join(LIMIT_S)
        signal.signal(signal.SIGINT, previous)
    assert interrupted.is_set()
    local.shutdown(wait=False, cancel_futures=True)


def _interrupt_main(seed: int, ends: threading.Event) -> None:
    if not ends.wait(0.001 + 0.05 * random.Random(seed).random()):
        os.kill(os.getpid(), signal.SIGINT)


def _submit(executor: Any, way: str) -> None:
    if way == "submit":
        executor.submit(jobs.square, 3)
    elif way == "map":
        executor.map(jobs.square, range(50))
    else:
        executor.map_to_futures(jobs.square, range(50))


def test_futures_that_cancel_each_other_to_the_recursion_limit_leave_nothing_open(
    local: Any, tmp_path: Path
) -> None:
    local.submit(jobs.wait_for, tmp_path / "gate")
    futures = local.map_to_futures(jobs.square, range(sys.getrecursionlimit()))
    for future, following in itertools.pairwise(futures):
        future.add_done_callback(lambda _, following=following: following.cancel())
    try:
        assert futures[0].cancel()
    except RecursionError:
        pass
    (tmp_path / "gate").touch()
    local.shutdown(wait=False, cancel_futures=True)


def _shutting_down(executor: Any, ended: threading.Event) -> Callable[[Future[Any]], None]:
    def shut_down(_: Future[Any]) -> None:
        executor.shutdown(wait=True)
        ended.set()

    return shut_down


def test_a_callback_in_the_thread_that_cancels_may_shut_down(local: Any, tmp_path: Path) -> None:
    ended = threading.Event()
    local.submit(jobs.wait_for, tmp_path / "gate")
    later = local.map_to_futures(jobs.square, range(3))[-1]
    later.add_done_callback(_shutting_down(local, ended))
    thread = threading.Thread(target=later.cancel, daemon=True)
    thread.start()
    (tmp_path / "gate").touch()
    assert ended.wait(LIMIT_S)


def test_a_callback_of_a_call_that_could_not_be_written_may_shut_down(local: Any) -> None:
    ended = threading.Event()
    gathered = threading.Event()
    write = local._session.arrays.write

    def write_later(*arguments: Any, **keywords: Any) -> Any:
        assert gathered.wait(LIMIT_S)
        raise OSError("no room for it")

    local._session.arrays.write = write_later
    try:
        future = local.submit(jobs.square, 3)
        future.add_done_callback(_shutting_down(local, ended))
        gathered.set()
        assert ended.wait(LIMIT_S)
    finally:
        local._session.arrays.write = write


def test_a_forked_child_changes_nothing_of_its_parents(local: Any, tmp_path: Path) -> None:
    local.submit(jobs.wait_for, tmp_path / "gate")
    results = local.map(jobs.square, range(3))
    futures = local.map_to_futures(jobs.square, range(3, 6))
    pid = os.fork()
    if pid == 0:
        try:
            for future in futures:
                future.cancel()
            results.close()
            local.shutdown(wait=True, cancel_futures=True)
        finally:
            os._exit(0)
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "the end of the child")
    (tmp_path / "gate").touch()
    assert [future.result(LIMIT_S) for future in futures] == [9, 16, 25]
    assert list(results) == [0, 1, 4]


@pytest.mark.parametrize("ends_by", ["exception", "exit"])
def test_a_child_that_is_forked_by_a_maps_iterable_changes_nothing(
    local: Any, ends_by: str
) -> None:
    """The child has a copy of the half-written array, with buffers that are not written yet."""

    def numbers() -> Iterator[int]:
        yield from range(20)
        if os.fork() == 0:
            if ends_by == "exit":
                yield from range(5)
            raise ZeroDivisionError
        yield from range(20, 40)

    parent = os.getpid()
    try:
        futures = local.map_to_futures(jobs.square, numbers())
    finally:
        if os.getpid() != parent:
            gc.collect()
            os._exit(0)
    pid, status = os.wait()
    assert (pid > 0, status) == (True, 0)
    assert [future.result(LIMIT_S) for future in futures] == [i * i for i in range(40)]


def test_what_is_cancelled_while_it_is_written_does_not_begin(local: Any, tmp_path: Path) -> None:
    """With pilots no element belongs to the call, so none can be cancelled for it."""
    written, gate = threading.Event(), threading.Event()
    finish = local._session.arrays.finish

    def finish_later(*arguments: Any, **keywords: Any) -> Any:
        written.set()
        assert gate.wait(LIMIT_S)
        return finish(*arguments, **keywords)

    local.submit(jobs.square, 1).result(LIMIT_S)
    local._session.arrays.finish = finish_later
    future = local.submit(jobs.touch, tmp_path / "begun")
    assert written.wait(LIMIT_S)
    other = local.submit(jobs.square, 2)
    assert future.cancel()
    gate.set()
    assert other.result(LIMIT_S) == 4
    assert not (tmp_path / "begun").exists()
