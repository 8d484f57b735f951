"""Short calls by `submit` and `map_to_futures`, of which a worker gets several at once.

Callers see a difference in speed only.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import workers

from cluster_tools import MultiprocessingExecutor
from support.waiting import LIMIT_S, wait_until

COUNT = 1000  # enough for batches of hundreds


@pytest.fixture(params=[1, 2])
def executor(request: pytest.FixtureRequest) -> Iterator[MultiprocessingExecutor]:
    """One that knows that calls are short."""
    with MultiprocessingExecutor(request.param) as new_executor:
        for future in new_executor.map_to_futures(abs, range(100)):
            future.result(LIMIT_S)
        yield new_executor


@pytest.fixture
def lines(tmp_path: Path) -> str:
    return str(tmp_path / "lines")


def _numbers(lines: str) -> list[int]:
    return list(map(int, Path(lines).read_text().split()))


def _submit_all(executor: Any, fn: Any, numbers: Any) -> list[Any]:
    return [executor.submit(fn, number) for number in numbers]


@pytest.mark.parametrize("by", ["submit", "map_to_futures"])
def test_each_call_is_made_once_and_has_its_own_future(
    executor: Any, lines: str, tmp_path: Path, by: str
) -> None:
    gate = tmp_path / "gate"
    fn = partial(workers.append_line_and_wait_at, COUNT // 2, str(gate), lines)
    submit_all = (
        executor.map_to_futures if by == "map_to_futures" else partial(_submit_all, executor)
    )
    futures = submit_all(fn, range(COUNT))
    for number, future in enumerate(futures[: COUNT // 2]):  # with one that waits behind them
        assert future.result(LIMIT_S) == number
    if executor.max_workers > 1:
        for number, future in enumerate(futures[COUNT // 2 + 1 :], COUNT // 2 + 1):
            assert future.result(LIMIT_S) == number
    gate.touch()
    assert [future.result(LIMIT_S) for future in futures] == list(range(COUNT))
    assert sorted(_numbers(lines)) == list(range(COUNT))
    assert executor.stats().done == COUNT + 100
    assert all(future.cluster_stats.ended_at is not None for future in futures)


def test_calls_begin_in_the_order_of_their_submission(lines: str) -> None:
    with MultiprocessingExecutor(1) as executor:
        fn = partial(workers.append_line, lines)
        _submit_all(executor, fn, range(300))
        executor.map(fn, range(300, 600))
        executor.map_to_futures(fn, range(600, 900))
    assert _numbers(lines) == list(range(900))


def test_a_call_may_wait_for_one_behind_it(tmp_path: Path) -> None:
    with MultiprocessingExecutor(2) as executor:
        fn = partial(workers.open_and_wait, COUNT - 1, COUNT // 2, str(tmp_path / "gate"))
        futures = executor.map_to_futures(fn, range(COUNT))
        assert [future.result(LIMIT_S) for future in futures] == list(range(COUNT))


def test_what_is_behind_a_call_that_takes_long_can_be_cancelled(
    executor: Any, lines: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    fn = partial(workers.append_line_and_wait_at, 10, str(gate), lines)
    futures = executor.map_to_futures(fn, range(COUNT))
    if executor.max_workers == 1:
        wait_until(futures[10].running, "the call that waits")
        wait_until(lambda: all(future.cancel() for future in futures[14:]), "cancellation")
    else:
        executor.cancel_unstarted()
    gate.touch()
    concurrent.futures.wait(futures, LIMIT_S)
    made = [number for number, future in enumerate(futures) if not future.cancelled()]
    assert sorted(_numbers(lines)) == made


def test_cancel_futures_cancels_what_a_worker_has_not_begun(lines: str, tmp_path: Path) -> None:
    executor = MultiprocessingExecutor(1)
    gate = tmp_path / "gate"
    fn = partial(workers.append_line_and_wait_at, 10, str(gate), lines)
    futures = executor.map_to_futures(fn, range(COUNT))
    assert [future.result(LIMIT_S) for future in futures[:10]] == list(range(10))
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(future.cancelled() for future in futures[11:]), "cancellation")
    gate.touch()
    executor.shutdown()
    assert futures[10].result(LIMIT_S) == 10
    assert _numbers(lines) == list(range(11))


def test_a_failure_costs_no_other_call(executor: Any, lines: str) -> None:
    fn = partial(workers.append_line_and_fail_at_sevens, lines)
    futures = executor.map_to_futures(fn, range(1, 100))
    for number, future in enumerate(futures, 1):
        error = future.exception(LIMIT_S)
        assert (error is None) == bool(number % 7)
    assert sorted(_numbers(lines)) == list(range(1, 100))


def test_a_worker_that_dies_ends_all_calls(executor: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    futures = executor.map_to_futures(partial(workers.wait_and_die_at, 500, gate), range(COUNT))
    for number, future in enumerate(futures[:500]):
        assert future.result(LIMIT_S) == number
    gate.touch()
    for future in futures[500:]:
        error = future.exception(LIMIT_S)
        assert error is None or isinstance(error, BrokenProcessPool)
    assert isinstance(futures[500].exception(LIMIT_S), BrokenProcessPool)


def test_large_calls_keep_their_place_among_small_ones(lines: str) -> None:
    """Small ones are written to the pool's pipe directly."""
    with MultiprocessingExecutor(1) as executor:
        fn = partial(workers.append_line, lines)
        expected: list[int] = []
        for number in range(200):
            executor.submit(fn, number if number % 5 else Padded(number))
            expected.append(number)
    assert _numbers(lines) == expected


class Padded(int):
    """A number whose pickle is large."""

    def __reduce__(self) -> Any:
        return _unpadded, (int(self), bytes(200_000))


def _unpadded(number: int, _: bytes) -> int:
    return number
