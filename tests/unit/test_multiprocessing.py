"""Promises of MultiprocessingExecutor that other strategies do not make."""

from __future__ import annotations

import concurrent.futures
import gc
import linecache
import logging
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import workers

from cluster_tools import MultiprocessingExecutor, get_executor
from support.waiting import LIMIT_S, wait_until

START_METHODS = [
    method
    for method in ("spawn", "forkserver", "fork")
    if method in multiprocessing.get_all_start_methods()
]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def executor() -> Iterator[MultiprocessingExecutor]:
    with MultiprocessingExecutor(2) as shared_executor:
        yield shared_executor


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    return request.param


def _run_script(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = directory / "script.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_the_start_method_is_spawn(
    monkeypatch: pytest.MonkeyPatch, executor: MultiprocessingExecutor
) -> None:
    monkeypatch.delenv("MULTIPROCESSING_DEFAULT_START_METHOD", raising=False)
    assert executor.submit(workers.start_method).result(LIMIT_S) == "spawn"


def test_every_start_method_runs_calls(start_method: str) -> None:
    with get_executor("multiprocessing", max_workers=1, start_method=start_method) as executor:
        assert list(executor.map(pow, [2, 3], [2, 2])) == [4, 9]
        assert executor.submit(workers.start_method).result(LIMIT_S) == start_method


def test_the_environment_says_the_start_method(
    monkeypatch: pytest.MonkeyPatch, start_method: str
) -> None:
    monkeypatch.setenv("MULTIPROCESSING_DEFAULT_START_METHOD", start_method)
    with MultiprocessingExecutor(1) as executor:
        assert executor.submit(workers.start_method).result(LIMIT_S) == start_method


def test_start_method_and_context_together_are_a_value_error() -> None:
    context = multiprocessing.get_context("spawn")
    with pytest.raises(ValueError, match="start_method"):
        MultiprocessingExecutor(mp_context=context, start_method="spawn")


@pytest.mark.parametrize("max_workers", [0, -1])
def test_a_wrong_number_of_workers_is_a_value_error(max_workers: int) -> None:
    threads = threading.active_count()
    with pytest.raises(ValueError, match="max_workers"):
        MultiprocessingExecutor(max_workers=max_workers)
    assert threading.active_count() == threads


def test_the_arguments_have_the_standard_librarys_order() -> None:
    context = multiprocessing.get_context("spawn")
    with MultiprocessingExecutor(1, context, workers.initialize, ("value",)) as executor:
        assert executor.submit(workers.initialized).result(LIMIT_S) == "value"


def test_the_initializer_runs_in_each_worker(start_method: str) -> None:
    with MultiprocessingExecutor(
        1, start_method=start_method, initializer=workers.initialize, initargs=(5,)
    ) as executor:
        assert executor.submit(workers.initialized).result(LIMIT_S) == 5


def _initializers() -> list[Any]:
    return [
        pytest.param(workers.fail_to_initialize, ("a reason",), ValueError, id="fails"),
        pytest.param(lambda: 1 / 0, (), ZeroDivisionError, id="lambda"),
        pytest.param(sys.exit, (3,), SystemExit, id="exits"),
    ]


@pytest.mark.parametrize(("initializer", "initargs", "error_type"), _initializers())
def test_a_failing_initializer_is_the_cause_of_what_each_call_raises(
    start_method: str, initializer: Any, initargs: tuple[Any, ...], error_type: type[BaseException]
) -> None:
    errors: list[BaseException | None] = []
    with MultiprocessingExecutor(
        2, start_method=start_method, initializer=initializer, initargs=initargs
    ) as executor:
        errors.append(executor.submit(pow, 2, 2).exception(LIMIT_S))
        with pytest.raises(BrokenProcessPool) as late:
            executor.submit(pow, 2, 2)
        errors.append(late.value)
    with MultiprocessingExecutor(
        2, start_method=start_method, initializer=initializer, initargs=initargs
    ) as executor:
        with pytest.raises(BrokenProcessPool) as mapped:
            list(executor.map(abs, range(100), timeout=LIMIT_S))
        errors.append(mapped.value)
    for error in errors:
        assert isinstance(error, BrokenProcessPool)
        assert str(error).startswith("the initializer of a worker failed: ")
        assert type(error.__cause__) is error_type


