"""Promises of BatchingExecutor on its batches, over an executor that the tests can look into."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

import cluster_tools
from cluster_tools import BatchingExecutor, SequentialExecutor


class _HeldExecutor(SequentialExecutor):
    """Notes what it is given; its futures are resolved by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Callable[[Any], Any], Any, Future[Any]]] = []

    def map_to_futures(self, fn: Any, args: Iterable[Any], *_: Any, **__: Any) -> list[Future[Any]]:
        items = list(args)
        futures = [Future[Any]() for _ in items]
        self.held += [(fn, item, future) for item, future in zip(items, futures)]
        return futures

    def release(self, index: int) -> None:
        fn, item, future = self.held[index]
        if future.set_running_or_notify_cancel():
            future.set_result(fn(item))


@pytest.fixture
def inner() -> _HeldExecutor:
    return _HeldExecutor()


def _square(number: int) -> int:
    return number * number


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        ({"batch_size": 2}, [2, 2, 1]),
        ({"batch_size": 9}, [5]),
        ({"target_job_count": 2}, [3, 2]),
        ({"target_job_count": 9}, [1, 1, 1, 1, 1]),
    ],
)
def test_items_are_grouped(inner: _HeldExecutor, size: dict[str, int], lengths: list[int]) -> None:
    batching = BatchingExecutor(inner, **size)
    futures = batching.map_to_futures(_square, range(5))
    assert [len(batch) for _, batch, _ in inner.held] == lengths
    for index in range(len(inner.held)):
        inner.release(index)
    assert [future.result() for future in futures] == [0, 1, 4, 9, 16]


def test_a_batch_has_the_name_of_its_function(inner: _HeldExecutor) -> None:
    BatchingExecutor(inner, batch_size=2).map_to_futures(_square, [1])
    assert inner.held[0][0].__name__ == "batch__square"


def test_the_sizes_are_properties(inner: _HeldExecutor) -> None:
    assert BatchingExecutor(inner, batch_size=2).batch_size == 2
    assert BatchingExecutor(inner, batch_size=2).target_job_count is None
    assert BatchingExecutor(inner, target_job_count=3).target_job_count == 3


@pytest.mark.parametrize(
    "sizes",
    [{}, {"batch_size": 1, "target_job_count": 1}, {"batch_size": 0}, {"target_job_count": -1}],
)
def test_not_exactly_one_positive_size_is_a_value_error(
    inner: _HeldExecutor, sizes: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=r"batch_size|target_job_count"):
        BatchingExecutor(inner, **sizes)
    with pytest.raises(ValueError, match=r"batch_size|target_job_count"):
        cluster_tools.get_executor("batching", executor={"name": "sequential"}, **sizes)


@pytest.mark.parametrize("config", [None, {}, "sequential"])
def test_get_executor_wants_the_inner_executors_name(config: Any) -> None:
    with pytest.raises(ValueError, match="'name'"):
        cluster_tools.get_executor("batching", executor=config, batch_size=1)


def test_submit_warns_that_it_bypasses_batching() -> None:
    with (
        BatchingExecutor(SequentialExecutor(), batch_size=2) as batching,
        pytest.warns(UserWarning, match="bypasses batching") as warned,
    ):
        assert batching.submit(_square, 3).result() == 9
    assert warned[0].filename == __file__


def test_chunksize_and_getters_are_refused(inner: _HeldExecutor) -> None:
    batching = BatchingExecutor(inner, batch_size=2)
    with pytest.raises(ValueError, match="chunksize"):
        batching.map(_square, [1], chunksize=1)
    with pytest.raises(NotImplementedError, match="output"):
        batching.map_to_futures(_square, [1], output_key_getter=str)
    with pytest.raises(NotImplementedError, match="output"):
        batching.map_to_futures(_square, [1], output_pickle_path_getter=str)


def test_a_failing_batch_fails_each_of_its_futures(inner: _HeldExecutor) -> None:
    futures = BatchingExecutor(inner, batch_size=2).map_to_futures(_square, [1, 2, 3])
    inner.held[0][2].set_running_or_notify_cancel()
    inner.held[0][2].set_exception(KeyError(1))
    inner.release(1)
    assert [type(future.exception()) for future in futures] == [KeyError, KeyError, type(None)]


def test_a_cancelled_item_is_done_at_once_and_the_rest_of_its_batch_runs(
    inner: _HeldExecutor,
) -> None:
    first, second = BatchingExecutor(inner, batch_size=2).map_to_futures(_square, [1, 2])
    assert first.cancel()
    assert concurrent.futures.wait([first], timeout=1).done == {first}
    assert not inner.held[0][2].cancelled()
    inner.release(0)
    assert second.result() == 4
    assert not second.cancel()


def test_a_batch_is_cancelled_when_all_its_items_are(inner: _HeldExecutor) -> None:
    futures = BatchingExecutor(inner, batch_size=2).map_to_futures(_square, [1, 2])
    assert all(future.cancel() for future in futures)
    assert inner.held[0][2].cancelled()


def test_items_of_a_cancelled_batch_are_cancelled(inner: _HeldExecutor) -> None:
    futures = BatchingExecutor(inner, batch_size=2).map_to_futures(_square, [1, 2])
    inner.held[0][2].cancel()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(timeout=1)


def test_an_item_of_a_running_batch_runs_and_cannot_be_cancelled(inner: _HeldExecutor) -> None:
    first, _ = BatchingExecutor(inner, batch_size=2).map_to_futures(_square, [1, 2])
    assert not first.running()
    inner.held[0][2].set_running_or_notify_cancel()
    assert first.running()
    assert not first.cancel()


def test_what_is_given_to_it_and_differently_to_its_executor_is_refused() -> None:
    inner = {"name": "sequential", "max_workers": 1}
    with pytest.raises(ValueError, match="max_workers is given twice: 2 to batching, and 1"):
        cluster_tools.get_executor("batching", executor=inner, max_workers=2, batch_size=2)
    with cluster_tools.get_executor(
        "batching", executor=inner, max_workers=1, batch_size=2
    ) as executor:
        assert list(executor.map(_square, [1, 2, 3])) == [1, 4, 9]
