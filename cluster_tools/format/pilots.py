"""The files by which pilots and the client talk: names of ranges of tasks, and journals.

`cluster_tools.job.pilot` has the drawing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from cluster_tools.format.measured import NS_PER_S, NUMBERS_BYTES

# Directories of the run directory: ranges that no pilot holds; ranges that a pilot holds; journals.
TODO = "pilots.todo"
HELD = "pilots.held"
JOURNALS = "pilots.journals"
# A directory of named pipes: one for each pilot, with its name, tells it to look for work; CLIENT
# tells the client the names of journals that have grown, one a line.
WAKE = "pilots.wake"
CLIENT = "client"
# A file: the task numbers of cancelled calls, one a line. The first line differs in each new
# version of the file, so that a pilot notices one.
REVOKED = "pilots.revoked"
# A file in TODO: all pilots are to end.
STOP = "stop"
# A file in TODO, with a number behind this: how many idle pilots there are.
IDLE = "idle."

# A record of a journal is a header (magic, length of the body, checksum of the body) and a body.
_HEADER = struct.Struct("<8sQI")
_MAGIC = b"CTpilot1"
# The first byte of a body: the kind of record.
_BEGAN = b"B"
_ENDED = b"E"
_SKIPPED = b"S"
_CONTINUED = b"C"
_BEGAN_BODY = struct.Struct("<cQqQ")  # task, offset in the log, start
# Task, offsets in the log, where the output is, the numbers of `measured`: written one by one, read
# as they are.
_ENDED_BODY = struct.Struct("<cQqqc4Q")
_ENDED_PARTS = struct.Struct(f"<cQqqc{NUMBERS_BYTES}s")
_SKIPPED_BODY = struct.Struct("<cQ")  # task
# Where the output is: in the record itself, in a file of its own, or in the output store (then the
# record has its digest).
HERE = b"h"
IN_FILE = b"f"
IN_STORE = b"s"

# Stands for an offset in the log where stdout is no file.
NO_LOG = -1


class Range(NamedTuple):
    """Tasks `begin` to `end - 1` of an array, of which those before `next` have begun."""

    array: int
    begin: int
    next: int
    end: int
    # The pilot that holds it; "" where none does.
    pilot: str = ""
    # Where another pilot takes over the rest: that pilot. Then this names the tasks that had begun.
    taker: str = ""

    def todo_name(self) -> str:
        """Its file name in TODO."""
        return f"{self.array}.{self.next}-{self.end}"

    def held_name(self) -> str:
        """Its file name in HELD."""
        name = f"{self.array}.{self.begin}-{self.next}-{self.end}.{self.pilot}"
        return f"{name}.{self.taker}" if self.taker else name


def read_range(name: str) -> Range | None:
    """The range of this file name in TODO or HELD; None where it is no range's."""
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
    """The tasks in a piece of REVOKED behind its first line, and the length of its whole lines."""
    whole, newline, _ = piece.rpartition(b"\n")
    return [int(task) for task in whole.split()], len(whole) + len(newline)


class Journal(NamedTuple):
    """What the file name of a part of a journal says. A journal is of one run of one element."""

    # The pilot's name, as in `Range.pilot`.
    pilot: str
    part: int
    restart: int
    node: str
    job_id: str

    def name(self) -> str:
        return ",".join(map(str, self))


def read_journal_name(name: str) -> Journal | None:
    """The part of a journal that has this file name; None where it is no journal's."""
    pilot, part, restart, node, job_id = (*name.split(",", 4), "", "", "", "")[:5]
    if not job_id.rpartition("_")[2].isdecimal() or "/" in name or "\0" in name:
        return None
    try:
        return Journal(pilot, int(part), int(restart), node, job_id)
    except ValueError:
        return None


class Began(NamedTuple):
    """A call has begun; its output in the log begins at this byte (or `NO_LOG`)."""

    task: int
    log_offset: int
    # In nanoseconds since the epoch, by the node's clock.
    started_ns: int

    @property
    def started_at(self) -> float:
        """In seconds."""
        return self.started_ns / NS_PER_S


class Ended(NamedTuple):
    """A call has ended; these bytes of the log are its."""

    task: int
    log_begin: int
    log_end: int
    # HERE, IN_FILE or IN_STORE.
    place: bytes
    # For `read_measured`; whose journal it is says the node.
    numbers: bytes
    # HERE: the pickled output; IN_STORE: its digest; IN_FILE: empty.
    output: bytes


class Skipped(NamedTuple):
    """A pilot took the task and then saw that it is revoked: its call does not begin."""

    task: int


class Continued(NamedTuple):
    """The last record of a part: another part follows."""


Record = Began | Ended | Skipped | Continued


def _record(body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def began_record(task: int, log_offset: int, started_ns: int) -> bytes:
    return _record(_BEGAN_BODY.pack(_BEGAN, task, log_offset, started_ns))


def ended_record(
    task: int,
    log_part: tuple[int, int],
    place: bytes,
    used: tuple[int, int, int, int],
    output: bytes,
) -> bytes:
    """`log_part`: `(log_begin, log_end)` of `Ended`. `used`: the numbers of `measured`."""
    log_begin, log_end = log_part
    # Written out, as this is done for each call: unpacked into arguments they take twice as long.
    started_ns, ended_ns, cpu_ns, peak = used
    head = _ENDED_BODY.pack(
        _ENDED, task, log_begin, log_end, place, started_ns, ended_ns, cpu_ns, peak
    )
    return _record(head + output)


def skipped_record(task: int) -> bytes:
    return _record(_SKIPPED_BODY.pack(_SKIPPED, task))


def continued_record() -> bytes:
    return _record(_CONTINUED)


def end_of_part(task: int, log_offset: int) -> bytes:
    """The line in a pilot's log behind what a task has printed, if it has printed anything."""
    return (
        f"cluster_tools: what is above this, from byte {log_offset} on, is task {task}'s\n".encode()
    )


def read_records(journal: bytes, *, final: bool) -> tuple[list[Record], int]:
    """The complete records at the beginning of `journal`, and how many bytes they are.

    `journal`: bytes of a part, from the beginning of a record on. Reading ends at a record that is
    incomplete or damaged, since NFS may show the rest of it later. `final`: nothing more will come;
    then such a record alone is skipped, and reading goes on with the next.
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
    kind = body[:1]
    if kind == _ENDED:  # most are this or the next
        _, task, log_begin, log_end, place, numbers = _ENDED_PARTS.unpack_from(body)
        return Ended(task, log_begin, log_end, place, numbers, body[_ENDED_BODY.size :])
    if kind == _BEGAN:
        _, task, log_offset, started_ns = _BEGAN_BODY.unpack(body)
        return Began(task, log_offset, started_ns)
    if kind == _SKIPPED:
        return Skipped(*_SKIPPED_BODY.unpack(body)[1:])
    return Continued()