@pytest.mark.parametrize("initargs", [(threading.Lock(),), (workers.OneWay(),)])
def test_initargs_that_do_not_arrive_are_a_failing_initializer(initargs: tuple[Any, ...]) -> None:
    with MultiprocessingExecutor(1, initializer=print, initargs=initargs) as executor:
        error = executor.submit(pow, 2, 2).exception(LIMIT_S)
        assert isinstance(error, BrokenProcessPool)
        assert isinstance(error.__cause__, (pickle.PicklingError, ValueError))


def test_initargs_may_be_what_only_relatives_share(start_method: str) -> None:
    context: Any = multiprocessing.get_context(start_method)
    reader, writer = context.Pipe(duplex=False)
    with (
        reader,
        writer,
        MultiprocessingExecutor(
            1, context, initializer=workers.send_under, initargs=(context.Lock(), writer)
        ) as executor,
    ):
        executor.submit(pow, 2, 2).result(LIMIT_S)
        assert reader.poll(LIMIT_S)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 refuses max_tasks_per_child")
@pytest.mark.parametrize("max_workers", [1, 2])
def test_a_worker_is_replaced_after_its_number_of_calls(max_workers: int) -> None:
    with MultiprocessingExecutor(max_workers, max_tasks_per_child=2) as executor:
        process_ids = list(executor.map(workers.process_id, range(8)))
    assert len(set(process_ids)) >= 4
    assert max(process_ids.count(process_id) for process_id in process_ids) <= 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 refuses max_tasks_per_child")
def test_workers_are_replaced_after_a_shutdown_that_did_not_wait() -> None:
    executor = MultiprocessingExecutor(1, max_tasks_per_child=1)
    futures = executor.map_to_futures(workers.process_id, range(4))
    executor.shutdown(wait=False)
    assert len({future.result(LIMIT_S) for future in futures}) == 4


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="later Pythons have max_tasks_per_child")
def test_python_3_10_refuses_max_tasks_per_child() -> None:
    with pytest.raises(NotImplementedError, match=r"3\.11"):
        MultiprocessingExecutor(max_tasks_per_child=1)


def test_a_dead_worker_breaks_the_pool_for_all() -> None:
    with MultiprocessingExecutor(1) as executor:
        futures = [executor.submit(workers.die), executor.submit(workers.process_id)]
        for future in futures:
            with pytest.raises(BrokenProcessPool):
                future.result(LIMIT_S)
        with pytest.raises(BrokenProcessPool):
            executor.submit(workers.process_id)


def test_a_cancelled_call_does_not_keep_the_others_from_breaking(tmp_path: Path) -> None:
    with MultiprocessingExecutor(1) as executor:
        first = executor.submit(workers.wait_and_die_at, 0, tmp_path / "gate", 0)
        wait_until(first.running, "the first call")
        others = [executor.submit(workers.process_id) for _ in range(6)]
        assert others[4].cancel()
        (tmp_path / "gate").touch()
        for future in [first, *others[:4], others[5]]:
            with pytest.raises(BrokenProcessPool):
                future.result(LIMIT_S)
        assert others[4].cancelled()


def test_cancelled_calls_are_forgotten_before_it_is_their_turn(tmp_path: Path) -> None:
    with MultiprocessingExecutor(1) as executor:
        first = executor.submit(workers.wait_for, tmp_path / "gate")
        others = [executor.submit(workers.process_id) for _ in range(10)]
        gc.collect()
        tracemalloc.start()
        for _ in range(1000):
            assert executor.submit(len, bytes(10_000)).cancel()
        gc.collect()
        current, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert current < 200 * 10_000
        (tmp_path / "gate").touch()
        assert first.result(LIMIT_S) == "gate"
        assert len({future.result(LIMIT_S) for future in others}) == 1


