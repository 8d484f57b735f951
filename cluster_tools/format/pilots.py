"""What pilots and the client tell each other: names of ranges of tasks, and journals."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

TODO = "pilots.todo"
HELD = "pilots.held"
JOURNALS = "pilots.journals"
# Task numbers of cancelled calls, a line for each; the first line is that file's own, other than any before it.
REVOKED = "pilots.revoked"
# In TODO: pilots leave.
STOP = "stop"
# In TODO, with a number behind it: so many pilots are there.
ALIVE = "alive."

# A record of a journal: magic, length of what follows, its checksum.
_HEADER = struct.Struct("<8sQI")
_MAGIC = b"CTpilot1"
# What follows begins with one of these.
_BEGAN = b"B"
_ENDED = b"E"
_SKIPPED = b"S"
_CONTINUED = b"C"
_BEGAN_BODY = struct.Struct("<cQq")  # task, offset in the log
_ENDED_BODY = struct.Struct("<cQqqc")  # task, offsets in the log, where the output is
_SKIPPED_BODY = struct.Struct("<cQ")  # task
# Where the output is: behind this, in a file of its own, or in the output store (then its digest).
HERE = b"h"
IN_FILE = b"f"
IN_STORE = b"s"

NO_LOG = -1


class Range(NamedTuple):
    """Tasks `begin` to `end - 1` of an array, of which those before `next` have begun."""

    array: int
    begin: int
    next: int
    end: int
    # "" where nobody holds it.
    pilot: str = ""
    # The pilot that was about to take over the rest: then this file says what had begun.
    taker: str = ""

    def todo_name(self) -> str:
        return f"{self.array}.{self.next}-{self.end}"

    def held_name(self) -> str:
        name = f"{self.array}.{self.begin}-{self.next}-{self.end}.{self.pilot}"
        return f"{name}.{self.taker}" if self.taker else name


def read_range(name: str) -> Range | None:
    """What an entry of TODO or HELD says; None of any other name."""
    try:
        array, numbers, *pilot = name.split(".")
        begin, *middle, end = map(int, numbers.split("-"))
        if len(middle) != bool(pilot) or len(pilot) > 2:
            return None
        if not pilot:
            return Range(int(array), begin, begin, end)
        return Range(int(array), begin, middle[0], end, *pilot)
    except (ValueError, TypeError):
        return None


def revoked_lines(tasks: Iterable[int]) -> bytes:
    """What REVOKED says of these cancelled tasks."""
    return b"".join(b"%d\n" % task for task in tasks)


def read_revoked(piece: bytes) -> tuple[list[int], int]:
    """The tasks of a piece of REVOKED, behind its first line, and how long that is that was whole."""
    whole, newline, _ = piece.rpartition(b"\n")
    return [int(task) for task in whole.split()], len(whole) + len(newline)


class Journal(NamedTuple):
    """Whose a journal is, as its name says: of one run of one element. It is in parts, a file each."""

    # As in the names of what it holds.
    pilot: str
    part: int
    restart: int
    node: str
    job_id: str

    def name(self) -> str:
        return ",".join(map(str, self))


def read_journal_name(name: str) -> Journal | None:
    pilot, part, restart, node, job_id = (*name.split(",", 4), "", "", "", "")[:5]
    index = job_id.rpartition("_")[2]
    if not (part.isdigit() and restart.isdigit() and index.isdigit()):
        return None
    return Journal(pilot, int(part), int(restart), node, job_id)


class Began(NamedTuple):
    task: int
    # NO_LOG where the log is no file.
    log_offset: int


class Ended(NamedTuple):
    task: int
    log_begin: int
    log_end: int
    place: bytes
    # The pickled output (HERE), or its digest in the store (IN_STORE).
    output: bytes


class Skipped(NamedTuple):
    """A pilot took the task and then saw that it is revoked: it has not begun and will not."""

    task: int


class Continued(NamedTuple):
    """The last of a part: another follows."""


Record = Began | Ended | Skipped | Continued


def _record(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return _HEADER.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def began_record(task: int, log_offset: int) -> bytes:
    return _record(_BEGAN_BODY.pack(_BEGAN, task, log_offset))


def ended_record(task: int, log_part: tuple[int, int], place: bytes, output: bytes) -> bytes:
    return _record(_ENDED_BODY.pack(_ENDED, task, *log_part, place), output)


def skipped_record(task: int) -> bytes:
    return _record(_SKIPPED_BODY.pack(_SKIPPED, task))


def continued_record() -> bytes:
    return _record(_CONTINUED)


def end_of_part(task: int, log_offset: int) -> bytes:
    """What a log has behind the output of a task that has printed something."""
    return (
        f"cluster_tools: what is above this, from byte {log_offset} on, is task {task}'s\n".encode()
    )


def read_records(journal: bytes, *, final: bool) -> tuple[list[Record], int]:
    """The records at the beginning of a piece of a journal, and how long they are together.

    It ends where one is not whole, or not right: the rest of it may be on its way. `final`: it is not; then
    such a record costs itself alone, and the next one is looked for.
    """
    found: list[Record] = []
    at = 0
    while len(journal) - at >= _HEADER.size:
        magic, length, checksum = _HEADER.unpack_from(journal, at)
        end = at + _HEADER.size + length
        body = journal[at + _HEADER.size : end]
        if magic == _MAGIC and end <= len(journal) and zlib.crc32(body) == checksum:
            found.append(_read_body(body))
            at = end
            continue
        following = journal.find(_MAGIC, at + 1) if final else -1
        if following < 0:
            break
        at = following
    return found, at


def _read_body(body: bytes) -> Record:
    if body[:1] == _CONTINUED:
        return Continued()
    if body[:1] == _BEGAN:
        return Began(*_BEGAN_BODY.unpack(body)[1:])
    if body[:1] == _SKIPPED:
        return Skipped(*_SKIPPED_BODY.unpack(body)[1:])
    _, task, log_begin, log_end, place = _ENDED_BODY.unpack_from(body)
    return Ended(task, log_begin, log_end, place, body[_ENDED_BODY.size :])
