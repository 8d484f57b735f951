"""Array files, one for each array: pickles and keys | index | manifest | footer.

The index has a row of six numbers for each task: where its function, its arguments and its key for
the output store lie. The manifest is a pickled dict of what all tasks of the array share.
"""

from __future__ import annotations

from cluster_tools.format.numbers import NUMBER_BYTES, pack_numbers, unpack_numbers

_MAGIC = b"CTarray1"
# Of each task: offset and length of its function, of its arguments and of its key, in bytes.
ROW_NUMBERS = 6
ROW_BYTES = ROW_NUMBERS * NUMBER_BYTES
_FOOTER_NUMBERS = 4
FOOTER_BYTES = _FOOTER_NUMBERS * NUMBER_BYTES + len(_MAGIC)


def encode_footer(index: int, count: int, manifest: int, first: int) -> bytes:
    """`index`, `manifest`: their offsets; `count`: of tasks; `first`: number of the first task."""
    return pack_numbers(index, count, manifest, first) + _MAGIC


def decode_footer(data: bytes) -> list[int] | None:
    """`[index, count, manifest, first]` as above; None where this does not end an array file."""
    whole = len(data) == FOOTER_BYTES and data.endswith(_MAGIC)
    return unpack_numbers(data[: -len(_MAGIC)]) if whole else None


def encode_key(key: str) -> bytes:
    """A key of the output store as bytes; it may be a path that is not UTF-8."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
