"""Promises on calls whose classes, processes and words are odd: each still gets its own outcome."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cluster_tools import RemoteException
from cluster_tools.errors import RemoteExitException
from support import jobs
from support.waiting import LIMIT_S


class AsksADict(Exception):
    """As classes do that stand for a dict: what it lacks is a KeyError."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class TakesNoAttributes(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("it is final")


class _NoText:
    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise TypeError("no pickle")


class HasOddAttribute(Exception):
    def __init__(self) -> None:
        super().__init__("odd")
        self.odd = _NoText()


class OpensAFile:
    """A result that opens a file when it is unpickled, one that the client has not."""

    def __reduce__(self) -> Any:
        return open, ("/nowhere/at/all",)


class _TextlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_textless() -> None:
    raise _TextlessError


class FailsWithoutText:
    """A result that cannot be unpickled, by an exception without a text."""

    def __reduce__(self) -> Any:
        return raise_textless, ()


def raise_asks_a_dict() -> None:
    raise AsksADict("absent")


def raise_takes_no_attributes() -> None:
    raise TakesNoAttributes("final")


def raise_has_odd_attribute() -> None:
    raise HasOddAttribute


def return_opens_a_file() -> OpensAFile:
    return OpensAFile()


def return_fails_without_text() -> FailsWithoutText:
    return FailsWithoutText()


def fork_and_return() -> str:
    """The child comes back from the call, too."""
    child = os.fork()
    if child == 0:
        return "of the child"
    os.waitpid(child, 0)
    return "of the parent"


def fork_and_exit() -> str:
    child = os.fork()
    if child == 0:
        sys.exit(3)
    return f"the child ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"


def exit_as_without_working_directory() -> None:
    os._exit(72)


def speak_as_the_worker_and_die() -> None:
    print("cluster_tools: all your base", flush=True)
    os._exit(9)


UNRULY: list[Callable[[], Any]] = [
    raise_asks_a_dict,
    raise_takes_no_attributes,
    raise_has_odd_attribute,
    return_opens_a_file,
    return_fails_without_text,
    fork_and_return,
    fork_and_exit,
    exit_as_without_working_directory,
    speak_as_the_worker_and_die,
]


@pytest.fixture(scope="module")
def futures(executor: Any) -> dict[Callable[[], Any], Any]:
    """All in one array: some take a while to fail."""
    return dict(zip(UNRULY, executor.map_to_futures(jobs.run, UNRULY)))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (raise_asks_a_dict, AsksADict),
        (raise_takes_no_attributes, TakesNoAttributes),
        (raise_has_odd_attribute, HasOddAttribute),
    ],
)
def test_an_exception_of_an_odd_class_arrives_as_it_is_with_its_traceback(
    futures: dict[Any, Any], step: Callable[[], Any], error: type[Exception]
) -> None:
    exception = futures[step].exception(LIMIT_S)
    assert isinstance(exception, error)
    assert isinstance(exception, RemoteException)
    assert f"in {step.__name__}" in str(exception.__cause__)


def test_an_attribute_without_pickle_and_text_is_named_by_its_type(futures: dict[Any, Any]) -> None:
    assert futures[raise_has_odd_attribute].exception(LIMIT_S).odd == "<_NoText>"


def test_an_os_error_while_a_result_is_unpickled_is_its_failure_at_once(
    futures: dict[Any, Any],
) -> None:
    """And is not waited out, as a file would be that can't be read yet."""
    exception = futures[return_opens_a_file].exception(LIMIT_S)
    assert isinstance(exception, RemoteException)
    assert "can't be unpickled here: FileNotFoundError" in str(exception)


def test_an_unpickling_error_without_a_text_is_a_failure_like_any_other(
    futures: dict[Any, Any],
) -> None:
    exception = futures[return_fails_without_text].exception(LIMIT_S)
    assert isinstance(exception, RemoteException)
    assert "can't be unpickled here: _TextlessError" in str(exception)


def test_a_forked_child_that_comes_back_does_not_write_the_calls_output(
    futures: dict[Any, Any],
) -> None:
    assert futures[fork_and_return].result(LIMIT_S) == "of the parent"


def test_a_forked_child_that_exits_does_not_write_the_calls_output(
    futures: dict[Any, Any],
) -> None:
    assert futures[fork_and_exit].result(LIMIT_S) == "the child ended with 1"


def test_an_exit_code_of_ours_that_a_call_ends_with_is_only_an_exit_code(
    futures: dict[Any, Any],
) -> None:
    exception = futures[exit_as_without_working_directory].exception(LIMIT_S)
    assert isinstance(exception, RemoteExitException)
    assert "exit code 72" in str(exception)
    assert "working directory" not in str(exception)


def test_what_a_call_prints_is_not_taken_for_the_cause_of_its_end(futures: dict[Any, Any]) -> None:
    exception = futures[speak_as_the_worker_and_die].exception(LIMIT_S)
    assert isinstance(exception, RemoteExitException)
    first_line = str(exception).partition("\n")[0]
    assert "exit code 9" in first_line
    assert "all your base" not in first_line
