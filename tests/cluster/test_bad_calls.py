"""Promises on calls that end badly: a clear error each, and every other task unharmed."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from cluster_tools import RemoteException
from support import jobs
from support.bad_calls import BAD_CALLS, printed
from support.clusters import Cluster, element_of, log_of
from support.waiting import LIMIT_S, wait_until

GOOD_CALLS = [partial(jobs.square, number) for number in (2, 3, 4)]
GOOD_RESULTS = [4, 9, 16]
BAD_POSITION = 1


@pytest.fixture(scope="module")
def failures_logged() -> Iterator[list[str]]:
    """The messages of level error, from the first submission on."""
    messages: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("cluster_tools").addHandler(handler)
    yield messages
    logging.getLogger("cluster_tools").removeHandler(handler)


@pytest.fixture(scope="module")
def arrays(failures_logged: list[str], executor: Any) -> dict[str, list[Any]]:
    """An array for each bad call, among good ones: all at once, as each takes a while to fail."""
    return {
        name: executor.map_to_futures(jobs.run, _among_good_calls(bad.step))
        for name, bad in BAD_CALLS.items()
    }


def _among_good_calls(step: Any) -> list[Any]:
    return [*GOOD_CALLS[:BAD_POSITION], step, *GOOD_CALLS[BAD_POSITION:]]


def _split(futures: list[Any]) -> tuple[Any, list[Any]]:
    """The future of the bad call, and the others."""
    return futures[BAD_POSITION], futures[:BAD_POSITION] + futures[BAD_POSITION + 1 :]


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_gets_its_error_and_the_others_their_results(
    arrays: dict[str, list[Any]], name: str
) -> None:
    bad, (failed, others) = BAD_CALLS[name], _split(arrays[name])
    exception = failed.exception(LIMIT_S)
    assert isinstance(exception, RemoteException)
    assert isinstance(exception, bad.error)
    assert bad.says in printed(exception)
    for attribute, value in bad.attributes.items():
        assert getattr(exception, attribute) == value
    assert [future.result(LIMIT_S) for future in others] == GOOD_RESULTS


@pytest.mark.parametrize("name", BAD_CALLS)
def test_the_error_names_the_task_its_job_and_its_log(
    cluster: Cluster, shared_directory: Path, arrays: dict[str, list[Any]], name: str
) -> None:
    failed, _ = _split(arrays[name])
    text = printed(failed.exception(LIMIT_S))
    element = element_of(failed)
    assert f"Task {BAD_POSITION} of 4 of run" in text
    assert f"job {element}" in text
    log = log_of(shared_directory, cluster, element)
    assert str(log) in text
    assert log.exists()


_NOT_PICKLABLE = (jobs.LockedError, jobs.OneWayError)  # their author has not let them


@pytest.mark.parametrize(
    "name", [name for name, bad in BAD_CALLS.items() if bad.error not in _NOT_PICKLABLE]
)
def test_the_error_can_be_pickled_once_it_has_arrived(
    arrays: dict[str, list[Any]], name: str
) -> None:
    failed, _ = _split(arrays[name])
    exception = failed.exception(LIMIT_S)
    copy = pickle.loads(pickle.dumps(exception))
    assert type(copy) is type(exception)
    assert copy.args == exception.args


def test_each_failure_is_logged_once(
    arrays: dict[str, list[Any]], failures_logged: list[str]
) -> None:
    for futures in arrays.values():
        failed, _ = _split(futures)
        failed.exception(LIMIT_S)
        element = element_of(failed)
        wait_until(lambda: any(f"job {element}" in m for m in failures_logged), element)  # noqa: B023
        assert len([message for message in failures_logged if f"job {element}" in message]) == 1


def test_an_argument_that_cannot_be_pickled_fails_its_task_alone(executor: Any) -> None:
    failed, others = _split(
        executor.map_to_futures(jobs.run, _among_good_calls(partial(id, threading.Lock())))
    )
    with pytest.raises(pickle.PicklingError, match=r"task 1 of run can't be pickled"):
        failed.result(LIMIT_S)
    assert [future.result(LIMIT_S) for future in others] == GOOD_RESULTS
    with pytest.raises(pickle.PicklingError):
        _ = failed.cluster_jobid


def test_an_argument_that_cannot_be_unpickled_in_the_job_fails_its_task_alone(
    executor: Any,
) -> None:
    failed, others = _split(
        executor.map_to_futures(jobs.run, _among_good_calls(partial(id, jobs.OneWay())))
    )
    with pytest.raises(ValueError, match="this pickle does not load") as raised:
        failed.result(LIMIT_S)
    assert isinstance(raised.value, RemoteException)
    assert [future.result(LIMIT_S) for future in others] == GOOD_RESULTS


def test_a_function_that_cannot_be_pickled_fails_its_tasks_and_nothing_else(
    executor: Any,
) -> None:
    lock = threading.Lock()
    of_array = executor.map_to_futures(lambda number: (number, lock), [1, 2])
    of_submit = executor.submit(lambda: lock)
    for future in [*of_array, of_submit]:
        with pytest.raises(pickle.PicklingError, match=r"function .*<lambda>.* can't be pickled"):
            future.result(LIMIT_S)
    assert executor.submit(jobs.square, 5).result(LIMIT_S) == 25


def test_an_exception_of_nested_submission_passes_through_as_it_is(executor: Any) -> None:
    future = executor.submit(_raise_remote_exception)
    with pytest.raises(cluster_tools.RemoteOutOfMemoryException) as raised:
        future.result(LIMIT_S)
    assert type(raised.value) is cluster_tools.RemoteOutOfMemoryException
    assert raised.value.job_id == "inner"


def _raise_remote_exception() -> None:
    raise cluster_tools.RemoteOutOfMemoryException("too much", "inner")


def test_a_failed_call_leaves_nothing_but_logs(
    cluster: Cluster, tmp_path: Path, new_executor: Callable[..., Any]
) -> None:
    executor = new_executor()
    steps = [bad.step for bad in BAD_CALLS.values()]
    futures = executor.map_to_futures(jobs.run, [*steps, partial(id, threading.Lock())])
    elements = {element_of(future) for future in futures[: len(steps)]}
    executor.shutdown()
    assert all(future.exception(0) is not None for future in futures)
    assert set(tmp_path.iterdir()) == {log_of(tmp_path, cluster, e) for e in elements}
    wait_until(lambda: not cluster.elements_of(tmp_path), "the end of its jobs")
