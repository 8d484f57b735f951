"""Promises on `map`."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import calls
import pytest
from strategies import NewExecutor, Strategy

import cluster_tools
from support.waiting import wait_until


def test_map_yields_results_in_the_order_of_the_calls(executor: Any) -> None:
    assert list(executor.map(calls.square, [2, 3, 4])) == [4, 9, 16]


def test_map_takes_several_iterables_and_stops_at_the_shortest(executor: Any) -> None:
    assert list(executor.map(pow, [2, 3, 4], itertools.repeat(2, 2))) == [4, 9]


def test_map_of_nothing_is_empty(executor: Any) -> None:
    assert list(executor.map(calls.square, [])) == []


def test_map_yields_what_comes_before_an_exception(executor: Any) -> None:
    results = executor.map(calls.refuse_three, [1, 2, 3, 4])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(calls.Refusal, match="it is three"):
        next(results)


def test_map_submits_all_calls_when_nobody_iterates(
    new_executor: NewExecutor, directory: Path
) -> None:
    executor = new_executor()
    executor.map(calls.touch, [directory / "a", directory / "b", directory / "c"])
    executor.shutdown()
    assert all((directory / name).exists() for name in "abc")


@pytest.mark.holds_for("waits")
def test_map_raises_timeout_error_when_its_time_is_over(
    new_executor: NewExecutor, directory: Path
) -> None:
    executor = new_executor()
    gate = directory / "gate"
    results = executor.map(calls.touch_and_wait, [(directory / "started", gate)], timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    gate.touch()


def test_buffersize_limits_how_far_map_is_ahead(executor: Any) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    results = executor.map(calls.square, numbers(), buffersize=2)
    assert len(taken) == 2
    assert next(results) == 0
    assert len(taken) <= 4
    assert list(results) == [1, 4, 9, 16, 25]


@pytest.mark.parametrize(("buffersize", "error"), [(0, ValueError), ("2", TypeError)])
def test_map_refuses_a_wrong_buffersize(
    executor: Any, buffersize: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="buffersize"):
        executor.map(calls.square, [1], buffersize=buffersize)


@pytest.mark.holds_for("makes_no_batches")
def test_chunksize_does_not_change_the_results(executor: Any) -> None:
    assert list(executor.map(calls.square, range(5), chunksize=2)) == [0, 1, 4, 9, 16]
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(calls.square, [1], chunksize=0)


@pytest.mark.holds_for("waits")
def test_closing_a_started_map_cancels_what_has_not_started(
    new_executor: NewExecutor, strategy: Strategy, directory: Path
) -> None:
    executor = new_executor(narrow=True)
    first_gate, gate = directory / "first_gate", directory / "gate"
    first_gate.touch()
    # One more batch runs when the first is done, so that many may have started.
    count = strategy.narrow_width + 3 * strategy.batch_size
    paths = [
        (directory / str(i), gate if i >= strategy.batch_size else first_gate) for i in range(count)
    ]
    results = executor.map(calls.touch_and_wait, paths)
    assert next(results) == "0"
    results.close()
    gate.touch()
    executor.shutdown()
    assert not (directory / str(count - 1)).exists()


def test_map_keeps_no_reference_to_what_it_has_yielded(executor: Any) -> None:
    results = executor.map(calls.make_weakly, range(2))
    reference = weakref.ref(next(results))

    def is_gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(is_gone, "the first result's end")
    assert next(results) == [1]


def test_buffersize_yields_all_results_where_nothing_else_refers_to_the_executor(
    strategy: Strategy, directory: Path
) -> None:
    arguments = strategy.arguments(directory)
    results = cluster_tools.get_executor(strategy.environment, **arguments).map(
        calls.square, range(5), buffersize=2
    )
    gc.collect()
    assert list(results) == [0, 1, 4, 9, 16]
