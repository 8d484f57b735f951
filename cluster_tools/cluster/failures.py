"""Makes the exceptions that failed futures raise.

A message says what happened, to which task and job, where the log is, and what the user can do.
The functions read no files: the caller has read them and passes what it has found.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from cluster_tools.cluster import logs
from cluster_tools.cluster.verdicts import Evidence
from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteException,
    RemoteExitException,
    RemoteLostException,
    RemoteNeverStartedException,
    RemoteNodeFailureException,
    RemoteOutOfMemoryException,
    RemotePreemptedException,
    RemoteTimeLimitException,
    SubmissionException,
    remote_exception,
)
from cluster_tools.format.exit_codes import (
    EXIT_NO_WORKING_DIRECTORY,
    EXIT_OUTPUT_NOT_WRITTEN,
    EXIT_REFUSED,
    OWN_EXIT_CODES,
)
from cluster_tools.function_name import exception_text
from cluster_tools.schedulers.base import Cause

_EXCEPTIONS: dict[Cause, type[RemoteException]] = {
    Cause.OUT_OF_MEMORY: RemoteOutOfMemoryException,
    Cause.TIME_LIMIT: RemoteTimeLimitException,
    Cause.NODE_FAILURE: RemoteNodeFailureException,
    Cause.PREEMPTED: RemotePreemptedException,
    Cause.CANCELLED: RemoteCancelledException,
    Cause.EXIT: RemoteExitException,
    Cause.NEVER_STARTED: RemoteNeverStartedException,
    Cause.LOST: RemoteLostException,
}
# Python ends with exit code 120 if it can't flush stderr. Here that means a full disk, as the log
# is on the same disk. https://docs.python.org/3/c-api/init.html#c.Py_FinalizeEx
_NOT_WRITTEN = (EXIT_OUTPUT_NOT_WRITTEN, 120)


@dataclass(frozen=True)
class TaskLocation:
    """The place of a failure: a task, its element, and the path of the element's log.

    `task`: for example "Task 3 of 10 of f". `element`, `log`: "" if the task has no job.
    """

    task: str
    element: str = ""
    log: str = ""

    def __str__(self) -> str:
        return f"{self.task} (job {self.element})" if self.element else self.task

    @property
    def log_sentence(self) -> str:
        return f"Its log is {self.log}" if self.log else "It has no log, since no job was made"


@dataclass(frozen=True)
class Log:
    """What was found of an element's log.

    `tail`: its last lines. `is_there`: it exists, or may exist. `is_something_else`: the job
    refused to write to it, because the path is a link or no regular file.
    """

    tail: str
    is_there: bool
    is_something_else: bool


# -- outputs --


def call_failed(
    where: TaskLocation, node: str | None, packed: list[dict[str, Any]] | None, traceback: str
) -> RemoteException:
    """The call has raised an exception.

    `node`: where it ran; None if that is not known. `packed`: the exception as rows, as in an
    output. `traceback`: the exception's text.
    """
    on_node = f" on node {node}" if node else ""
    log = where.log_sentence
    line = f"{where} failed{on_node}; {log[0].lower()}{log[1:]}"
    return remote_exception(packed, traceback, where.element, line)


def output_unusable(where: TaskLocation, text: str, cause: BaseException | None) -> RemoteException:
    """There is an output, but the future can't get it. `text`: the reason, as a sentence."""
    exception = RemoteException(f"{where}: {text}\n{where.log_sentence}", where.element)
    exception.__cause__ = cause
    return exception


# -- elements that have ended --


def element_ended(
    where: TaskLocation, cause: Cause, evidence: Evidence, log: Log, run_directory: str
) -> RemoteException:
    """The element has ended without a result, and the task does not go in again."""
    ending = evidence.ending
    words = _what_happened(evidence, log, run_directory)
    if not words.endswith("."):
        words += "."
    lines = [f"{where} ended without a result: {words} {ending.advice}".rstrip()]
    if log.is_there:
        lines.append(where.log_sentence)
    elif "log" not in words:
        lines.append("It has left no log.")
    if log.tail:
        lines.append(f"The log ends with:\n{log.tail}")
    elif ending.last_words:
        lines.append(f"Its last words were:\n{ending.last_words}")
    return _EXCEPTIONS[cause]("\n".join(lines), where.element)


