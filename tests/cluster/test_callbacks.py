"""Promises on done-callbacks: what one does to its thread holds up no other executor."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import LOCAL, Cluster
from support.waiting import LIMIT_S, wait_until


def _raise(_: Any) -> None:
    raise ZeroDivisionError("in a callback")


def test_a_callback_that_raises_costs_nothing_else(executor: Any) -> None:
    called = threading.Event()
    future = executor.submit(jobs.square, 3)
    future.add_done_callback(_raise)
    future.add_done_callback(lambda _: sys.exit(3))
    future.add_done_callback(lambda _: called.set())
    assert future.result(LIMIT_S) == 9
    assert executor.submit(jobs.square, 4).result(LIMIT_S) == 16


def test_a_callback_that_blocks_does_not_hold_up_another_executor(
    cluster: Cluster, tmp_path: Path
) -> None:
    entered, gate = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        entered.set()
        gate.wait(LIMIT_S)

    with (
        cluster.new_executor(tmp_path / "one") as blocked,
        cluster.new_executor(tmp_path / "other") as other,
    ):
        try:
            first = blocked.submit(jobs.square, 1)
            first.add_done_callback(block)
            assert entered.wait(LIMIT_S)
            later = blocked.submit(jobs.square, 2)
            assert other.submit(jobs.square, 3).result(LIMIT_S) == 9
            assert list(other.map(jobs.square, [4, 5], timeout=LIMIT_S)) == [16, 25]
        finally:
            gate.set()
        assert later.result(LIMIT_S) == 4


def test_a_callback_may_submit(executor: Any) -> None:
    later: list[Any] = []
    future = executor.submit(jobs.square, 2)
    future.add_done_callback(lambda done: later.append(executor.submit(jobs.square, done.result())))
    wait_until(lambda: later, "the callback")
    assert later[0].result(LIMIT_S) == 16


def test_a_callback_may_map(executor: Any) -> None:
    later: list[Any] = []
    future = executor.submit(jobs.square, 2)
    future.add_done_callback(lambda _: later.extend(executor.map_to_futures(jobs.square, [3, 4])))
    wait_until(lambda: len(later) == 2, "the callback")
    assert [inner.result(LIMIT_S) for inner in later] == [9, 16]


def test_a_callback_may_shut_down_without_waiting(new_executor: Callable[..., Any]) -> None:
    executor = new_executor()
    future = executor.submit(jobs.square, 2)
    future.add_done_callback(lambda _: executor.shutdown(wait=False))
    other = executor.submit(jobs.square, 3)
    assert future.result(LIMIT_S) == 4
    assert other.result(LIMIT_S) == 9
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(jobs.square, 1)


def test_a_callback_may_cancel(new_executor: Callable[..., Any], tmp_path: Path) -> None:
    executor = new_executor(**LOCAL.narrow)
    gate = tmp_path / "gate"
    first = executor.submit(jobs.touch, tmp_path / "first")
    blocking, waiting = executor.map_to_futures(
        jobs.touch_and_wait, [(tmp_path / "blocking", gate), (tmp_path / "waiting", gate)]
    )
    first.add_done_callback(lambda _: waiting.cancel())
    assert first.result(LIMIT_S) == "first"
    wait_until(lambda: waiting.done() or waiting.running(), "the callback")
    gate.touch()
    assert blocking.result(LIMIT_S) == "blocking"


def test_a_callback_is_called_once_with_its_future(executor: Any) -> None:
    called: list[Any] = []
    futures = executor.map_to_futures(jobs.square, range(10))
    for future in futures:
        future.add_done_callback(called.append)
    for future in futures:
        future.result(LIMIT_S)
    wait_until(lambda: len(called) == 10, "the callbacks")
    assert {id(future) for future in called} == {id(future) for future in futures}
