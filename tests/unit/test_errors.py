"""Promises on the exceptions of failed calls."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import traceback
import types
import weakref
from abc import ABC
from typing import Any

import pytest

from cluster_tools import (
    RemoteException,
    RemoteOutOfMemoryException,
    RemoteResourceLimitException,
    RemoteTimeLimitException,
    errors,
)
from cluster_tools.errors import remote_exception
from cluster_tools.packed_exceptions import pack
from support import jobs


def _arrived(exception: BaseException) -> RemoteException:
    """What the client makes of an exception that a job has raised."""
    packed = pickle.loads(pack(exception))
    return remote_exception(packed, "Traceback: there", "12_3", "Task 3 of 9 (job 12_3)")


def test_the_class_of_a_type_is_made_once() -> None:
    first, second = _arrived(ValueError(1)), _arrived(ValueError(2))
    assert type(first) is type(second)
    assert type(first).__mro__[1:3] == (ValueError, RemoteException)


def test_both_types_catch_it_and_it_is_called_as_the_functions_own() -> None:
    error = _arrived(KeyError("absent"))
    assert isinstance(error, KeyError)
    assert isinstance(error, RemoteException)
    assert type(error).__name__ == "KeyError"
    assert type(error).__module__ == "builtins"
    assert str(error) == "'absent'"
    assert error.args == ("absent",)


def test_it_has_the_remote_traceback_and_the_job() -> None:
    error = _arrived(ValueError("bad"))
    assert error.job_id == "12_3"
    assert "Traceback: there" in error.error
    assert "Task 3 of 9 (job 12_3)" in error.error
    printed = "".join(traceback.format_exception(type(error), error, None))
    assert "Traceback: there" in printed
    assert "Task 3 of 9 (job 12_3)" in printed


@pytest.mark.parametrize(
    ("exception", "attributes"),
    [
        (jobs.OtherArguments(7, "refused"), {"code": 7}),
        (jobs.NeedsKeyword(code=7), {"code": 7}),
        (jobs.Slotted(7), {"code": 7}),
        (jobs.OwnError(), {"error": "its own", "job_id": 17}),
        (
            FileNotFoundError(2, "no such", "/x"),
            {"errno": 2, "filename": "/x", "strerror": "no such"},
        ),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), {"start": 0, "object": b"\xff"}),
        (StopIteration(5), {"value": 5}),
        (ImportError("no", name="x", path="/y"), {"name": "x", "path": "/y"}),
        (SyntaxError("bad", ("f.py", 3, 4, "text")), {"lineno": 3, "filename": "f.py"}),
    ],
)
def test_args_attributes_and_text_are_the_functions_own(
    exception: Exception, attributes: dict[str, Any]
) -> None:
    error = _arrived(exception)
    assert isinstance(error, type(exception))
    assert error.args == exception.args
    assert str(error) == str(exception)
    for name, value in attributes.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize(
    "exception",
    [OSError("words"), TimeoutError("late"), OSError(), ConnectionResetError(104, "reset")],
)
def test_what_an_os_error_has_not_set_stays_unset(exception: OSError) -> None:
    assert str(_arrived(exception)) == str(exception)
    assert str(pickle.loads(pickle.dumps(_arrived(exception)))) == str(exception)


@pytest.mark.parametrize(
    "exception",
    [
        ValueError("bad", 2),
        jobs.OtherArguments(7, "refused"),
        jobs.NeedsKeyword(code=7),
        jobs.Slotted(7),
        jobs.OwnError(),
        FileNotFoundError(2, "no such", "/x"),
        jobs.Final("final"),
        SystemExit(3),
    ],
)
def test_it_can_be_pickled_and_copied(exception: BaseException) -> None:
    error = _arrived(exception)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert other.args == error.args
        assert other.error == error.error
        assert other.job_id == error.job_id


def test_notes_arrive() -> None:
    exception = ValueError("bad")
    # What `add_note` does, which came with Python 3.11.
    vars(exception)["__notes__"] = ["a note"]
    assert vars(_arrived(exception))["__notes__"] == ["a note"]


@pytest.mark.parametrize("exception", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_is_no_exception_is_a_plain_one_with_the_original_as_cause(
    exception: BaseException,
) -> None:
    error = _arrived(exception)
    assert type(error) is RemoteException
    cause: Any = error.__cause__
    assert type(cause) is type(exception)
    assert cause.args == exception.args
    assert error.job_id == "12_3"


def test_what_a_class_does_with_its_subclasses_is_not_done_with_ours() -> None:
    error = _arrived(jobs.Final("final"))  # it refuses them
    assert type(error).__mro__[1:3] == (jobs.Final, RemoteException)
    assert error.args == ("final",)


class _Meta(type):
    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        if len(bases) > 1:
            raise TypeError("one base is enough")
        return super().__new__(cls, name, bases, namespace)


class _OfMeta(Exception, metaclass=_Meta):
    pass


def test_a_metaclass_that_refuses_is_not_asked() -> None:
    error = _arrived(_OfMeta("odd"))
    assert isinstance(error, _OfMeta)
    assert isinstance(error, RemoteException)


class _ReadOnly(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("read only")


def test_a_type_that_takes_no_attributes_still_arrives() -> None:
    error = _arrived(_ReadOnly("fixed"))
    assert isinstance(error, RemoteException)
    assert isinstance(error if isinstance(error, _ReadOnly) else error.__cause__, _ReadOnly)


def test_a_remote_exception_of_a_nested_submission_passes_as_it_is() -> None:
    inner = _arrived(ValueError("inner"))
    outer = remote_exception(pickle.loads(pack(inner)), "text", "99", "outer")
    assert type(outer) is type(inner)
    assert (outer.error, outer.job_id, outer.args) == (inner.error, inner.job_id, inner.args)


def test_without_a_second_pickle_the_text_has_to_do() -> None:
    error = remote_exception(None, "Traceback: there", "12", "The call (job 12)")
    assert type(error) is RemoteException
    assert "Traceback: there" in str(error)
    assert error.job_id == "12"


def test_resource_limits_are_one_family() -> None:
    for kind in (RemoteOutOfMemoryException, RemoteTimeLimitException):
        assert issubclass(kind, RemoteResourceLimitException)
        assert issubclass(kind, RemoteException)
        error = pickle.loads(pickle.dumps(kind("what happened", "5")))
        assert type(error) is kind
        assert (error.error, error.job_id) == ("what happened", "5")
        assert str(error) == "what happened (job_id=5)"


def test_the_tree_at_the_top_has_every_exception() -> None:
    assert errors.__doc__ is not None
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, RemoteException):
            assert name in errors.__doc__


class _Abstract(Exception, ABC):
    pass


_HIDDEN: dict[int, str] = {}


class _Hidden(Exception):
    """Keeps state where only its own pickling finds it, as types written in C do."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.later = "attribute"

    @property
    def code(self) -> str | None:
        return _HIDDEN.get(id(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {"code": self.code}

    def __setstate__(self, state: Any) -> None:
        _HIDDEN[id(self)] = state["code"]


def test_state_that_only_its_own_pickling_finds_arrives() -> None:
    exception = _Hidden("hidden")
    exception.__setstate__({"code": "23505"})
    exception.added = 5  # type: ignore[attr-defined]
    exception.__notes__ = ["a note"]  # type: ignore[attr-defined]
    error: Any = _arrived(exception)
    for other in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other).__mro__[1:3] == (_Hidden, RemoteException)
        assert (other.code, other.added, other.later) == ("23505", 5, "attribute")
        assert other.__notes__ == ["a note"]


def test_a_pickled_one_keeps_what_led_to_it() -> None:
    exception = ValueError("bad")
    exception.__cause__ = KeyError("absent")
    error: BaseException = pickle.loads(pickle.dumps(_arrived(exception)))
    assert type(error.__cause__) is KeyError
    printed = "".join(traceback.format_exception(type(error), error, None))
    assert "Traceback: there" in printed


def test_its_class_can_be_called_as_the_functions_own() -> None:
    error = _arrived(jobs.NeedsKeyword(code=7))
    again = type(error)(code=8)  # type: ignore[call-arg]
    assert type(again) is jobs.NeedsKeyword
    assert again.code == 8


def _in_module_of_there_only(code: str) -> dict[str, Any]:
    module = types.ModuleType("module_of_there_only")
    sys.modules[module.__name__] = module
    exec(code, vars(module))
    return vars(module)


def test_of_a_class_that_is_not_here_its_nearest_base_arrives() -> None:
    there = _in_module_of_there_only("class Error(ValueError): pass\nclass Value: pass")
    exception = there["Error"]("absent")
    exception.value, exception.code = there["Value"](), 7
    exception.__cause__ = there["Error"]("cause")
    packed = pickle.loads(pack(exception))
    del sys.modules["module_of_there_only"]
    error: Any = remote_exception(packed, "Traceback: there", "12", "The call")
    assert type(error).__mro__[1:3] == (ValueError, RemoteException)
    assert (error.args, error.code) == (("absent",), 7)
    assert "module_of_there_only" in error.value
    assert type(error.__cause__) is ValueError


def test_of_a_class_with_no_base_here_the_text_arrives() -> None:
    there = _in_module_of_there_only("class Error(Exception): pass")
    exception, outer = there["Error"]("words"), ValueError("outer")
    outer.__cause__ = exception
    packed, packed_outer = pickle.loads(pack(exception)), pickle.loads(pack(outer))
    del sys.modules["module_of_there_only"]
    error = remote_exception(packed, "Error: words", "12", "The call")
    assert type(error) is RemoteException
    assert "Error: words" in str(error)
    error = remote_exception(packed_outer, "text", "12", "The call")
    assert isinstance(error, ValueError)
    assert "module_of_there_only.Error: words" in str(error.__cause__)


def test_large_attributes_come_once() -> None:
    exception = ValueError("large")
    exception.first = exception.second = bytes(1 << 22)  # type: ignore[attr-defined]
    assert len(pack(exception)) < 5 << 20
    error: Any = _arrived(exception)
    assert error.first is error.second


def test_an_abstract_class_keeps_its_checks_to_itself() -> None:
    error = _arrived(_Abstract("abstract"))
    assert isinstance(error, _Abstract)
    assert not isinstance(_Abstract("other"), type(error))


def test_classes_that_are_over_are_not_kept() -> None:
    def new_class() -> Any:
        return type("New", (Exception,), {"__module__": __name__})

    first = new_class()
    watch = weakref.ref(first)
    errors._combine(first)  # pyright: ignore[reportPrivateUsage]
    del first
    for _ in range(1_001):
        errors._combine(new_class())  # pyright: ignore[reportPrivateUsage]
    gc.collect()
    assert watch() is None
