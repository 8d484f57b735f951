"""Output files, one for each task: output | record | footer.

The output is what the call gave, pickled (README, "Outputs"); the record is a pickled dict that
says where and when the call ran; the footer has the lengths of both.
"""

from __future__ import annotations

import sys

from cluster_tools.format.numbers import NUMBER_BYTES, pack_numbers, unpack_numbers

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    from cluster_tools.format.measured import OutputRecord

_MAGIC = b"CToutpt1"
FOOTER_BYTES = 2 * NUMBER_BYTES + len(_MAGIC)
DIGEST_BYTES = 32


def encode_footer(output_bytes: int, record_bytes: int) -> bytes:
    """`output_bytes`, `record_bytes`: lengths of the output and of the record."""
    return pack_numbers(output_bytes, record_bytes) + _MAGIC


def decode_footer(data: bytes, file_bytes: int) -> list[int]:
    """`[output_bytes, record_bytes]`.

    `data`: the last `FOOTER_BYTES` of a file of `file_bytes`. Raises: ValueError, where they are
    not the end of an output file of this size.
    """
    if len(data) != FOOTER_BYTES or not data.endswith(_MAGIC):
        raise ValueError(f"is cut short at {file_bytes} bytes")
    lengths = unpack_numbers(data[: -len(_MAGIC)])
    if sum(lengths) + FOOTER_BYTES != file_bytes:
        raise ValueError(f"has {file_bytes} bytes, not what it should have")
    return lengths


# Before digest and node in a record: the numbers of `measured`, attempt, length of the digest.
_RECORD_NUMBERS = 6


def encode_record(
    node: str, used: tuple[int, int, int, int], attempt: int, stored: bytes | None
) -> bytes:
    """An OutputRecord. `used`: the numbers of `measured`. `node` may be no UTF-8."""
    numbers = pack_numbers(*used, attempt, len(stored or b""))
    return numbers + (stored or b"") + node.encode("utf-8", "surrogateescape")


def decode_record(data: bytes) -> OutputRecord:
    """Raises: ValueError, where it is no record."""
    from cluster_tools.format.measured import NUMBERS_BYTES, OutputRecord

    begin = _RECORD_NUMBERS * NUMBER_BYTES
    if len(data) < begin:
        raise ValueError(f"has a record of {len(data)} bytes")
    *_, attempt, stored_bytes = unpack_numbers(data[:begin])
    end = begin + stored_bytes
    if stored_bytes not in (0, DIGEST_BYTES) or len(data) < end:
        raise ValueError("has a record that is damaged")
    node = sys.intern(data[end:].decode("utf-8", "surrogateescape"))
    return OutputRecord(data[begin:end] or None, attempt, node, data[:NUMBERS_BYTES])


def digest(output: bytes) -> bytes:
    """A hash, by which the client knows that an output in the store is what the call wrote."""
    try:
        from _blake2 import blake2b  # imported in a tenth of the time that hashlib takes
    except ImportError:
        from hashlib import blake2b

    return blake2b(output, digest_size=DIGEST_BYTES).digest()
