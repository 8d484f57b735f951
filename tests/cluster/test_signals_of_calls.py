"""Promises on signals in jobs: they are the call's, which may do with them what it likes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools import RemoteException
from support import signal_calls
from support.clusters import LOCAL, Cluster
from support.programs import executor_program
from support.waiting import LIMIT_S, wait_until

NewExecutor = Callable[..., Any]

_WAYS: list[dict[str, Any]] = [
    {},
    {"additional_setup_lines": ["export SET_UP=yes"]},
    {"additional_setup_lines": ["sleep 600 &"]},
    {"pilot_jobs": 1},
]
_NAMES = ["alone", "set up", "beside a shell", "on pilots"]


@pytest.mark.parametrize("way", _WAYS, ids=_NAMES)
def test_a_call_may_be_interrupted_as_often_as_it_likes(
    new_executor: NewExecutor, way: dict[str, Any]
) -> None:
    with new_executor(**way) as executor:
        future = executor.submit(signal_calls.interrupted_often)
        assert future.result(LIMIT_S) == ["late"] * 6
        failing = executor.submit(signal_calls.interrupted_and_fails)
        assert isinstance(failing.exception(LIMIT_S), signal_calls.Late)
        raising = executor.submit(signal_calls.interrupted).exception(LIMIT_S)
        assert isinstance(raising, RemoteException)
        assert "KeyboardInterrupt" in raising.error


def test_a_pilot_outlives_what_its_calls_do_with_signals(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=1) as executor:
        pilot = executor.submit(signal_calls.process_id).result(LIMIT_S)
        calls: list[tuple[Callable[..., Any], Any]] = [
            (signal_calls.interrupted_often, ["late"] * 6),
            (signal_calls.alarmed, "alarmed"),
            (signal_calls.uses_asyncio, "heard"),
            (signal_calls.closes_all_files, "closed"),
            (signal_calls.interrupted_often, ["late"] * 6),
        ]
        for function, result in calls:
            assert executor.submit(function).result(LIMIT_S) == result
            assert executor.submit(signal_calls.process_id).result(LIMIT_S) == pilot
        assert executor.submit(signal_calls.interrupted).exception(LIMIT_S) is not None
        numbers = list(executor.map(signal_calls.process_id, range(20), timeout=LIMIT_S))
        assert numbers == [pilot] * 20


def test_a_pilot_hears_again_what_a_call_has_taken_for_itself(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=1) as executor:
        # It has got a SIGTERM among them, and so its pilot leaves; the next comes.
        assert executor.submit(signal_calls.takes_all_signals).result(LIMIT_S) == "taken"
        assert executor.submit(signal_calls.interrupted_often).result(LIMIT_S) == ["late"] * 6


def test_an_idle_pilot_that_is_interrupted_leaves_and_another_comes(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path, pilot_jobs=1) as executor:
        pilot = executor.submit(signal_calls.process_id).result(LIMIT_S)
        os.kill(pilot, signal.SIGINT)
        wait_until(lambda: _has_ended(pilot), "the end of the pilot")
        assert executor.submit(signal_calls.process_id).result(LIMIT_S) != pilot


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("way", _WAYS[:3], ids=_NAMES[:3])
def test_a_warning_is_the_calls_and_ends_none_that_does_not_care(
    new_executor: NewExecutor, way: dict[str, Any]
) -> None:
    with new_executor(**way) as executor:
        heard = executor.submit(signal_calls.warned)
        not_heard = executor.submit(signal_calls.warned_and_goes_on)
        assert heard.result(LIMIT_S) == [signal.SIGUSR1] * 3
        assert not_heard.result(LIMIT_S) == "went on"


@pytest.mark.parametrize("way", [{}, {"pilot_jobs": 1}], ids=["alone", "on pilots"])
def test_what_a_call_starts_ends_by_signals_as_anywhere(
    new_executor: NewExecutor, way: dict[str, Any]
) -> None:
    with new_executor(**way) as executor:
        codes = executor.submit(signal_calls.ends_children).result(LIMIT_S)
        assert codes == [-signal.SIGINT, -signal.SIGTERM, -signal.SIGTERM, 1]


@pytest.mark.parametrize("way", _WAYS, ids=_NAMES)
def test_no_cancelled_call_begins_and_none_is_interrupted_twice(
    cluster: Cluster, tmp_path: Path, way: dict[str, Any]
) -> None:
    """A shell and its worker both get what the group gets: `finally` must not be interrupted."""
    count, width = (4, 1) if "pilot_jobs" in way else (2, 2)
    body = f"""
        keys = [str(directory / f"key{{n}}") for n in range({count})]
        executor = new_executor(**{way!r})
        options = [{{"output_key": key}} for key in keys]
        futures = [
            executor.submit(clean_up, n, __cfut_options=options[n]) for n in range({count})
        ]
        wait_until(lambda: started() == {width})
        try:
            with executor:
                raise KeyError
        except KeyError:
            print([future.cancelled() for future in futures])
    """
    with executor_program(cluster, tmp_path, body, functions=_CLEAN_UP) as program:
        assert program.succeed() == f"{[True] * count}\n"
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")
    assert len(list(tmp_path.glob("started*"))) == width
    assert len(list(tmp_path.glob("cleaned*"))) == width
    assert list(tmp_path.glob("key*")) == []  # nobody wants what became of them


_CLEAN_UP = """
def clean_up(n):
    try:
        (directory / f"started{n}").touch()
        threading.Event().wait(600)
    finally:
        time.sleep(0.2)
        (directory / f"cleaned{n}").touch()
"""
