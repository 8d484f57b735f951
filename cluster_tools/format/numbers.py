"""Numbers in files: eight bytes each, little-endian. Without `struct`, whose import costs time."""

NUMBER_BYTES = 8


def pack_numbers(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in numbers)


def unpack_numbers(data: bytes) -> list[int]:
    return [
        int.from_bytes(data[i : i + NUMBER_BYTES], "little")
        for i in range(0, len(data), NUMBER_BYTES)
    ]
