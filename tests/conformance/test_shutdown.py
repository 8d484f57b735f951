"""Promises on how an executor ends: `shutdown`, `with`, and the end of the program."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import calls
import pytest
from strategies import NewExecutor, Strategy

from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:BatchingExecutor.submit bypasses batching")


def test_shutdown_waits_for_what_was_submitted(new_executor: NewExecutor, directory: Path) -> None:
    executor = new_executor()
    future = executor.submit(calls.touch, directory / "touched")
    executor.shutdown()
    assert future.done()
    assert (directory / "touched").exists()


def test_submitting_after_shutdown_is_a_runtime_error(new_executor: NewExecutor) -> None:
    executor = new_executor()
    executor.shutdown()
    for submit in (executor.submit, executor.map, executor.map_to_futures):
        argument = 1 if submit == executor.submit else [1]
        with pytest.raises(RuntimeError, match="after shutdown"):
            submit(calls.square, argument)


def test_shutdown_may_be_called_again(new_executor: NewExecutor) -> None:
    executor = new_executor()
    with executor:
        executor.submit(calls.square, 1)
        executor.shutdown(wait=False)
    executor.shutdown()


@pytest.mark.holds_for("waits")
def test_shutdown_without_waiting_lets_calls_finish(
    new_executor: NewExecutor, directory: Path
) -> None:
    executor = new_executor()
    gate = directory / "gate"
    future = executor.submit(calls.touch_and_wait, (directory / "started", gate))
    executor.shutdown(wait=False)
    assert not future.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(calls.square, 1)
    gate.touch()
    assert future.result(LIMIT_S) == "started"


@pytest.mark.holds_for("waits")
def test_cancel_futures_cancels_what_has_not_started(
    new_executor: NewExecutor, strategy: Strategy, directory: Path
) -> None:
    executor = new_executor(narrow=True)
    gate = directory / "gate"
    count = strategy.narrow_width + 2 * strategy.batch_size
    futures = executor.map_to_futures(
        calls.touch_and_wait, [(directory / str(i), gate) for i in range(count)]
    )
    wait_until((directory / "0").exists, "the first call")
    wait_until(futures[0].running, "running()")
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        futures[-1].result(LIMIT_S)
    gate.touch()
    assert futures[0].result(LIMIT_S) == "0"
    executor.shutdown()
    assert all(future.done() for future in futures)


def test_leaving_with_waits(new_executor: NewExecutor, directory: Path) -> None:
    with new_executor() as executor:
        executor.submit(calls.touch, directory / "touched")
    assert (directory / "touched").exists()


@pytest.mark.holds_for("is_cluster")
def test_leaving_with_by_an_exception_cancels_queued_and_running_jobs(
    new_executor: NewExecutor, strategy: Strategy, directory: Path
) -> None:
    gate = directory / "gate"  # which nobody opens
    futures: list[Any] = []
    with pytest.raises(ZeroDivisionError), new_executor(narrow=True) as executor:
        futures += executor.map_to_futures(
            calls.touch_and_wait,
            [(directory / str(i), gate) for i in range(strategy.narrow_width + 1)],
        )
        wait_until((directory / "0").exists, "the first call")
        raise ZeroDivisionError
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(LIMIT_S)


@pytest.mark.holds_for("waits_and_is_local")
def test_leaving_with_by_an_exception_waits_as_in_the_standard_library(
    new_executor: NewExecutor, directory: Path
) -> None:
    with pytest.raises(ZeroDivisionError), new_executor() as executor:
        executor.submit(calls.touch, directory / "touched")
        raise ZeroDivisionError
    assert (directory / "touched").exists()


def test_no_thread_and_no_process_is_left_after_shutdown(new_executor: NewExecutor) -> None:
    threads = set(threading.enumerate())
    executor = new_executor()
    assert list(executor.map(calls.square, [1, 2])) == [1, 4]
    executor.shutdown()
    wait_until(lambda: _new_threads(threads) == set(), f"{_new_threads(threads)}")
    assert multiprocessing.active_children() == []


def test_no_thread_and_no_process_is_left_when_shutdown_did_not_wait(
    new_executor: NewExecutor,
) -> None:
    threads = set(threading.enumerate())
    executor = new_executor()
    future = executor.submit(calls.square, 3)
    executor.shutdown(wait=False)
    assert future.result(LIMIT_S) == 9
    wait_until(lambda: _new_threads(threads) == set(), f"{_new_threads(threads)}")
    wait_until(lambda: multiprocessing.active_children() == [], "the workers' end")


def _new_threads(threads: set[threading.Thread]) -> set[threading.Thread]:
    # One watcher serves all cluster executors of the process, and stays.
    return {t for t in threading.enumerate() if t not in threads and not t.daemon}


_SCRIPT = """
    import sys
    from pathlib import Path
    import cluster_tools
    sys.path += {test_directories!r}
    import calls
    from support.waiting import wait_until

    if __name__ == "__main__":
        executor = cluster_tools.get_executor({environment!r}, **{arguments!r})
        directory = Path({directory!r})
        {body}
"""


def _run_script(strategy: Strategy, directory: Path, body: str, **options: Any) -> Any:
    """Runs a script that has an `executor` and a `directory`, and returns how it ended."""
    script = directory / "script.py"
    script.write_text(
        textwrap.dedent(_SCRIPT).format(
            test_directories=[str(Path(__file__).parents[i]) for i in (0, 1)],
            environment=strategy.environment,
            arguments=strategy.arguments(directory, **options),
            directory=str(directory),
            body=body,
        )
    )
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_the_end_of_the_program_waits_for_what_was_submitted(
    strategy: Strategy, directory: Path
) -> None:
    ended = _run_script(
        strategy, directory, "executor.map_to_futures(calls.touch, [directory / 'touched'])"
    )
    assert ended.returncode == 0, ended.stderr
    assert (directory / "touched").exists()


@pytest.mark.holds_for("is_cluster")
def test_an_unhandled_exception_cancels_what_was_submitted(
    strategy: Strategy, directory: Path
) -> None:
    body = (
        "executor.submit(calls.touch_and_wait, (directory / 'started', directory / 'gate'));"
        " wait_until((directory / 'started').exists); 1 / 0"
    )
    ended = _run_script(strategy, directory, body)  # ends, though nobody opens the gate
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