def test_cancelling_while_the_pool_breaks_leaves_no_future_open(tmp_path: Path) -> None:
    for attempt in range(10):
        gate = tmp_path / str(attempt)
        with MultiprocessingExecutor(2) as executor:
            executor.submit(workers.wait_and_die_at, 0, gate, 0)
            futures: list[Any] = [executor.submit(workers.process_id) for _ in range(500)]
            cancel = operator.methodcaller("cancel")
            cancelling = threading.Thread(target=list, args=(map(cancel, futures),))
            gate.touch()
            cancelling.start()
            cancelling.join()
            assert not concurrent.futures.wait(futures, LIMIT_S).not_done


@pytest.mark.parametrize("attempt", range(3))  # the one that dies may be any of the workers
def test_the_death_of_one_worker_among_busy_ones_is_noticed(tmp_path: Path, attempt: int) -> None:
    with MultiprocessingExecutor(3) as executor:
        busy = [executor.submit(workers.wait_for, tmp_path / "gate") for _ in range(2)]
        for future in [executor.submit(workers.die), *busy]:
            with pytest.raises(BrokenProcessPool):
                future.result(LIMIT_S / 2)


def test_connections_can_be_sent_to_workers(executor: MultiprocessingExecutor) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        executor.submit(workers.send, writer, "hello").result(LIMIT_S)
        assert reader.poll(LIMIT_S)
        assert reader.recv() == "hello"


def test_a_callback_may_shut_the_executor_down() -> None:
    executor = MultiprocessingExecutor(1)
    is_shut_down = threading.Event()

    def shut_down(_: object) -> None:
        executor.shutdown()
        is_shut_down.set()

    executor.submit(workers.process_id).add_done_callback(shut_down)
    assert is_shut_down.wait(LIMIT_S)
    executor.shutdown()


def test_an_executor_that_is_dropped_leaves_no_thread() -> None:
    threads = set(threading.enumerate())
    executor = MultiprocessingExecutor(1)
    assert executor.submit(pow, 2, 2).result(LIMIT_S) == 4
    del executor
    gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= threads, "the threads' end")


