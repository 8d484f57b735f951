"""Promises on `map_to_futures` and on outputs that are kept."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calls
import pytest
from calls import kept
from strategies import NewExecutor, Strategy

from cluster_tools import RemoteException
from support.waiting import LIMIT_S


def test_map_to_futures_makes_one_call_per_item(executor: Any) -> None:
    futures = executor.map_to_futures(calls.square, iter([2, 3, 4]))
    assert [future.result(LIMIT_S) for future in futures] == [4, 9, 16]


def test_map_to_futures_of_nothing_is_empty(executor: Any) -> None:
    assert executor.map_to_futures(calls.square, []) == []


def test_a_failing_call_harms_no_other(executor: Any, strategy: Strategy) -> None:
    futures = executor.map_to_futures(calls.refuse_three, range(6))
    failed = [i for i, future in enumerate(futures) if future.exception(LIMIT_S) is not None]
    first_in_batch = 3 - 3 % strategy.batch_size
    assert failed == list(range(first_in_batch, first_in_batch + strategy.batch_size))
    assert futures[5].result(LIMIT_S) == 5


@pytest.mark.holds_for("pickles_without_batches")
def test_an_argument_that_cannot_be_pickled_harms_no_other_call(executor: Any) -> None:
    futures = executor.map_to_futures(calls.square, [2, threading.Lock(), 4])
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == [4, 16]
    with pytest.raises(pickle.PicklingError, match="square"):
        futures[1].result(LIMIT_S)


@pytest.mark.holds_for("makes_no_batches")
def test_an_output_is_kept_where_the_getter_says(executor: Any, directory: Path) -> None:
    futures = executor.map_to_futures(
        calls.square, [2, 3], output_key_getter=lambda number: str(directory / f"{number}.pickle")
    )
    assert [future.result(LIMIT_S) for future in futures] == [4, 9]
    assert [kept(directory / f"{number}.pickle") for number in (2, 3)] == [(True, 4), (True, 9)]


@pytest.mark.holds_for("makes_no_batches")
def test_an_output_is_kept_where_the_older_getter_says(executor: Any, directory: Path) -> None:
    with pytest.warns(DeprecationWarning, match="output_key_getter") as warned:
        (future,) = executor.map_to_futures(
            calls.square, [2], output_pickle_path_getter=lambda _: directory / "kept.pickle"
        )
    assert warned[0].filename == __file__
    assert future.result(LIMIT_S) == 4
    assert kept(directory / "kept.pickle") == (True, 4)


@pytest.mark.holds_for("makes_no_batches")
def test_submit_keeps_an_output_under_its_key(executor: Any, directory: Path) -> None:
    path = directory / "kept.pickle"
    options = {"__cfut_options": {"output_key": str(path)}}
    assert executor.submit(calls.square, 5, **options).result(LIMIT_S) == 25
    assert kept(path) == (True, 25)


@pytest.mark.holds_for("makes_no_batches")
def test_submit_keeps_an_output_at_its_older_path(executor: Any, directory: Path) -> None:
    path = directory / "kept.pickle"
    with pytest.warns(DeprecationWarning, match="output_key") as warned:
        future = executor.submit(calls.square, 5, __cfut_options={"output_pickle_path": path})
    assert warned[0].filename == __file__
    assert future.result(LIMIT_S) == 25
    assert kept(path) == (True, 25)


@pytest.mark.holds_for("makes_no_batches")
def test_a_key_is_made_absolute_at_submission(
    new_executor: NewExecutor, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = new_executor()
    monkeypatch.chdir(directory)
    future = executor.submit(calls.square, 3, __cfut_options={"output_key": "kept"})
    monkeypatch.undo()
    assert future.result(LIMIT_S) == 9
    assert kept(directory / "kept") == (True, 9)


@pytest.mark.holds_for("makes_no_batches")
def test_a_stale_output_is_deleted_before_its_call_is_submitted(
    executor: Any, directory: Path
) -> None:
    path = directory / "kept"
    path.write_bytes(pickle.dumps((True, "stale")))
    options = {"__cfut_options": {"output_key": str(path)}}
    assert executor.submit(calls.exists, path, **options).result(LIMIT_S) is False
    assert kept(path) == (True, False)
    assert isinstance(
        executor.submit(calls.raise_refusal, 1, **options).exception(LIMIT_S), calls.Refusal
    )
    assert not path.exists()


@pytest.mark.holds_for("is_local_without_batches")
def test_a_local_strategy_keeps_no_failure(executor: Any, directory: Path) -> None:
    options = {"__cfut_options": {"output_key": str(directory / "kept")}}
    executor.submit(calls.raise_refusal, 1, **options).exception(LIMIT_S)
    assert list(directory.iterdir()) == []


@pytest.mark.holds_for("is_cluster")
def test_a_failure_is_kept_as_preliminary(executor: Any, directory: Path) -> None:
    options = {"__cfut_options": {"output_key": str(directory / "kept")}}
    executor.submit(calls.raise_refusal, 1, **options).exception(LIMIT_S)
    with (directory / "kept.preliminary").open("rb") as file:
        success, text = pickle.load(file)
        exception_class, *_ = pickle.load(file)
    assert success is False
    assert "refused with 1" in text
    assert exception_class is calls.Refusal
    assert not (directory / "kept").exists()


@pytest.mark.holds_for("makes_no_batches")
def test_a_store_of_ones_own_keeps_outputs(new_executor: NewExecutor, directory: Path) -> None:
    store = calls.DirectoryStore(directory / "store")
    store.root.mkdir()
    executor = new_executor(output_store=store)
    (future,) = executor.map_to_futures(calls.square, [3], output_key_getter=lambda _: "three")
    assert future.result(LIMIT_S) == 9
    assert pickle.loads(store.read("three")) == (True, 9)


@pytest.mark.holds_for("is_cluster")
def test_a_store_that_cannot_read_an_output_is_the_calls_failure(
    new_executor: NewExecutor, directory: Path
) -> None:
    store = calls.UnreadableStore(directory / "store")
    store.root.mkdir()
    executor = new_executor(output_store=store)
    (future,) = executor.map_to_futures(calls.square, [3], output_key_getter=lambda _: "three")
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteException)
    assert "can't read 'three': ValueError: of another version" in str(error)


@pytest.mark.holds_for("is_cluster")
def test_an_output_without_a_key_vanishes_once_it_was_read(
    new_executor: NewExecutor, directory: Path
) -> None:
    store = calls.DirectoryStore(directory / "store")
    store.root.mkdir()
    executor = new_executor(output_store=store)
    assert executor.submit(calls.square, 3).result(LIMIT_S) == 9
    executor.shutdown()
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


@pytest.mark.holds_for("makes_no_batches")
def test_two_kinds_of_key_are_a_value_error(executor: Any) -> None:
    getters: dict[str, Callable[[int], str]] = {
        "output_key_getter": str,
        "output_pickle_path_getter": str,
    }
    with pytest.raises(ValueError, match="output_key_getter"):
        executor.map_to_futures(calls.square, [1], **getters)
    options = {"output_key": "a", "output_pickle_path": "b"}
    with pytest.raises(ValueError, match="output_key"):
        executor.submit(calls.square, 1, __cfut_options=options)


@pytest.mark.holds_for("makes_no_batches")
def test_options_without_a_key_are_a_value_error(executor: Any) -> None:
    with pytest.raises(ValueError, match="output_key"):
        executor.submit(calls.square, 1, __cfut_options={})
