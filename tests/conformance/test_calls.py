"""Promises on single calls: `submit` and its future."""

from __future__ import annotations

import concurrent.futures
import gc
import pickle
import threading
import weakref
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import calls
import pytest
from strategies import NewExecutor, Strategy

from cluster_tools import RemoteException
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:BatchingExecutor.submit bypasses batching")


def test_submit_hands_over_positional_and_keyword_arguments(executor: Any) -> None:
    future = executor.submit(calls.named_arguments, 1, [2], three=3)
    assert future.result(LIMIT_S) == ((1, [2]), {"three": 3})


def test_keyword_arguments_may_be_named_self_and_fn(executor: Any) -> None:
    future = executor.submit(calls.named_arguments, self=1, fn=2)
    assert future.result(LIMIT_S) == ((), {"self": 1, "fn": 2})


def test_large_values_go_there_and_back(executor: Any) -> None:
    large = bytes(range(250)) * 10_000
    values = (large, bytearray(large), ["x" * 2_000_000, large])
    futures = [executor.submit(calls.given_back, value) for value in values]
    assert [future.result(LIMIT_S) for future in futures] == list(values)


def test_result_raises_the_functions_own_exception(executor: Any) -> None:
    future = executor.submit(calls.raise_refusal, 7)
    with pytest.raises(calls.Refusal, match="refused with 7: it refuses") as caught:
        future.result(LIMIT_S)
    assert caught.value.code == 7
    assert caught.value.args == ("refused with 7: it refuses",)


def test_attributes_in_slots_of_an_exception_arrive(executor: Any) -> None:
    error = executor.submit(calls.raise_slotted, 8).exception(LIMIT_S)
    assert isinstance(error, calls.Slotted)
    assert error.code == 8


@pytest.mark.holds_for("is_cluster")
def test_an_exception_of_a_job_is_also_a_remote_exception(executor: Any) -> None:
    error = executor.submit(calls.raise_refusal, 7).exception(LIMIT_S)
    assert isinstance(error, RemoteException)
    assert isinstance(error, calls.Refusal)
    assert "raise_refusal" in error.error
    assert error.job_id
    assert isinstance(pickle.loads(pickle.dumps(error)), calls.Refusal)


@pytest.mark.holds_for("is_local")
def test_an_exception_of_this_machine_is_of_its_own_class(executor: Any) -> None:
    assert type(executor.submit(calls.raise_refusal, 7).exception(LIMIT_S)) is calls.Refusal


@pytest.mark.holds_for("pickles")
def test_an_argument_that_cannot_be_pickled_is_the_error_of_its_call(executor: Any) -> None:
    future = executor.submit(calls.square, threading.Lock())
    with pytest.raises(pickle.PicklingError, match="square") as caught:
        future.result(LIMIT_S)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.holds_for("pickles")
def test_a_function_that_cannot_be_pickled_is_the_error_of_its_call(executor: Any) -> None:
    lock = threading.Lock()

    def locked_function() -> None:
        lock.acquire()

    with pytest.raises(pickle.PicklingError, match="locked_function") as caught:
        executor.submit(locked_function).result(LIMIT_S)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.holds_for("pickles")
def test_a_result_that_cannot_be_pickled_is_the_error_of_its_call(executor: Any) -> None:
    refused, accepted = executor.submit(calls.return_lock), executor.submit(calls.square, 2)
    with pytest.raises(Exception, match="pickle"):
        refused.result(LIMIT_S)
    assert accepted.result(LIMIT_S) == 4


@pytest.mark.holds_for("pickles")
def test_a_result_that_cannot_be_unpickled_is_the_error_of_its_call(executor: Any) -> None:
    refused, accepted = executor.submit(calls.return_one_way), executor.submit(calls.square, 2)
    with pytest.raises(Exception, match="this pickle does not load"):
        refused.result(LIMIT_S)
    assert accepted.result(LIMIT_S) == 4


@pytest.mark.parametrize("function", [calls.raise_locked, calls.raise_one_way])
def test_an_exception_that_cannot_make_the_way_back_is_an_error(
    executor: Any, function: Any
) -> None:
    refused, accepted = executor.submit(function), executor.submit(calls.square, 2)
    assert refused.exception(LIMIT_S) is not None
    assert accepted.result(LIMIT_S) == 4


@pytest.mark.holds_for("is_local")
def test_sys_exit_in_a_call_is_its_system_exit(executor: Any) -> None:
    error = executor.submit(calls.leave).exception(LIMIT_S)
    assert isinstance(error, SystemExit)
    assert error.code == 3


