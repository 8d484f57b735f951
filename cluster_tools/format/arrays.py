"""Array files: blobs | index, a row of six numbers a task | manifest | footer."""

from __future__ import annotations

from cluster_tools.format.numbers import NUMBER_BYTES, pack_numbers, unpack_numbers

_MAGIC = b"CTarray1"
ROW_NUMBERS = 6  # offset and length of: function, call, output key
ROW_BYTES = ROW_NUMBERS * NUMBER_BYTES
_FOOTER_NUMBERS = 4
FOOTER_BYTES = _FOOTER_NUMBERS * NUMBER_BYTES + len(_MAGIC)


def encode_footer(index: int, count: int, manifest: int, first: int) -> bytes:
    """Offset of the index, number of tasks, offset of the manifest, number of the first task."""
    return pack_numbers(index, count, manifest, first) + _MAGIC


def decode_footer(data: bytes) -> list[int] | None:
    """The same; None of what does not end an array file."""
    whole = len(data) == FOOTER_BYTES and data.endswith(_MAGIC)
    return unpack_numbers(data[: -len(_MAGIC)]) if whole else None


def encode_key(key: str) -> bytes:
    """A key of the output store; it may be a path that is no UTF-8."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
