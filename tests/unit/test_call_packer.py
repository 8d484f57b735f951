"""What all calls of a `map` share is kept once, and is in each call as if it were its own."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import workers

from cluster_tools import (
    MultiprocessingExecutor,
    MultiprocessingPickleExecutor,
)
from support.waiting import LIMIT_S

CARRIED = 2_000_000
COUNT = 60


def _map(executor: Any, fn: Callable[..., Any], items: Any, **keywords: Any) -> list[Any]:
    return list(executor.map(fn, items, **keywords))


def _futures(executor: Any, fn: Callable[..., Any], items: Any) -> list[Any]:
    return [future.result(LIMIT_S) for future in executor.map_to_futures(fn, items)]


WAYS: dict[str, Callable[..., list[Any]]] = {
    "map": _map,
    "chunksize_1": functools.partial(_map, chunksize=1),
    "chunksize_7": functools.partial(_map, chunksize=7),
    "buffersize": functools.partial(_map, buffersize=2),
    "futures": _futures,
}


@pytest.fixture(scope="module", params=[MultiprocessingExecutor, MultiprocessingPickleExecutor])
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param(2) as shared_executor:
        shared_executor.submit(pow, 2, 2).result(LIMIT_S)
        yield shared_executor


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    return WAYS[request.param]


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    gc.collect()
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("by_value", [False, True])
def test_a_function_that_carries_much_is_kept_once(
    executor: Any, way: Callable[..., list[Any]], peak: Callable[[], int], by_value: bool
) -> None:
    def second(carried: object, number: int) -> int:
        return number

    function: Callable[..., Any] = second if by_value else workers.return_second
    carries_much = functools.partial(function, [bytes(CARRIED)])
    assert way(executor, carries_much, range(COUNT)) == list(range(COUNT))
    assert peak() < 25 * CARRIED


def test_an_argument_of_all_calls_is_kept_once(executor: Any, peak: Callable[[], int]) -> None:
    numbers = list(range(300_000))
    shared = itertools.repeat(numbers, COUNT)
    assert list(executor.map(workers.list_length, shared)) == [len(numbers)] * COUNT
    assert peak() < 40_000_000


def test_iterators_that_are_kept_keep_no_calls(executor: Any) -> None:
    carries_much = functools.partial(workers.return_second, bytes(CARRIED))
    tracemalloc.start()
    kept = [executor.map(carries_much, range(4)) for _ in range(20)]
    for results in kept:
        assert [next(results) for _ in range(3)] == [0, 1, 2]
    executor.submit(pow, 2, 2).result(LIMIT_S)
    gc.collect()
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 5 * CARRIED
    assert [list(results) for results in kept] == [[3]] * 20


def test_what_function_and_argument_share_is_one_object_in_a_call(
    executor: Any, way: Callable[..., list[Any]]
) -> None:
    parent = workers.Parent()
    assert way(executor, parent.is_parent_of, parent.children) == [True] * len(parent.children)


def test_a_function_with_a_connection_is_sent_with_each_call(way: Callable[..., list[Any]]) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer, MultiprocessingExecutor(2) as executor:
        way(executor, functools.partial(workers.send, writer), range(10))
        assert sorted(reader.recv() for _ in range(10)) == list(range(10))


def test_an_argument_that_cannot_be_pickled_costs_no_other_call(executor: Any) -> None:
    bound = functools.partial(workers.return_second, "bound")
    items: list[Any] = [1, threading.Lock(), lambda: 3, 4]
    futures = executor.map_to_futures(bound, items)
    assert "argument 0 cannot be pickled" in str(futures[1].exception(LIMIT_S))
    assert [futures[i].result(LIMIT_S) for i in (0, 3)] == [1, 4]
    assert futures[2].result(LIMIT_S)() == 3


def test_a_call_that_cannot_be_pickled_is_not_kept(executor: Any) -> None:
    class Carries:
        lock = None

        def __init__(self) -> None:
            self.lock = threading.Lock()

    carries = Carries()
    known = weakref.ref(carries)
    futures = [executor.submit(repr, carries), *executor.map_to_futures(repr, [carries])]
    results = executor.map(repr, [carries])
    del carries
    assert all(future.exception(LIMIT_S) for future in futures)
    gc.collect()
    assert known() is None
    with pytest.raises(Exception, match="cannot be pickled"):
        next(results)
