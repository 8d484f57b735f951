"""What a job has measured of a call, as output files and journals carry it.

    four numbers of eight bytes: start and end in nanoseconds since the epoch, by the node's clock;
    CPU time in nanoseconds; peak memory in bytes

The client keeps these as they came, a few bytes for each of 100,000 calls, and reads them when
somebody asks.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_NUMBERS = struct.Struct("<4Q")
NUMBERS_BYTES = _NUMBERS.size
NS_PER_S = 1_000_000_000


class Measured(NamedTuple):
    """What a job, or a worker of a pool, has measured of a call."""

    node: str
    # Seconds since the epoch, by the node's clock.
    started_at: float
    ended_at: float
    # User and system time of the process, and of children it has waited for, during the call.
    cpu_s: float
    # The greatest resident set of the process until the end of the call; None where not known.
    peak_memory_bytes: int | None


class OutputRecord(NamedTuple):
    """What stands behind the output in its file."""

    # The outputs.digest of an output that is in the store; None where it is in the file.
    stored: bytes | None
    # Which run of the task this was, from 1.
    attempt: int
    node: str
    # For `read_measured`.
    measured: bytes


def pack_measured(used: tuple[int, int, int, int]) -> bytes:
    """`used`: the four numbers, as a `usage.Meter` gives them."""
    return _NUMBERS.pack(*used)


def read_measured(node: str, numbers: bytes) -> Measured:
    """Raises: struct.error, where those are not NUMBERS_BYTES bytes."""
    return measured(node, _NUMBERS.unpack(numbers))


def measured(node: str, used: tuple[int, ...]) -> Measured:
    """`used`: the four numbers."""
    started_ns, ended_ns, cpu_ns, peak = used
    return Measured(
        node, started_ns / NS_PER_S, ended_ns / NS_PER_S, cpu_ns / NS_PER_S, peak or None
    )
