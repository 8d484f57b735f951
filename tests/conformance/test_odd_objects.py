"""Promises on exceptions that arrive as themselves, and on objects whose attributes lie."""

from __future__ import annotations

import builtins
import pickle
import sys
import traceback
from typing import Any
from unittest.mock import MagicMock, Mock

import odd_objects
import pytest
from strategies import Strategy

from cluster_tools import RemoteException
from support.waiting import LIMIT_S

_MISSING = object()


def _parts(error: BaseException) -> dict[str, Any]:
    """What is compared of it: arguments and attributes that a pickle can bring."""
    names = {*vars(error), "code", "errno", "filename", "strerror", "reason", "object", "value"}
    names |= {"lineno", "name", "path", "msg", "cmd", "pos"}
    names -= {"lock", "one_way", "itself", "inner", "error", "job_id"}
    found = {name: getattr(error, name, _MISSING) for name in names}
    return {name: value for name, value in found.items() if not callable(value)}


def _failure_of(future: Any) -> BaseException:
    """What `result()` raises, for a job's SystemExit its cause."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        future.result(LIMIT_S)
    assert caught.value is future.exception(LIMIT_S)
    error = caught.value
    if type(error) is RemoteException:
        assert error.__cause__ is not None
        return error.__cause__
    return error


@pytest.mark.parametrize("name", odd_objects.EXCEPTIONS)
def test_an_exception_arrives_as_itself(executor: Any, name: str) -> None:
    expected = odd_objects.EXCEPTIONS[name]()
    (future,) = executor.map_to_futures(odd_objects.raise_named, [name])
    error = _failure_of(future)
    assert isinstance(error, type(expected))
    if name != "with attributes":  # one of them is a lock
        assert error.args == expected.args
        assert str(error) == str(expected)
    arrived = _parts(error)
    for attribute, value in _parts(expected).items():
        assert arrived[attribute] == value, attribute
    assert hasattr(error, "lock") == hasattr(expected, "lock")


@pytest.mark.holds_for("is_cluster")
def test_a_program_does_not_hear_of_the_classes_that_are_made_here(executor: Any) -> None:
    names = ["registered", "counted"]
    subclasses = list(odd_objects.Registered.subclasses)
    classes = list(odd_objects.CountingMeta.classes)
    for future in executor.map_to_futures(odd_objects.raise_named, names):
        assert isinstance(future.exception(LIMIT_S), RemoteException)
    assert odd_objects.Registered.subclasses == subclasses
    assert odd_objects.CountingMeta.classes == classes


@pytest.mark.holds_for("waits")  # `sequential_with_pickling` pickles no exceptions
def test_of_attributes_that_cannot_come_the_rest_does(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_named, ["with attributes"])
    error: Any = _failure_of(future)
    assert issubclass(type(error), odd_objects.WithAttributes)
    assert error.args[0] == "with attributes"
    assert "lock" in error.args[1]
    assert "lock" in error.lock
    assert "this does not load" in error.one_way
    assert error.first is error.second
    assert error.itself is error
    assert type(error.inner) is odd_objects.KeywordOnly
    assert error.inner.code == 7


@pytest.mark.holds_for("waits")
def test_parts_that_end_programs_end_none(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_with_parts_that_end_programs, [1])
    error: Any = _failure_of(future)
    assert issubclass(type(error), ValueError)
    assert error.args[0] == "words"
    assert error.code == 7
    assert "SystemExit" in error.leaves
    assert error.interrupts == error.args[2] == "<_Interrupts>"


@pytest.mark.holds_for("waits")
def test_a_result_that_ends_whoever_pickles_it_is_its_calls_failure(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.result_that_leaves, [1])
    error = _failure_of(future)
    assert type(error) is SystemExit
    assert error.code == 7


def test_what_nobody_may_ask_is_still_raised(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_liar, [1])
    with pytest.raises(odd_objects.Liar):
        future.result(LIMIT_S)
    assert "raised Liar" in repr(future)


def test_causes_and_contexts_come_with_their_types(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_with_cause, [1])
    error: Any = future.exception(LIMIT_S)
    assert isinstance(error, odd_objects.OwnReduce)
    cause = error.__cause__
    assert type(cause) is odd_objects.KeywordOnly
    assert cause.code == 2
    assert cause.__suppress_context__
    assert type(cause.__context__) is odd_objects.OwnState
    assert "in raise_with_cause" in "".join(traceback.format_exception(type(error), error, None))


def test_a_context_alone_comes_too(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_in_context, [1])
    error: BaseException = future.exception(LIMIT_S)
    assert type(error.__context__) is odd_objects.KeywordOnly
    assert not error.__suppress_context__
    printed = "".join(traceback.format_exception(type(error), error, None))
    assert "in raise_in_context" in printed
    assert "During handling of the above exception" in printed


def test_chains_may_be_long(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_long_chain, [3_000])
    error, length = future.exception(LIMIT_S), 0
    while error is not None:
        error, length = error.__context__, length + 1
    assert length == 3_000


def test_chains_may_be_circles(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_circle, [1])
    error: Any = future.exception(LIMIT_S)
    assert isinstance(error, ValueError)
    assert type(error.__cause__) is KeyError
    assert error.__cause__.__cause__ is error


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups before Python 3.11")
def test_groups_come_with_all_members(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.raise_group, [1])
    error: Any = future.exception(LIMIT_S)
    assert isinstance(error, vars(builtins)["ExceptionGroup"])
    assert error.message == "outer"
    first, inner = error.exceptions
    assert type(first) is ValueError
    assert [type(member).__name__ for member in inner.exceptions] == [
        "KeywordOnly",
        "OwnReduce",
        "Local",
    ]
    assert inner.exceptions[0].code == 2
    assert type(inner.exceptions[0].__cause__) is odd_objects.OwnState


@pytest.mark.parametrize("kind", [Mock, MagicMock])
def test_a_mock_is_called_or_refused(executor: Any, strategy: Strategy, kind: Any) -> None:
    (future,) = executor.map_to_futures(kind(return_value=5), [1])
    error = future.exception(LIMIT_S)
    if error is None:
        assert future.result() == 5
    else:
        assert strategy.pickles
        assert isinstance(error, pickle.PicklingError)


@pytest.mark.parametrize("name", [None, 5, "", "two\nlines", "\ud800", "x" * 10_000, Mock])
def test_a_function_may_have_any_name(executor: Any, name: object) -> None:
    function = odd_objects.OddFunction(name)
    (future,) = executor.map_to_futures(function, [3])
    assert future.result(LIMIT_S) == 9


def test_values_are_asked_nothing(executor: Any) -> None:
    (future,) = executor.map_to_futures(odd_objects.given_back, [odd_objects.Value()])
    assert type(future.result(LIMIT_S)) is odd_objects.Value
    assert "returned Value" in repr(future)
    (result,) = executor.map(odd_objects.given_back, [odd_objects.Value()])
    assert type(result) is odd_objects.Value
