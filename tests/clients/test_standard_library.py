"""CPython's own tests of executors, on ours, where this Python has them installed.

They are mixins of the package `test`, which some distributions leave out or put into a package of
their own. What they can't ask of a strategy is listed here, with why.
"""

from __future__ import annotations

import sys
import unittest
from importlib import import_module
from typing import Any

import pytest
from executors import KINDS, MARKS, Kind


def _suite() -> dict[str, Any]:
    package = "test.test_concurrent_futures"
    modules = [package]
    if sys.version_info >= (3, 12):
        parts = ("util", "executor", "test_shutdown", "test_wait", "test_as_completed", "test_init")
        modules = [f"{package}.{part}" for part in parts]
    try:
        found = [vars(import_module(module)) for module in modules]
    except ImportError as error:
        pytest.skip(f"this Python is without its own tests: {error}", allow_module_level=True)
    return {name: value for names in found for name, value in names.items()}


SUITE = _suite()

_NAMES_THE_CLASS = "runs a script that imports the class from concurrent.futures"
_NOTHING_WAITS = "calls have run when submit returns: none is waited for, runs or is cancelled"
_NOTHING_BEGINS_AT_ONCE = "asks that one call has begun: a job takes a moment for that"
_CLUSTERS = tuple(name for name, kind in KINDS.items() if kind.is_cluster)
# By test: whom it can't be asked of, and why. The conformance suite has scripts of its own for the
# first three.
_NOT_ASKED = {
    "test_interpreter_shutdown": (tuple(KINDS), _NAMES_THE_CLASS),
    "test_submit_after_interpreter_shutdown": (tuple(KINDS), _NAMES_THE_CLASS),
    "test_hang_gh83386": (tuple(KINDS), _NAMES_THE_CLASS),
    "test_cancel_futures": (("sequential", *_CLUSTERS), _NOTHING_BEGINS_AT_ONCE),
    "test_first_completed": (("sequential",), _NOTHING_WAITS),
    "test_first_completed_some_already_completed": (("sequential",), _NOTHING_WAITS),
    "test_first_exception": (("sequential",), _NOTHING_WAITS),
    "test_first_exception_some_already_complete": (("sequential",), _NOTHING_WAITS),
    "test_first_exception_one_already_failed": (("sequential",), _NOTHING_WAITS),
    "test_timeout": (("sequential",), _NOTHING_WAITS),
    "test_future_times_out": (("sequential",), _NOTHING_WAITS),
}
_ASKED = (
    "ExecutorTest",
    "ExecutorShutdownTest",
    "WaitTests",
    "AsCompletedTests",
    "InitializerMixin",
)


class _MakesExecutor:
    """Stands where the suite expects the executor's class."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.__name__ = kind.environment

    def __call__(self, max_workers: int, mp_context: object = None, **keywords: Any) -> Any:
        return self._kind.make(max_workers=max_workers, **keywords)


def _do_nothing(_: object) -> None:
    pass


def _tests_of(name: str, kind: Kind, mixin: type) -> type:
    members: dict[str, Any] = {
        "executor_type": _MakesExecutor(kind),
        "__module__": __name__,
        "pytestmark": [*MARKS[name], pytest.mark.timeout(120)],
    }
    for test, (whom, reason) in _NOT_ASKED.items():
        if name in whom and hasattr(mixin, test):
            members[test] = unittest.skip(reason)(_do_nothing)
    bases = (mixin, SUITE["ExecutorMixin"], SUITE["BaseTestCase"])
    return type(f"Test_{name}_{mixin.__name__}", tuple(dict.fromkeys(bases)), members)


for _name, _kind in KINDS.items():
    for _mixin in _ASKED:
        _tests = _tests_of(_name, _kind, SUITE[_mixin])
        globals()[_tests.__name__] = _tests
