"""Logs each call that failed once, but not thousands of them.

Knows futures and exceptions. Where a call ran is only a text here.
"""

from __future__ import annotations

import logging
import threading
import traceback
from concurrent.futures import CancelledError, Future
from typing import Any

from cluster_tools.function_name import exception_text, type_name

_MAX_LINES_PER_ARRAY = 10  # more would say nothing new, and make the rest of the log hard to read

_logger = logging.getLogger("cluster_tools")


def _handle_safely(record: logging.LogRecord) -> None:
    """Replaces our logger's `handle`, so that exceptions of handlers end none of our threads.

    Handlers of `logging` itself raise if stderr was closed.
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

    The first ten get a line each, at level error. If there are more, one more line has their number
    when all calls are done.

    Arguments:
        count: How many calls the array has.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._ended = 0
        self._failed = 0
        self._counts_lock = threading.Lock()

    def note(self, exception: BaseException | None, where: str) -> None:
        """To be called once for each call of the array, from any thread.

        Arguments:
            exception: What the call raised. None and `CancelledError` are no failures.
            where: The call and its job, as the beginning of a sentence.
        """
        if exception is not None and not issubclass(type(exception), CancelledError):
            self.note_failure(exception, where)
        self.note_ends(1)

    def note_ends(self, count: int) -> None:
        """So many calls have ended; those that failed were noted before."""
        with self._counts_lock:
            self._ended += count
            is_last = count > 0 and self._ended == self._count
        if is_last:
            self.say_count()

    def note_failure(self, exception: BaseException, where: str) -> None:
        with self._counts_lock:
            self._failed += 1
            failed = self._failed
        if failed <= _MAX_LINES_PER_ARRAY:
            _logger.error("%s failed: %s", where, first_line(exception))

    def say_count(self) -> None:
        """All calls have ended."""
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

    If the message is a traceback, its line with the exception.
    """
    name = type_name(exception)
    text = exception_text(exception).removeprefix(name).removeprefix(": ")
    lines = text.strip().splitlines()
    if lines and lines[0].startswith("Traceback (most recent call last)"):
        lines = [line for line in lines[1:] if line.strip() and not line[0].isspace()]
    return f"{name}: {lines[0]}" if lines else name
