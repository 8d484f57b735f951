"""Promises on what holds for all processes of an executor: how many there are, and how each
begins.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import RemoteException
from support.clusters import LOCAL, Cluster
from support.waiting import LIMIT_S

NewExecutor = Callable[..., Any]

KINDS = [pytest.param({}, id="elements"), pytest.param({"pilot_jobs": 2}, id="pilots")]

_settings: list[Any] = []


class NoLicence(Exception):
    def __init__(self, server: str, port: int) -> None:
        super().__init__(server, port)


def _remember(setting: Any, directory: Path | None = None) -> None:
    _settings.append((setting, logging.getLogger().level))
    if directory is not None:
        (directory / _process()).open("a").write("begun\n")


def _remembered(_: object) -> list[Any]:
    return _settings


def _process(_: object = None) -> str:
    """Pods may have the same process numbers."""
    return f"{socket.gethostname()}.{os.getpid()}"


def _refuse(_: object) -> None:
    raise NoLicence("licences", 27000)


def _exit(_: object) -> None:
    raise SystemExit("no such data")


def _width_while_it_runs(directory: Path) -> int:
    """How many calls run while this one does, at the most that it sees."""
    own = directory / f"{os.getpid()}.{time.monotonic_ns()}"
    own.touch()
    seen = 0
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        seen = max(seen, sum(1 for _ in directory.iterdir()))
        time.sleep(0.01)
    own.unlink()
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_the_initializer_has_run_before_the_first_call_of_each_process(
    new_executor: NewExecutor, kind: dict[str, Any]
) -> None:
    executor = new_executor(
        initializer=_remember, initargs=("a setting",), logging_config={"level": 35}, **kind
    )
    assert list(executor.map(_remembered, range(3))) == [[("a setting", 35)]] * 3
    assert executor.submit(_remembered, 0).result(LIMIT_S) == [("a setting", 35)]


def test_the_initializer_runs_once_in_a_pilot(new_executor: NewExecutor, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    with new_executor(initializer=_remember, initargs=(1, begun), pilot_jobs=2) as executor:
        processes = set(executor.map(_process, range(200)))
        executor.submit(_process, 0).result(LIMIT_S)
    told = {path.name: path.read_text() for path in begun.iterdir()}
    assert {told[process] for process in processes} == {"begun\n"}


def test_the_initializer_may_be_a_closure(new_executor: NewExecutor) -> None:
    setting = os.urandom(4)
    executor = new_executor(initializer=lambda: _remember(setting))
    assert executor.submit(_remembered, 0).result(LIMIT_S)[0][0] == setting


@pytest.mark.parametrize("kind", KINDS)
def test_an_initializer_that_fails_is_the_exception_of_the_calls(
    new_executor: NewExecutor, kind: dict[str, Any]
) -> None:
    executor = new_executor(initializer=_refuse, initargs=(0,), **kind)
    futures = [*executor.map_to_futures(_process, range(3)), executor.submit(_process, 3)]
    errors = [future.exception(LIMIT_S) for future in futures]
    for error in errors:
        assert isinstance(error, NoLicence)
        assert isinstance(error, RemoteException)
        assert error.args == ("licences", 27000)
        assert "initializer" in error.error
        assert "_refuse" in error.error
    assert len(set(map(id, errors))) == 4
    assert executor.submit(_process, 4).exception(LIMIT_S) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_an_initializer_that_exits_is_said(new_executor: NewExecutor, kind: dict[str, Any]) -> None:
    error = (
        new_executor(initializer=_exit, initargs=(0,), **kind)
        .submit(_process, 0)
        .exception(LIMIT_S)
    )
    assert type(error) is RemoteException
    assert "no such data" in str(error)
    assert "initializer" in str(error)


def test_a_failed_initializer_is_a_kept_output_like_any_failure(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    options = {"output_key": str(tmp_path / "kept")}
    executor = new_executor(initializer=_refuse, initargs=(0,))
    assert executor.submit(_process, 0, __cfut_options=options).exception(LIMIT_S) is not None
    assert (tmp_path / "kept.preliminary").exists()


@pytest.mark.parametrize(
    "keywords",
    [{"max_workers": 2}, {"max_workers": 2, "pilot_jobs": 4}],
    ids=["elements", "pilots"],
)
def test_no_more_calls_run_at_a_time_over_all_arrays(
    new_executor: NewExecutor, tmp_path: Path, keywords: dict[str, Any]
) -> None:
    running = tmp_path / "running"
    running.mkdir()
    executor = new_executor(**keywords)
    futures = executor.map_to_futures(_width_while_it_runs, [running] * 5)
    futures += executor.map_to_futures(_width_while_it_runs, [running] * 5)
    futures += [executor.submit(_width_while_it_runs, running) for _ in range(3)]
    assert max(future.result(LIMIT_S) for future in futures) == 2
    assert executor.max_workers == executor._max_workers == executor.size == 2


def test_cancelled_calls_hold_no_place_of_others(new_executor: NewExecutor, tmp_path: Path) -> None:
    running = tmp_path / "running"
    running.mkdir()
    executor = new_executor(max_workers=1)
    first = executor.map_to_futures(_width_while_it_runs, [running] * 20)
    for future in first[1:]:
        future.cancel()
    assert executor.submit(_process, 0).result(LIMIT_S)


def test_the_width_is_always_a_number(cluster: Cluster, new_executor: NewExecutor) -> None:
    assert type(new_executor().max_workers) is int
    assert new_executor().max_workers >= 1
    assert new_executor(pilot_jobs=3, **_without_limit(cluster)).size == 3


def _without_limit(cluster: Cluster) -> dict[str, Any]:
    return {"max_workers": None} if cluster is LOCAL else {}


def test_pilots_above_the_number_of_processors_are_honoured(tmp_path: Path) -> None:
    count = (os.cpu_count() or 1) + 3
    keywords = {"pilot_jobs": count, "max_workers": None}
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    with LOCAL.new_executor(tmp_path, **keywords) as executor:
        futures = executor.map_to_futures(_meet, [(meeting, count)] * count)
        assert [future.result(LIMIT_S) for future in futures] == [count] * count
        assert executor.max_workers == count


def _meet(place: tuple[Path, int]) -> int:
    """Ends once so many calls are there at a time."""
    directory, count = place
    (directory / str(os.getpid())).touch()
    until = time.monotonic() + LIMIT_S
    while len(list(directory.iterdir())) < count and time.monotonic() < until:
        time.sleep(0.01)
    return len(list(directory.iterdir()))


@pytest.mark.parametrize("value", [0, -1, "4", 2.5])
@pytest.mark.parametrize("keyword", ["max_workers", "pilot_jobs"])
def test_a_wrong_number_is_a_value_error(tmp_path: Path, keyword: str, value: object) -> None:
    with pytest.raises(ValueError, match=keyword):
        LOCAL.new_executor(tmp_path, **{keyword: value})


def test_an_initializer_that_can_not_be_called_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="initializer"):
        LOCAL.new_executor(tmp_path, initializer=3)


def test_an_initializer_that_can_not_be_pickled_says_so(tmp_path: Path) -> None:
    import pickle

    with pytest.raises(pickle.PicklingError, match="initializer _remember"):
        LOCAL.new_executor(tmp_path, initializer=_remember, initargs=(threading.Lock(),))
    assert list(tmp_path.iterdir()) == []
