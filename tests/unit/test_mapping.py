"""Promises of the iterator that `map` returns, on futures that the tests resolve."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections import deque
from concurrent.futures import Future

import pytest

from cluster_tools.mapping import check_map_arguments, iterate_results


def _done(result: int) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(result)
    return future


def _failed(error: Exception) -> Future[int]:
    future: Future[int] = Future()
    future.set_exception(error)
    return future


def test_results_come_in_order() -> None:
    assert list(iterate_results(deque(map(_done, range(3))), timeout=None)) == [0, 1, 2]


def test_what_is_late_is_a_timeout_error_and_is_cancelled() -> None:
    late, later = Future[int](), Future[int]()
    results = iterate_results(deque([_done(1), late, later]), timeout=0)
    assert next(results) == 1
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    assert late.cancelled()
    assert later.cancelled()


def test_an_exception_cancels_what_has_not_started() -> None:
    pending = Future[int]()
    results = iterate_results(deque([_failed(KeyError(1)), pending]), timeout=None)
    with pytest.raises(KeyError):
        next(results)
    assert pending.cancelled()


def test_closing_a_started_iterator_cancels_what_has_not_started() -> None:
    pending, running = Future[int](), Future[int]()
    running.set_running_or_notify_cancel()
    results = iterate_results(deque([_done(1), pending, running]), timeout=None)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert pending.cancelled()
    assert running.running()


def test_one_call_is_submitted_for_each_result_that_is_taken() -> None:
    numbers = itertools.count(2)
    submitted: list[int] = []

    def submit_next() -> Future[int] | None:
        number = next(numbers)
        if number == 5:
            return None
        submitted.append(number)
        return _done(number)

    results = iterate_results(deque([_done(0), _done(1)]), timeout=None, submit_next=submit_next)
    assert submitted == []
    assert next(results) == 0
    assert submitted == [2]
    assert next(results) == 1
    assert submitted == [2, 3]
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["chunksize", "buffersize"])
def test_numbers_less_than_one_are_refused(name: str) -> None:
    arguments = {"chunksize": None, "buffersize": None, name: 0}
    with pytest.raises(ValueError, match=name):
        check_map_arguments(**arguments)
