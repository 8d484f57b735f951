"""Reads the logs of jobs: follows one, and finds what its end says about a failure.

This module knows files, no futures and no schedulers.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from cluster_tools import own_files

NOT_A_LOG = (
    "Nothing was run, since its log is a link or no regular file: somebody has put it there."
)
_TAIL_BYTES = 4_000
_TAIL_LINES = 15
_FIRST_INTERVAL_S = 0.02
_MAX_INTERVAL_S = 1.0


class LogSection(NamedTuple):
    """The part of a log that one call has written. `begin`, `end`: offsets in bytes."""

    begin: int
    # None: not known yet.
    end: int | None
    # The bytes that mark the end of the part; b"" if the part ends with the log.
    mark: bytes


def _whole_log() -> LogSection:
    return LogSection(0, None, b"")


def tail(path: str) -> str:
    """The last lines of a log; "" if it can't be read."""
    try:
        with open(own_files.open_own(path, owner=None), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except (OSError, own_files.NotOurs):
        return ""
    return "\n".join(lines[-_TAIL_LINES:])


def is_something_else(path: str) -> bool:
    """Whether the path is a link, or something else than a regular file."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def own_message(log_tail: str) -> str | None:
    """The message of the worker or of the job's script about its end; None if there is none."""
    for line in log_tail.splitlines():
        if line.startswith("cluster_tools: "):
            return line.removeprefix("cluster_tools: ")
    return None


def follow(
    path: str,
    prefix: str,
    is_done: Callable[[], bool],
    late_s: float,
    section: Callable[[], LogSection] | None = None,
) -> None:
    """Writes new text of the log to stdout until the call is done.

    Arguments:
        prefix: Written before each piece of text, unless the piece continues a line.
        is_done: Returns whether the call is done.
        late_s: After that, how many seconds to wait for the last text, which an NFS client's cache
            may delay.
        section: Returns the call's part of the log. Default: the whole log.
    """
    section = section or _whole_log
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    position = section().begin
    interval_s = _FIRST_INTERVAL_S
    late_until: float | None = None
    is_at_line_start = True
    while True:
        done = is_done()
        _, end, mark = section()
        piece = _read_from(path, position)
        if end is not None:
            piece = piece[: max(0, end - position)]
        elif mark:
            if mark in piece:
                end = position + piece.index(mark)
            piece = piece[: _end_before(piece, mark)]
        if piece:
            position += len(piece)
            interval_s = _FIRST_INTERVAL_S
            text = decoder.decode(piece)
            if text:
                _show(f"{prefix if is_at_line_start else ''}{text}")
                is_at_line_start = text.endswith("\n")
        elif done:
            late_until = late_until or time.monotonic() + late_s
            if position == end or time.monotonic() >= late_until:
                return
        time.sleep(interval_s)
        interval_s = min(_MAX_INTERVAL_S, interval_s * 1.5)


def _show(text: str) -> None:
    """Writes to stdout. Ignores errors: the user still needs the call's result."""
    stream = sys.stdout
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError as exc:
            stream.write(text.encode(exc.encoding, "backslashreplace").decode(exc.encoding))
        stream.flush()
    except (AttributeError, ValueError, OSError):  # stdout is None, closed, or a broken pipe
        pass


def _end_before(piece: bytes, mark: bytes) -> int:
    """Where the mark, or a beginning of it at the piece's end, begins; else the piece's length."""
    found = piece.find(mark)
    if found >= 0:
        return found
    for length in range(min(len(mark) - 1, len(piece)), 0, -1):
        if mark.startswith(piece[-length:]):
            return len(piece) - length
    return len(piece)


def _read_from(path: str, position: int) -> bytes:
    try:
        with open(own_files.open_own(path, owner=None), "rb") as file:
            file.seek(position)
            return file.read(1 << 20)
    except (OSError, own_files.NotOurs):
        return b""