@pytest.mark.holds_for("is_cluster")
def test_sys_exit_in_a_job_is_a_plain_remote_exception(executor: Any) -> None:
    error = executor.submit(calls.leave).exception(LIMIT_S)
    assert type(error) is RemoteException
    assert isinstance(error.__cause__, SystemExit)


@pytest.mark.holds_for("pickles")
def test_lambdas_and_closures_can_be_called(executor: Any) -> None:
    offset = 10
    assert executor.submit(lambda number: number + offset, 1).result(LIMIT_S) == 11


def test_arguments_are_taken_when_they_are_submitted(executor: Any) -> None:
    items = [1]
    future = executor.submit(calls.length, items)
    items.append(2)
    assert future.result(LIMIT_S) == 1


def test_no_reference_is_kept_to_arguments_and_results(executor: Any) -> None:
    argument = calls.Weakly([1])
    future = executor.submit(calls.length, argument)
    future.result(LIMIT_S)
    result_future = executor.submit(calls.make_weakly, 2)
    result = result_future.result(LIMIT_S)
    references = [weakref.ref(argument), weakref.ref(result)]
    del argument, result, result_future

    def are_gone() -> bool:
        gc.collect()
        return not any(reference() is not None for reference in references)

    wait_until(are_gone, "the objects' end")


def test_done_callbacks_are_called(executor: Any) -> None:
    is_called = threading.Event()
    future = executor.submit(calls.square, 3)
    future.add_done_callback(lambda _: is_called.set())
    assert is_called.wait(LIMIT_S)


@pytest.mark.holds_for("waits")
def test_a_future_runs_once_a_worker_has_started_its_call(executor: Any, directory: Path) -> None:
    started, gate = directory / "started", directory / "gate"
    future = executor.submit(calls.touch_and_wait, (started, gate))
    wait_until(started.exists, "the call")
    wait_until(future.running, "running()")
    assert future.cancel() is False
    assert not future.done()
    gate.touch()
    assert future.result(LIMIT_S) == "started"
    assert not future.running()


@pytest.mark.holds_for("waits_without_batches")
def test_a_cancelled_future_is_done_at_once_and_its_call_does_not_run(
    new_executor: NewExecutor, strategy: Strategy, directory: Path
) -> None:
    executor = new_executor(narrow=True)
    gate = directory / "gate"
    count = strategy.narrow_width + 2
    futures = executor.map_to_futures(
        calls.touch_and_wait, [(directory / str(i), gate) for i in range(count)]
    )
    last: Future[str] = futures[-1]
    assert last.cancel() is True
    assert last.done()
    assert last.cancel() is True
    assert concurrent.futures.wait([last], timeout=LIMIT_S).done == {last}
    assert list(executor.as_completed([last])) == [last]
    with pytest.raises(CancelledError):
        last.result(LIMIT_S)
    gate.touch()
    assert [future.result(LIMIT_S) for future in futures[:-1]] == [str(i) for i in range(count - 1)]
    executor.shutdown()
    assert not (directory / str(count - 1)).exists()


def test_as_completed_yields_each_future(executor: Any) -> None:
    futures = [executor.submit(calls.square, number) for number in range(3)]
    assert sorted(future.result() for future in executor.as_completed(futures)) == [0, 1, 4]
    of_the_class = executor.__class__.as_completed(futures)
    assert sorted(future.result() for future in of_the_class) == [0, 1, 4]


def test_forward_log_returns_the_result(executor: Any) -> None:
    assert executor.forward_log(executor.submit(calls.square, 4)) == 16


def test_forward_log_raises_the_exception_of_the_call(executor: Any) -> None:
    with pytest.raises(calls.Refusal):
        executor.forward_log(executor.submit(calls.raise_refusal, 1))


@pytest.mark.holds_for("is_cluster")
def test_forward_log_prefixes_the_log_with_the_job(
    executor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    future = executor.submit(calls.log_and_print, "word")
    assert executor.forward_log(future) == "word"
    written = capsys.readouterr().out
    assert f"(jid={future.cluster_jobid})" in written
    assert "printed word" in written


@pytest.mark.holds_for("is_cluster_of_elements")
def test_a_future_knows_its_job_and_an_array_its_index(executor: Any) -> None:
    future = executor.submit(calls.square, 1)
    assert isinstance(future.cluster_jobid, str)
    in_array = executor.map_to_futures(calls.square, [1, 2])
    assert [f.cluster_jobindex for f in in_array] == [0, 1]
    assert len({f.cluster_jobid for f in in_array}) == 1
    assert [f.result(LIMIT_S) for f in [future, *in_array]] == [1, 1, 4]