def _what_happened(evidence: Evidence, log: Log, run_directory: str) -> str:
    exit_code, is_claimed = evidence.ending.exit_code, evidence.claim is not None
    if evidence.directory_is_gone:
        return f"Its run directory {run_directory} is gone: somebody has deleted it."
    if not is_claimed or exit_code in OWN_EXIT_CODES:  # otherwise the call has printed the line
        own_message = logs.own_message(log.tail)
        if own_message is not None:  # the job's own message is no guess
            return own_message
    if exit_code == EXIT_REFUSED and log.is_something_else:
        return logs.NOT_A_LOG
    if not is_claimed and exit_code == EXIT_NO_WORKING_DIRECTORY:
        return "The working directory does not exist on the node."
    if is_claimed and exit_code in _NOT_WRITTEN:
        return f"Its output could not be written to {run_directory}; is the disk full?"
    return evidence.ending.message


def ending_unknown(where: TaskLocation, ending: str, error: BaseException) -> RemoteException:
    """The element has ended, and it can't be found out how its call has ended."""
    text = f"{ending} How the call has ended can't be told: {exception_text(error)}"
    return output_unusable(where, text, error)


# -- submission --


def not_submitted(task: str, error: BaseException) -> Exception:
    """The call, or its array, could not be submitted.

    Returns `error` itself if it is a PicklingError, whose message is clear enough.
    """
    if isinstance(error, pickle.PicklingError):
        return error
    exception = SubmissionException(f"{task} could not be submitted: {exception_text(error)}", "")
    exception.__cause__ = error
    return exception


def refused(task: str, error: BaseException) -> SubmissionException:
    """The scheduler has refused the task. The message has the scheduler's own words."""
    exception = SubmissionException(f"{task} could not be submitted: {error}", "")
    exception.__cause__ = error
    return exception


def not_written(name: str, error: BaseException) -> SubmissionException:
    exception = SubmissionException(f"{name} could not be written for a job: {error}", "")
    exception.__cause__ = error
    return exception


# -- pilots --


def pilot_not_written(error: BaseException) -> SubmissionException:
    return SubmissionException(f"No pilot could be written: {error}", "")


def pilot_requeued(job_id: str) -> RemotePreemptedException:
    return RemotePreemptedException(f"The job {job_id} of its pilot was requeued.", job_id)


def record_lost() -> RemoteException:
    return RemoteException("The record of its output was lost.", "")


def ended_on_pilot(where: TaskLocation, error: BaseException | None) -> RemoteException:
    """The pilot has ended while it ran the task. `error`: why the pilot has ended."""
    text = _text(error) or "Its pilot has left without a word on it."
    exception = _kind(error)(f"{where} ended without a result: {text}", where.element)
    exception.__cause__ = error
    return exception


def not_begun(task: str, error: BaseException) -> RemoteException:
    """The task has not begun: no pilot is left and none will start, because of `error`."""
    exception = _kind(error)(f"{task} was not begun: {_text(error)}", "")
    exception.__cause__ = error
    return exception


def lost_with_pilot(task: str) -> RemoteException:
    text = (
        f"{task} was lost with the pilot that was about to run it: submit it again if its work is "
        "not done."
    )
    return RemoteException(text, "")


def records_unreadable(task: str, error: BaseException) -> RemoteException:
    text = (
        f"{task} is lost: a pilot has ended, and the records of what it was doing can't be read: "
        f"{error}"
    )
    exception = RemoteException(text, "")
    exception.__cause__ = error
    return exception


def _kind(error: BaseException | None) -> type[RemoteException]:
    """The class of `error` if it is one of `cluster_tools.errors`; else RemoteException.

    A class that is combined with the class of a call's exception has the module of the latter.
    """
    if isinstance(error, RemoteException) and type(error).__module__ == RemoteException.__module__:
        return type(error)
    return RemoteException


def _text(error: BaseException | None) -> str:
    if isinstance(error, RemoteException):
        return error.error.strip()
    return "" if error is None else f"{type(error).__name__}: {error}"
