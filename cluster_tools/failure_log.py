"""Logs failed calls, one line for each, but at most ten lines for an array.

This module knows futures and exceptions. It gets the place where a call ran as a text.
"""

from __future__ import annotations

import logging
import threading
import traceback
from concurrent.futures import CancelledError, Future
from typing import Any

from cluster_tools.function_name import exception_text, type_name

_MAX_LINES_PER_ARRAY = 10  # more lines would seldom say more, and would hide the rest of the log

_logger = logging.getLogger("cluster_tools")


def _handle_safely(record: logging.LogRecord) -> None:
    """Replaces `handle` of the logger "cluster_tools".

    So an exception of a logging handler can't end a thread of an executor. The handlers of the
    standard library raise if stderr was closed.
    """
    try:
        type(_logger).handle(_logger, record)
    except Exception:
        try:
            traceback.print_exc()
        except Exception:
            pass


vars(_logger)["handle"] = _handle_safely


class FailureLog:
    """Logs the failures of the calls of one array.

    Each of the first ten failures is logged in one line, at level ERROR. If there are more, one
    more line says how many when all calls are done.

    Arguments:
        count: How many calls the array has.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._ended = 0
        self._failed = 0
        self._counts_lock = threading.Lock()

    def note(self, exception: BaseException | None, where: str) -> None:
        """Notes that a call has ended. Called once for each call, in any thread.

        Arguments:
            exception: What the call has raised. None and `CancelledError` are no failures.
            where: Names the call and its job, as the beginning of a sentence.
        """
        if exception is not None and not issubclass(type(exception), CancelledError):
            self.note_failure(exception, where)
        self.note_ends(1)

    def note_ends(self, count: int) -> None:
        """Notes that `count` calls have ended. Their failures were noted before."""
        with self._counts_lock:
            self._ended += count
            is_last = count > 0 and self._ended == self._count
        if is_last:
            self.say_count()

    def note_failure(self, exception: BaseException, where: str) -> None:
        """Notes that a call has failed, without noting its end."""
        with self._counts_lock:
            self._failed += 1
            failed = self._failed
        if failed <= _MAX_LINES_PER_ARRAY:
            _logger.error("%s failed: %s", where, first_line(exception))

    def say_count(self) -> None:
        """Logs how many calls have failed, if not all were listed. Called when all have ended."""
        if self._failed > _MAX_LINES_PER_ARRAY:
            _logger.error(
                "%d of %d calls failed; the first %d are listed above",
                self._failed,
                self._count,
                _MAX_LINES_PER_ARRAY,
            )

    def watch(self, future: Future[Any], where: str) -> None:
        """Notes the outcome of `future` once it is done."""

        def note_outcome(future: Future[Any]) -> None:
            self.note(None if future.cancelled() else future.exception(), where)

        future.add_done_callback(note_outcome)


def first_line(exception: BaseException) -> str:
    """The exception's class and the first line of its message.

    If the message is a traceback, then the first line of it that names the exception.
    """
    name = type_name(exception)
    text = exception_text(exception).removeprefix(name).removeprefix(": ")
    lines = text.strip().splitlines()
    if lines and lines[0].startswith("Traceback (most recent call last)"):
        lines = [line for line in lines[1:] if line.strip() and not line[0].isspace()]
    return f"{name}: {lines[0]}" if lines else name
