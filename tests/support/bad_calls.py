"""Calls that end badly, each in its own way, and what their futures raise."""

from __future__ import annotations

import pickle
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster_tools import RemoteException
from cluster_tools.errors import RemoteExitException
from support import jobs


def _vanished() -> Callable[[], Any]:
    """A function of a module that only this process has."""
    module = types.ModuleType("module_of_this_process_only")
    exec("def absent(): return 1", vars(module))
    sys.modules[module.__name__] = module
    return module.absent


@dataclass(frozen=True)
class Bad:
    """A call that fails.

    Attributes:
        step: The call.
        error: The type that `result()` raises.
        says: What is in the exception as the interpreter would print it.
        attributes: What the exception has.
    """

    step: Callable[[], Any]
    error: type[BaseException]
    says: str
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


BAD_CALLS = {
    "sys.exit": Bad(jobs.sys_exit, RemoteException, "SystemExit: 3"),
    "os._exit": Bad(jobs.os_exit, RemoteExitException, "exit code 3"),
    "segmentation fault": Bad(
        jobs.segmentation_fault, RemoteExitException, "Fatal Python error: Segmentation fault"
    ),
    "kill -9": Bad(jobs.kill_itself, RemoteExitException, "signal 9"),
    "SIGTERM": Bad(jobs.tell_itself_to_end, RemoteExitException, "in tell_itself_to_end"),
    "KeyboardInterrupt": Bad(jobs.raise_keyboard_interrupt, RemoteException, "KeyboardInterrupt"),
    "result that can't be pickled": Bad(jobs.return_lock, pickle.PicklingError, "cannot pickle"),
    "result that can't be unpickled": Bad(
        jobs.return_one_way, RemoteException, "this pickle does not load"
    ),
    "exception that can't be pickled": Bad(jobs.raise_locked, jobs.LockedError, "locked"),
    "exception that can't be unpickled": Bad(jobs.raise_one_way, jobs.OneWayError, "lost"),
    "argument of an exception that can't be unpickled": Bad(
        jobs.raise_one_way_argument, RemoteException, "OneWayArgument"
    ),
    "exception with another constructor": Bad(
        jobs.raise_other_arguments,
        jobs.OtherArguments,
        "refused with 7",
        {"code": 7, "args": ("refused with 7",)},
    ),
    "exception that needs a keyword": Bad(
        jobs.raise_needs_keyword, jobs.NeedsKeyword, "keyword only", {"code": 7}
    ),
    "exception with slots": Bad(jobs.raise_slotted, jobs.Slotted, "slotted", {"code": 7}),
    "exception with an error of its own": Bad(
        jobs.raise_own_error, jobs.OwnError, "own error", {"error": "its own", "job_id": 17}
    ),
    "exception with a text of its own": Bad(jobs.raise_own_text, jobs.OwnText, "its own text"),
    "exception whose text fails": Bad(jobs.raise_text_fails, jobs.TextFails, "TextFails"),
    "exception that refuses subclassing": Bad(jobs.raise_final, RemoteException, "Final: final"),
    "exception that C sets up": Bad(
        jobs.raise_os_error,
        PermissionError,
        "denied",
        {"errno": 13, "filename": "/somewhere", "strerror": "denied"},
    ),
    "exception with a cause": Bad(jobs.raise_with_cause, ValueError, "KeyError: 'absent'"),
    "endless recursion": Bad(jobs.recurse, RecursionError, "RecursionError"),
    "module that is missing in the job": Bad(
        _vanished(), ModuleNotFoundError, "module_of_this_process_only"
    ),
}


def printed(exception: BaseException | None) -> str:
    """As the interpreter would."""
    assert exception is not None
    return "".join(traceback.format_exception(type(exception), exception, None))
