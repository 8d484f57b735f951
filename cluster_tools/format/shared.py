"""Files of shared values, one for each: buffers | pickle | index | footer.

The pickle is of protocol 5, and its buffers (the memory of arrays) lie beside it, each at a
multiple of 64 bytes, so that a process can map the file and use them where they are. The index has
two numbers for each buffer, in the pickle's order: its offset and its length.
"""

from __future__ import annotations

from cluster_tools.format.numbers import NUMBER_BYTES, pack_numbers, unpack_numbers

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAGIC = b"CTshare1"
# As NumPy and Arrow want it: a cache line, and the widest vector registers.
BUFFER_ALIGNMENT = 64
_ROW_NUMBERS = 2
ROW_BYTES = _ROW_NUMBERS * NUMBER_BYTES
FOOTER_BYTES = 3 * NUMBER_BYTES + len(_MAGIC)


def encode(pickled: Sequence[bytes], buffers: Sequence[memoryview]) -> Iterator[bytes | memoryview]:
    """Yields the parts of a file, in their order.

    `pickled`: the pickle, in fragments. `buffers`: of bytes, contiguous.
    """
    offset = 0
    rows: list[int] = []
    for buffer in buffers:
        padding = -offset % BUFFER_ALIGNMENT
        if padding:
            yield bytes(padding)
        offset += padding
        rows += (offset, buffer.nbytes)
        yield buffer
        offset += buffer.nbytes
    yield from pickled
    pickle_bytes = sum(map(len, pickled))
    footer = pack_numbers(offset, pickle_bytes, len(buffers)) + _MAGIC
    yield pack_numbers(*rows) + footer


def decode_footer(data: bytes, file_bytes: int) -> tuple[int, int]:
    """(offset of the pickle, number of buffers).

    `data`: the last `FOOTER_BYTES` of a file of `file_bytes`. Raises: ValueError, where they are
    not the end of such a file of this size.
    """
    if len(data) != FOOTER_BYTES or not data.endswith(_MAGIC):
        raise ValueError(f"is cut short at {file_bytes} bytes")
    offset, pickle_bytes, count = unpack_numbers(data[: -len(_MAGIC)])
    if offset + pickle_bytes + count * ROW_BYTES + FOOTER_BYTES != file_bytes:
        raise ValueError(f"has {file_bytes} bytes, not what it should have")
    return offset, count


def decode_index(data: bytes, end: int) -> list[tuple[int, int]]:
    """(offset, length) of each buffer. `end`: where the last one ends. Raises: ValueError."""
    numbers = unpack_numbers(data)
    places = list(zip(numbers[::2], numbers[1::2]))
    if any(offset + length > end for offset, length in places):
        raise ValueError("has a buffer that ends behind them all")
    return places
