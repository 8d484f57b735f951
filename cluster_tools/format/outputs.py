"""Output files: output | record | footer."""

from __future__ import annotations

from cluster_tools.format.numbers import NUMBER_BYTES, pack_numbers, unpack_numbers

_MAGIC = b"CToutpt1"
FOOTER_BYTES = 2 * NUMBER_BYTES + len(_MAGIC)


def encode_footer(output_bytes: int, record_bytes: int) -> bytes:
    return pack_numbers(output_bytes, record_bytes) + _MAGIC


def decode_footer(data: bytes, file_bytes: int) -> list[int]:
    """How long output and record are. Raises: ValueError, where the file of this length does not end so."""
    if len(data) != FOOTER_BYTES or not data.endswith(_MAGIC):
        raise ValueError(f"is cut short at {file_bytes} bytes")
    lengths = unpack_numbers(data[: -len(_MAGIC)])
    if sum(lengths) + FOOTER_BYTES != file_bytes:
        raise ValueError(f"has {file_bytes} bytes, not what it should have")
    return lengths


def digest(output: bytes) -> bytes:
    """By this a kept output is known to be the one that the call wrote: no other has the same."""
    try:
        from _blake2 import blake2b  # the part of hashlib that is needed, in a tenth of the time
    except ImportError:
        from hashlib import blake2b

    return blake2b(output, digest_size=32).digest()
