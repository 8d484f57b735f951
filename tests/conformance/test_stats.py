"""Promises on what is known about a call, `future.cluster_stats`, and on `executor.stats()`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import calls
import pytest
from strategies import NewExecutor, Strategy

from cluster_tools.call_stats import CallStats
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:BatchingExecutor.submit bypasses batching")

_SPUN_S = 0.3
_SLEPT_S = 1.0
_MEGABYTES = 40
# How much the wall clock may be adjusted against the clock that measures durations, during a call.
_CLOCKS_DIFFER_S = 0.1


def _stats_once_done(future: Any) -> CallStats:
    future.exception(LIMIT_S)
    return future.cluster_stats


def test_a_call_knows_when_and_where_it_ran(executor: Any, strategy: Strategy) -> None:
    before = time.time()
    stats = _stats_once_done(executor.submit(calls.square, 2))
    after = time.time()
    assert stats.submitted_at is not None
    assert stats.started_at is not None
    assert stats.ended_at is not None
    assert before <= stats.submitted_at <= after
    assert stats.started_at <= stats.ended_at
    assert stats.attempt == 1
    assert stats.node
    if strategy.is_local:
        # The duration is measured by another clock, beside which the system may adjust this one.
        assert stats.submitted_at <= stats.ended_at <= after + _CLOCKS_DIFFER_S
        assert (stats.node, stats.job_id, stats.log) == (os.uname().nodename, None, None)
    else:
        assert stats.job_id
        assert stats.log is not None
        assert Path(stats.log).exists()


def test_a_call_knows_the_cpu_time_that_it_took(executor: Any) -> None:
    stats = _stats_once_done(executor.submit(calls.spin, _SPUN_S))
    assert stats.cpu_s is not None
    assert stats.cpu_s > 0.9 * _SPUN_S


def test_a_call_that_waits_takes_little_cpu_time(executor: Any) -> None:
    stats = _stats_once_done(executor.submit(time.sleep, _SLEPT_S))
    assert stats.started_at is not None
    assert stats.ended_at is not None
    assert stats.ended_at - stats.started_at >= _SLEPT_S - 0.01
    assert stats.cpu_s is not None
    assert stats.cpu_s < _SLEPT_S / 2


def test_a_call_knows_the_memory_that_it_took(executor: Any) -> None:
    stats = _stats_once_done(executor.submit(calls.fill, _MEGABYTES))
    assert stats.peak_memory_bytes is not None
    assert stats.peak_memory_bytes >= _MEGABYTES << 20


def test_a_call_that_fails_knows_as_much(executor: Any) -> None:
    stats = _stats_once_done(executor.submit(calls.raise_refusal, 1))
    assert stats.started_at is not None
    assert stats.ended_at is not None
    assert stats.started_at <= stats.ended_at
    assert stats.cpu_s is not None
    assert stats.peak_memory_bytes


@pytest.mark.holds_for("makes_no_batches")
def test_a_call_whose_output_is_kept_knows_as_much(executor: Any, directory: Path) -> None:
    key = str(directory / "kept.pickle")
    stats = _stats_once_done(executor.submit(calls.square, 2, __cfut_options={"output_key": key}))
    assert stats.started_at is not None
    assert stats.ended_at is not None
    assert stats.started_at <= stats.ended_at
    assert stats.peak_memory_bytes


def test_each_call_of_many_knows_its_own(executor: Any) -> None:
    futures = executor.map_to_futures(calls.square, range(4))
    for stats in map(_stats_once_done, futures):
        assert stats.submitted_at is not None
        assert stats.started_at is not None
        assert stats.ended_at is not None
        assert stats.started_at <= stats.ended_at


@pytest.mark.holds_for("waits")
def test_a_call_that_waits_knows_when_it_was_submitted(
    new_executor: NewExecutor, directory: Path
) -> None:
    executor = new_executor(narrow=True)
    gate = directory / "gate"
    futures = [
        executor.submit(calls.touch_and_wait, (directory / f"{number}", gate))
        for number in range(6)
    ]
    try:
        stats = futures[-1].cluster_stats
        assert stats.submitted_at is not None
        assert (stats.started_at, stats.ended_at, stats.cpu_s) == (None, None, None)
    finally:
        gate.touch()
    stats = _stats_once_done(futures[-1])
    assert stats.ended_at is not None


@pytest.mark.holds_for("makes_no_batches")
def test_an_executor_counts_its_calls_by_how_they_end(new_executor: NewExecutor) -> None:
    executor = new_executor()
    before = executor.stats()
    assert (before.waiting, before.running, before.done, before.failed) == (0, 0, 0, 0)
    assert (before.cancelled, before.rate, before.time_left_s) == (0, 0.0, 0.0)
    for future in executor.map_to_futures(calls.refuse_odd, range(5)):
        future.exception(LIMIT_S)
    assert list(executor.map(calls.square, range(7))) == [n * n for n in range(7)]
    stats = executor.stats()
    assert (stats.waiting, stats.running, stats.cancelled) == (0, 0, 0)
    assert (stats.done, stats.failed) == (10, 2)
    assert stats.rate > 0
    assert stats.time_left_s == 0.0


@pytest.mark.holds_for("waits_without_batches")
def test_an_executor_counts_what_waits_and_what_runs(
    new_executor: NewExecutor, directory: Path
) -> None:
    executor = new_executor(narrow=True, max_workers=1)
    gate = directory / "gate"
    futures = [
        executor.submit(calls.touch_and_wait, (directory / f"{number}", gate))
        for number in range(6)
    ]
    try:
        wait_until((directory / "0").exists, "the first call")
        wait_until(lambda: executor.stats().running == 1, "its state")
        assert executor.stats().waiting == 5
        assert executor.stats().time_left_s is None
        assert futures[-1].cancel()
        wait_until(lambda: executor.stats().cancelled == 1, "the cancelled call")
        assert executor.stats().waiting == 4
    finally:
        gate.touch()
    for future in futures[:-1]:
        future.result(LIMIT_S)
    assert executor.stats().done == 5