@pytest.mark.parametrize("start_method", [m for m in START_METHODS if m != "fork"])
def test_records_of_workers_reach_the_handlers(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with MultiprocessingExecutor(1, start_method=start_method) as executor:
        executor.submit(workers.log, "some.module", logging.WARNING, "from a worker").result(
            LIMIT_S
        )
        executor.submit(workers.log_exception).result(LIMIT_S)
    assert ("some.module", logging.WARNING, "from a worker") in caplog.record_tuples
    assert "KeyError: 'in a worker'" in caplog.text


def test_levels_are_those_of_the_parent_when_a_worker_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MultiprocessingExecutor(1) as executor:
        caplog.set_level(logging.ERROR, logger="quiet")
        caplog.set_level(logging.DEBUG, logger="talkative")
        executor.submit(workers.log, "talkative", logging.DEBUG, "heard").result(LIMIT_S)
        executor.submit(workers.log, "quiet", logging.WARNING, "not heard").result(LIMIT_S)
    assert [r.getMessage() for r in caplog.records] == ["heard"]


def test_records_arrive_after_a_shutdown_that_did_not_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = MultiprocessingExecutor(1)
    executor.submit(workers.log_after, tmp_path / "gate")
    executor.shutdown(wait=False)
    (tmp_path / "gate").touch()
    executor.shutdown()
    assert "after gate" in caplog.messages


def test_records_arrive_when_a_worker_died(caplog: pytest.LogCaptureFixture) -> None:
    with MultiprocessingExecutor(1) as executor:
        executor.submit(workers.log, "some.module", logging.WARNING, "before").result(LIMIT_S)
        executor.submit(workers.die).exception(LIMIT_S)
    assert "before" in caplog.messages


def test_records_arrive_at_the_end_of_the_program(tmp_path: Path) -> None:
    ended = _run_script(
        tmp_path,
        """
        import logging
        import cluster_tools

        def warn():
            logging.warning("the last words")

        if __name__ == "__main__":
            logging.basicConfig(format="handled: %(message)s")
            cluster_tools.get_executor("multiprocessing", max_workers=1).submit(warn)
        """,
    )
    assert ended.returncode == 0
    assert ended.stderr == "handled: the last words\n"


def test_an_unhandled_exception_cancels_what_has_not_started(tmp_path: Path) -> None:
    ended = _run_script(
        tmp_path,
        f"""
        import sys
        import cluster_tools
        from pathlib import Path
        sys.path += {[str(Path(__file__).parents[i]) for i in (0, 1)]!r}
        import workers

        if __name__ == "__main__":
            directory = Path({str(tmp_path)!r})
            executor = cluster_tools.get_executor("multiprocessing", max_workers=1)
            executor.submit(workers.wait_for, directory / "gate")
            futures = executor.map_to_futures(Path.touch, [directory / str(i) for i in range(6)])
            futures[-1].add_done_callback(lambda _: (directory / "gate").touch())
            1 / 0
        """,
    )
    assert "ZeroDivisionError" in ended.stderr
    assert ended.returncode == 1
    assert not (tmp_path / "5").exists()


def test_a_script_without_a_guard_gets_a_message(tmp_path: Path) -> None:
    ended = _run_script(
        tmp_path,
        """
        import cluster_tools

        with cluster_tools.get_executor("multiprocessing", max_workers=1) as executor:
            print(executor.submit(pow, 2, 2).result())
        """,
    )
    assert ended.returncode != 0
    assert "current process has finished its bootstrapping phase" in ended.stderr
    assert 'if __name__ == "__main__":' in ended.stderr


def test_classes_of_the_script_keep_their_identity(tmp_path: Path) -> None:
    ended = _run_script(
        tmp_path,
        """
        import cluster_tools

        class Point: pass

        def make(): return Point()

        if __name__ == "__main__":
            with cluster_tools.get_executor("multiprocessing", max_workers=1) as executor:
                print(type(executor.submit(make).result()) is Point)
        """,
    )
    assert ended.stdout == "True\n"


def test_an_exceptions_cause_is_its_traceback_in_the_worker(
    executor: MultiprocessingExecutor,
) -> None:
    error: Any = executor.submit(workers.wait_for, None).exception(LIMIT_S)  # type: ignore[arg-type]
    assert isinstance(error, AttributeError)
    assert "in wait_for" in str(error.__cause__)
    assert "run_packed_call" not in str(error.__cause__)


class _InterruptAt:
    """Raises KeyboardInterrupt before a line of a function, as a signal's handler could."""

    def __init__(self, file: str, name: str, line: int) -> None:
        self._file = file
        self._name = name
        self._line = line
        self._pid = os.getpid()
        self.is_raised = False

    def __enter__(self) -> _InterruptAt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: Any, event: str, _: object) -> Any:
        code = frame.f_code
        return (
            self._count
            if code.co_filename.endswith(self._file) and code.co_name == self._name
            else None
        )

    def _count(self, frame: Any, event: str, _: object) -> Any:
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        # The end of a `with` is a line event, too, of which no signal can make use.
        if event == "line" and os.getpid() == self._pid and not text.startswith("with "):
            self._line -= 1
            if self._line < 0:
                sys.settrace(None)
                self.is_raised = True
                raise KeyboardInterrupt
        return self._count


@pytest.mark.parametrize("how", ["submit", "map"])
def test_ctrl_c_while_a_call_is_queued_costs_no_later_call(how: str) -> None:
    is_raised, line = True, 0
    while is_raised:
        executor = MultiprocessingExecutor(1)
        with _InterruptAt("chunks.py", "put", line) as interrupt, suppress(KeyboardInterrupt):
            executor.submit(abs, -1) if how == "submit" else executor.map(abs, range(20))
        is_raised = interrupt.is_raised
        assert list(executor.map(abs, range(20), timeout=LIMIT_S)) == list(range(20))
        assert executor.submit(abs, -2).result(LIMIT_S) == 2
        executor.shutdown()
        line += 1
    assert line > 2
