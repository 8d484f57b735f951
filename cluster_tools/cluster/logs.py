"""The logs of jobs: following one, and what its end says about a failure.

Knows files, no futures and no schedulers.
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
    """Where in a log the output of a call is."""

    begin: int
    # None: there is no telling yet.
    end: int | None
    # What follows it, where others do.
    mark: bytes


def _whole_log() -> LogSection:
    return LogSection(0, None, b"")


def tail(path: str) -> str:
    """The last lines of a log, "" where there is none."""
    try:
        with open(own_files.open_own(path, owner=None), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except (OSError, own_files.NotOurs):
        return ""
    return "\n".join(lines[-_TAIL_LINES:])


def is_something_else(path: str) -> bool:
    """Whether what lies there is no log: a link, or no regular file."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def own_message(log_tail: str) -> str | None:
    """What the worker or the job's script itself has to say on its end."""
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
    """Writes what is added to the log to stdout until the call is done.

    Each piece has `prefix` before it, unless it goes on in the middle of a line.

    `late_s`: how long after that the last of it may come through an NFS client's cache. `section`:
    what of the log is the call's.
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
    """On stdout, where there is one that takes it: the call's result is worth more."""
    stream = sys.stdout
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError as exc:
            stream.write(text.encode(exc.encoding, "backslashreplace").decode(exc.encoding))
        stream.flush()
    except (AttributeError, ValueError, OSError):  # None, closed, or nobody reads it any more
        pass


def _end_before(piece: bytes, mark: bytes) -> int:
    """Where the mark begins in the piece, or may begin at its end; else the piece's length."""
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
