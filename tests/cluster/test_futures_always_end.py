"""Promises on executors whose user's code raises in the wrong place: futures and shutdowns still
end.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.executors.local import LocalExecutor
from cluster_tools.schedulers.base import ArrayRequest, Options, Scheduler
from cluster_tools.schedulers.local import LocalScheduler
from support import jobs
from support.clusters import LOCAL
from support.waiting import LIMIT_S, wait_until


def _exit(_: Any) -> None:
    sys.exit(3)


def _shut_down(executor: Any, **keywords: Any) -> None:
    """With a limit."""
    thread = threading.Thread(target=executor.shutdown, kwargs=keywords, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive(), "shutdown() hangs"


class _Interrupted:
    """Ctrl-C comes while it is being pickled."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class _Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("a handler of the user's")


@pytest.fixture
def raising_handler() -> Iterator[None]:
    handler = _Raising()
    logging.getLogger("cluster_tools").addHandler(handler)
    yield
    logging.getLogger("cluster_tools").removeHandler(handler)


class GatedScheduler(LocalScheduler):
    """Takes what is submitted once its gate is open."""

    def __init__(self, options: Options):
        super().__init__(replace(options, max_workers=2))
        self.gate = threading.Event()
        self.submissions = threading.Semaphore(0)

    def submit(self, request: ArrayRequest) -> str:
        self.submissions.release()
        self.gate.wait(LIMIT_S)
        return super().submit(request)


class GatedExecutor(LocalExecutor):
    def _make_scheduler(self, options: Options) -> Scheduler:
        self.scheduler = GatedScheduler(options)
        return self.scheduler


def test_a_callback_that_exits_after_a_result_does_not_hold_up_shutdown(tmp_path: Path) -> None:
    executor = LOCAL.new_executor(tmp_path)
    futures = executor.map_to_futures(jobs.square, [1, 2])
    for future in futures:
        future.add_done_callback(_exit)
    assert [future.result(LIMIT_S) for future in futures] == [1, 4]
    _shut_down(executor)


def test_a_callback_that_exits_in_cancel_leaves_the_call_cancelled(tmp_path: Path) -> None:
    executor = LOCAL.new_executor(tmp_path, max_workers=1)
    blocking, waiting = executor.map_to_futures(
        jobs.touch_and_wait,
        [(tmp_path / name, tmp_path / "gate") for name in ("blocking", "waiting")],
    )
    wait_until((tmp_path / "blocking").exists, "the first call")
    waiting.add_done_callback(_exit)
    with pytest.raises(SystemExit):
        waiting.cancel()
    (tmp_path / "gate").touch()
    assert blocking.result(LIMIT_S) == "blocking"
    _shut_down(executor)
    assert waiting.cancelled()
    assert not (tmp_path / "waiting").exists()


def test_a_callback_that_exits_when_an_executor_ends_at_once_costs_no_other_future(
    tmp_path: Path,
) -> None:
    executor = LOCAL.new_executor(tmp_path, max_workers=1)
    futures = executor.map_to_futures(jobs.wait_long, [tmp_path / f"started{i}" for i in range(3)])
    for future in futures:
        future.add_done_callback(_exit)
    with pytest.raises(KeyError), executor:
        raise KeyError
    assert [future.cancelled() for future in futures] == [True] * 3
    _shut_down(executor)


def test_a_callback_that_exits_costs_no_other_call_that_waits_to_be_submitted(
    tmp_path: Path,
) -> None:
    executor = GatedExecutor(cfut_dir=tmp_path)
    first = executor.submit(jobs.square, 1)
    assert executor.scheduler.submissions.acquire(timeout=LIMIT_S)
    waiting = [executor.submit(jobs.square, number) for number in range(5)]
    waiting[0].add_done_callback(_exit)
    executor.shutdown(wait=False, cancel_futures=True)
    executor.scheduler.gate.set()
    wait_until(lambda: all(future.done() for future in [first, *waiting]), "all futures")
    assert all(future.cancelled() for future in waiting)
    _shut_down(executor)


def test_an_interrupt_while_a_call_is_pickled_does_not_hold_up_shutdown(tmp_path: Path) -> None:
    executor = LOCAL.new_executor(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(id, _Interrupted())
    with pytest.raises(KeyboardInterrupt):
        executor.map_to_futures(id, [1, _Interrupted(), 2])
    assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
    _shut_down(executor)
    assert {path.suffix for path in tmp_path.iterdir()} == {".stdout"}


@pytest.mark.usefixtures("raising_handler")
def test_a_log_handler_that_raises_costs_no_future(tmp_path: Path) -> None:
    executor = LOCAL.new_executor(tmp_path)
    futures = executor.map_to_futures(jobs.reciprocal, [0, 0, 2])
    assert [type(future.exception(LIMIT_S)).__name__ for future in futures] == [
        "ZeroDivisionError",
        "ZeroDivisionError",
        "NoneType",
    ]
    died = executor.submit(jobs.os_exit)
    assert died.exception(LIMIT_S) is not None
    _shut_down(executor)


@pytest.mark.usefixtures("raising_handler")
def test_a_log_handler_that_raises_costs_no_future_of_what_cannot_be_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    executor = GatedExecutor(cfut_dir=tmp_path / "cfut")
    with monkeypatch.context() as context:
        context.chdir(gone)
        futures = [
            executor.submit(jobs.square, 1),
            *executor.map_to_futures(jobs.square, [2, 3]),
        ]
    assert executor.scheduler.submissions.acquire(timeout=LIMIT_S)
    gone.rmdir()
    executor.scheduler.gate.set()
    assert all(future.exception(LIMIT_S) is not None for future in futures)
    _shut_down(executor)


def test_what_waits_behind_a_submission_that_hangs_is_done_at_once_when_its_executor_ends(
    tmp_path: Path,
) -> None:
    executor = GatedExecutor(cfut_dir=tmp_path)
    executor.submit(jobs.square, 1)
    assert executor.scheduler.submissions.acquire(timeout=LIMIT_S)
    waiting = [executor.submit(jobs.square, 2), *executor.map_to_futures(jobs.square, [3, 4])]

    def leave() -> None:
        with pytest.raises(KeyError), executor:
            raise KeyError

    leaving = threading.Thread(target=leave)
    leaving.start()
    try:
        wait_until(lambda: all(future.cancelled() for future in waiting), "what waits")
        assert not executor.scheduler.gate.is_set()
    finally:
        executor.scheduler.gate.set()
    leaving.join(LIMIT_S)
    assert not leaving.is_alive()
