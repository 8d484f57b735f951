"""A `map` without `chunksize` against one with `chunksize=1`: no difference but speed.

Each test holds for both.
"""

from __future__ import annotations

import concurrent.futures
import gc
import importlib
import itertools
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import workers

from cluster_tools import MultiprocessingExecutor
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

START_METHODS = sorted({"spawn", "fork"} & set(multiprocessing.get_all_start_methods()))
COUNT = 3000  # enough for chunks of hundreds


@pytest.fixture(params=[None, 1], ids=["chunks", "one_by_one"])
def chunksize(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture(scope="module", params=START_METHODS)
def executor(request: pytest.FixtureRequest) -> Iterator[MultiprocessingExecutor]:
    with MultiprocessingExecutor(2, start_method=request.param) as shared_executor:
        yield shared_executor


@pytest.fixture(scope="module")
def single() -> Iterator[MultiprocessingExecutor]:
    with MultiprocessingExecutor(1) as shared_executor:
        yield shared_executor


@pytest.fixture
def lines(tmp_path: Path) -> str:
    return str(tmp_path / "lines")


class _Fifo(NamedTuple):
    path: str
    write: Callable[[], object]


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[_Fifo]:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    yield _Fifo(str(path), partial(os.write, descriptor, b"."))
    os.write(descriptor, b".")  # a test that failed
    os.close(descriptor)


def _numbers(lines: str) -> list[int]:
    return list(map(int, Path(lines).read_text().split()))


def _all_of(results: Iterator[Any]) -> tuple[list[Any], BaseException | None]:
    """The results, and the exception that ends them."""
    taken: list[Any] = []
    try:
        for result in results:
            taken.append(result)
    except BaseException as error:
        return taken, error
    return taken, None


def _run_script(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = directory / "script.py"
    imports = f"""
        import sys
        sys.path += {[str(Path(__file__).parents[i]) for i in (0, 1)]!r}
        import workers

        if __name__ == "__main__":
            from functools import partial
            from cluster_tools import MultiprocessingExecutor
    """
    body = textwrap.indent(textwrap.dedent(text), 4 * " ")
    script.write_text(textwrap.dedent(imports) + body)
    command = [sys.executable, str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_results_come_in_order(executor: Any, chunksize: int | None) -> None:
    numbers = range(COUNT)
    assert list(executor.map(abs, numbers, chunksize=chunksize)) == list(numbers)
    bases = executor.map(pow, numbers, itertools.repeat(2), chunksize=chunksize)
    assert list(bases) == [n * n for n in numbers]
    lists = executor.map(lambda n: [n], numbers, chunksize=chunksize)
    assert list(lists) == [[n] for n in numbers]
    assert list(executor.map(abs, [], chunksize=chunksize)) == []


def test_each_call_is_made_once_and_in_order(
    single: Any, chunksize: int | None, lines: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    fn = partial(workers.append_line_and_wait_at, COUNT // 2, str(gate), lines)
    results = single.map(fn, range(COUNT), chunksize=chunksize)
    for expected in range(COUNT // 2):  # with a call that waits behind them
        assert next(results) == expected
    gate.touch()
    assert list(results) == list(range(COUNT // 2, COUNT))
    assert _numbers(lines) == list(range(COUNT))


def test_what_is_submitted_later_begins_later(
    single: Any, chunksize: int | None, lines: str
) -> None:
    single.map(partial(workers.append_line, lines), range(COUNT), chunksize=chunksize)
    single.submit(workers.append_line, lines, -1).result(LIMIT_S)
    assert _numbers(lines) == [*range(COUNT), -1]


def test_a_failure_costs_no_other_call(executor: Any, chunksize: int | None, lines: str) -> None:
    fn = partial(workers.append_line_and_fail_at_sevens, lines)
    executor.map(fn, range(1, COUNT), chunksize=chunksize)
    wait_until(lambda: Path(lines).exists() and len(_numbers(lines)) == COUNT - 1, "all calls")
    assert sorted(_numbers(lines)) == list(range(1, COUNT))
    taken, error = _all_of(executor.map(fn, range(1, COUNT), chunksize=chunksize))
    assert taken == [1, 2, 3, 4, 5, 6]
    assert isinstance(error, SystemExit)
    assert error.args == (7,)
    assert "in append_line_and_fail_at_sevens" in str(error.__cause__)
    assert "cluster_tools/executors" not in str(error.__cause__)


def test_what_cannot_be_pickled_is_the_error_of_its_call(
    executor: Any, chunksize: int | None
) -> None:
    arguments: list[Any] = [1, 2, threading.Lock(), 4]
    taken, error = _all_of(executor.map(repr, arguments, chunksize=chunksize))
    assert taken == ["1", "2"]
    assert isinstance(error, pickle.PicklingError)
    assert "call of repr: argument 0 cannot be pickled" in str(error)
    taken, error = _all_of(executor.map(workers.odd_result, range(8), chunksize=chunksize))
    assert taken == [0] * 5
    assert isinstance(error, pickle.PicklingError)
    assert "call of odd_result: its result, of type lock" in str(error)
    taken, error = _all_of(executor.map(workers.odd_result, range(6, 99), chunksize=chunksize))
    assert taken == [0] * 3
    assert isinstance(error, ValueError)
    assert str(error) == "this pickle does not load"


def test_calls_share_nothing(single: Any, chunksize: int | None) -> None:
    shared = itertools.repeat(list[int](), COUNT)
    assert set(single.map(workers.append_to, shared, chunksize=chunksize)) == {1}
    assert set(single.map(workers.Counter(), range(COUNT), chunksize=chunksize)) == {1}
    before = len(single.submit(workers.grow, 0).result(LIMIT_S))
    grown = single.map(workers.grow, range(300), chunksize=chunksize)
    assert list(map(len, grown)) == list(range(before + 1, before + 301))


def test_arguments_are_those_of_the_moment_of_the_call(single: Any, chunksize: int | None) -> None:
    numbers = [1, 2]
    results = single.map(workers.list_length, [numbers] * COUNT, chunksize=chunksize)
    numbers.append(3)
    assert set(results) == {2}


def test_a_call_may_wait_for_one_behind_it(
    executor: Any, chunksize: int | None, tmp_path: Path
) -> None:
    fn = partial(workers.open_and_wait, COUNT - 1, COUNT // 2, str(tmp_path / "gate"))
    assert list(executor.map(fn, range(COUNT), chunksize=chunksize)) == list(range(COUNT))


def test_a_call_may_wait_for_one_before_it(
    executor: Any, chunksize: int | None, tmp_path: Path
) -> None:
    """That one may be behind a call that takes long, in the same chunk."""
    fn = partial(workers.touch_after_the_one_before, str(tmp_path), 150)
    results = executor.map(fn, range(300), timeout=LIMIT_S, chunksize=chunksize)
    last = executor.submit(fn, 300)
    assert list(results) == list(range(300))
    assert last.result(LIMIT_S) == 300


def test_a_timeout_costs_nothing_that_is_done(
    executor: Any, chunksize: int | None, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    fn = partial(workers.open_and_wait, -1, COUNT // 2, str(gate))
    results = executor.map(fn, range(COUNT), timeout=3, chunksize=chunksize)
    taken, error = _all_of(results)
    gate.touch()
    assert taken == list(range(COUNT // 2))
    assert isinstance(error, concurrent.futures.TimeoutError)
    assert list(results) == []


@pytest.mark.parametrize("function", ["global", "partial"])
@pytest.mark.parametrize("kind", ["plain", "object", "large plain", "large object"])
def test_a_call_that_holds_the_interpreter_delays_no_other(
    executor: Any, chunksize: int | None, fifo: _Fifo, kind: str, function: str
) -> None:
    count = 60 if "large" in kind else COUNT
    arguments: tuple[Any, ...] = count // 2, fifo.path, kind
    if function == "global":
        values = *map(itertools.repeat, arguments), range(count)
        results = executor.map(workers.hold_the_interpreter_at, *values, chunksize=chunksize)
    else:
        fn = partial(workers.hold_the_interpreter_at, *arguments)
        results = executor.map(fn, range(count), chunksize=chunksize)
    expected = [workers.outcome_of_kind(kind, number) for number in range(count)]
    assert [next(results) for _ in range(count // 2)] == expected[: count // 2]
    assert executor.submit(workers.list_length, []).result(LIMIT_S) == 0  # behind all of them
    fifo.write()
    assert list(results) == expected[count // 2 :]


def test_a_function_that_is_slow_to_load_costs_no_call(
    chunksize: int | None, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / f"slow_to_load_{chunksize}.py"
    module.write_text(
        "import multiprocessing, time\n"
        "from workers import append_line\n"
        "def call(path, number):\n"
        "    return append_line(path, number)\n"
        "if multiprocessing.parent_process():\n"
        "    time.sleep(0.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fn = importlib.import_module(module.stem).call
    with MultiprocessingExecutor(2) as executor:
        results = executor.map(fn, itertools.repeat(lines), range(99), chunksize=chunksize)
        assert list(results) == list(range(99))
    assert sorted(_numbers(lines)) == list(range(99))


def test_what_is_behind_a_call_that_holds_the_interpreter_can_be_cancelled(
    chunksize: int | None, lines: str, fifo: _Fifo
) -> None:
    with MultiprocessingExecutor(1) as executor:
        fn = partial(workers.append_line_and_hold_at, 10, fifo.path, lines)
        results: Any = executor.map(fn, range(COUNT), chunksize=chunksize)
        assert [next(results) for _ in range(10)] == list(range(10))
        results.close()
        fifo.write()
    assert len(_numbers(lines)) <= 13  # two more may be on their way


@pytest.mark.parametrize("end", ["close", "drop"])
def test_an_abandoned_iterator_cancels_what_has_not_begun(
    chunksize: int | None, lines: str, end: str
) -> None:
    with MultiprocessingExecutor(2) as executor:
        fn = partial(workers.append_line_slowly, lines)
        results: Any = executor.map(fn, range(COUNT), chunksize=chunksize)
        assert next(results) == 0
        if end == "close":
            results.close()
        del results
        gc.collect()
    assert len(_numbers(lines)) < COUNT


@pytest.mark.parametrize("end", ["wait", "go_on", "drop"])
def test_an_iterator_that_nobody_reads_has_all_calls_made(
    chunksize: int | None, lines: str, end: str
) -> None:
    executor = MultiprocessingExecutor(2)
    executor.map(partial(workers.append_line, lines), range(COUNT), chunksize=chunksize)
    if end == "wait":
        executor.shutdown()
        assert len(_numbers(lines)) == COUNT
    elif end == "go_on":
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.map(abs, [1], chunksize=chunksize)
    del executor
    gc.collect()
    wait_until(lambda: Path(lines).exists() and len(_numbers(lines)) == COUNT, "all calls")


def test_the_end_of_the_program_waits_for_all_calls(
    chunksize: int | None, lines: str, tmp_path: Path
) -> None:
    ended = _run_script(
        tmp_path,
        f"""
        fn = partial(workers.append_line, {lines!r})
        MultiprocessingExecutor(2).map(fn, range({COUNT}), chunksize={chunksize})
        """,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(_numbers(lines)) == list(range(COUNT))


def test_cancel_futures_cancels_what_has_not_begun(
    chunksize: int | None, lines: str, tmp_path: Path
) -> None:
    executor = MultiprocessingExecutor(1)
    gate = tmp_path / "gate"
    fn = partial(workers.append_line_and_wait_at, 10, str(gate), lines)
    results = executor.map(fn, range(COUNT), chunksize=chunksize)
    assert [next(results) for _ in range(10)] == list(range(10))
    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    taken, error = _all_of(results)
    assert isinstance(error, CancelledError)
    executor.shutdown()
    assert _numbers(lines) == [*range(10), *taken]


def test_a_worker_that_dies_ends_all_calls(chunksize: int | None, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    executor = MultiprocessingExecutor(1)
    fn = partial(workers.wait_and_die_at, 500, gate)
    results = executor.map(fn, range(COUNT), chunksize=chunksize)
    later = executor.map(abs, range(COUNT), chunksize=chunksize)
    assert [next(results) for _ in range(500)] == list(range(500))
    gate.touch()
    executor.shutdown()
    for ended in (results, later):
        taken, error = _all_of(ended)
        assert taken == []
        assert isinstance(error, BrokenProcessPool)


def test_a_broken_pool_refuses_calls(chunksize: int | None) -> None:
    with MultiprocessingExecutor(1) as executor:
        assert executor.submit(workers.die).exception(LIMIT_S) is not None
        with pytest.raises(BrokenProcessPool):
            executor.map(abs, [1], chunksize=chunksize)


def test_failures_are_logged(
    single: Any, chunksize: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    single.map(workers.refuse_from, [80] * 100, range(100), chunksize=chunksize)
    wait_until(lambda: "20 of 100 calls failed" in caplog.text, "the last line")
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert messages == [
        *(f"Call {n} of refuse_from failed: ValueError: {n}" for n in range(80, 90)),
        "20 of 100 calls failed; the first 10 are listed above",
    ]


def test_buffersize_limits_how_far_map_is_ahead(single: Any, chunksize: int | None) -> None:
    numbers = itertools.count()
    results = single.map(abs, numbers, buffersize=3, chunksize=chunksize)
    assert [next(results) for _ in range(100)] == list(range(100))
    assert next(numbers) <= 104


def test_workers_are_started_when_they_are_needed(chunksize: int | None) -> None:
    with MultiprocessingExecutor(4) as executor:
        process_ids = {
            process_id
            for _ in range(5)
            for process_id in executor.map(workers.process_id, [None], chunksize=chunksize)
        }
        assert len(process_ids) == 1


def test_an_exception_is_that_of_all_its_chunk_where_chunksize_is_given(executor: Any) -> None:
    taken, error = _all_of(executor.map(workers.refuse_from, [5] * 9, range(9), chunksize=3))
    assert taken == [0, 1, 2]
    assert isinstance(error, ValueError)


def test_a_worker_imports_little(tmp_path: Path) -> None:
    ended = _run_script(
        tmp_path,
        """
        with MultiprocessingExecutor(1) as executor:
            print(*executor.submit(workers.modules).result())
        """,
    )
    modules = set(ended.stdout.split())
    assert {name for name in modules if name.startswith("cluster_tools.")} == {
        "cluster_tools._lazy",
        "cluster_tools.by_reference",
        "cluster_tools.errors",
        "cluster_tools.executors",
        "cluster_tools.executors.calls",
        "cluster_tools.executors.chunk_progress",
        "cluster_tools.executors.log_forwarding",
        "cluster_tools.executors.pool_worker",
        "cluster_tools.function_name",
        "cluster_tools.packed_exceptions",
        "cluster_tools.pickling",
        "cluster_tools.format",
        "cluster_tools.format.numbers",
        "cluster_tools.usage",
    }
    assert not modules & {"cloudpickle", "inspect", "logging.handlers", "typing_extensions"}
