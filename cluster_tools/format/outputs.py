"""Output files, one for each task: output | record | footer.

The output is what the call gave, pickled (README, "Outputs"); the record is a pickled dict that
says where and when the call ran; the footer has the lengths of both.
"""

from __future__ import annotations

from cluster_tools.format.numbers import NUMBER_BYTES, pack_numbers, unpack_numbers

_MAGIC = b"CToutpt1"
FOOTER_BYTES = 2 * NUMBER_BYTES + len(_MAGIC)


def encode_footer(output_bytes: int, record_bytes: int) -> bytes:
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


def digest(output: bytes) -> bytes:
    """A hash, by which the client knows that an output in the store is what the call wrote."""
    try:
        from _blake2 import blake2b  # imported in a tenth of the time that hashlib takes
    except ImportError:
        from hashlib import blake2b

    return blake2b(output, digest_size=32).digest()
