"""Checks counts that callers give, with the same messages on every executor. Knows nothing else."""

from __future__ import annotations

import operator


def check_count(name: str, value: object) -> int | None:
    """`value` as an int; None if it is None.

    Arguments:
        name: The keyword, for messages.
        value: A whole number of 1 or more, or None.

    Raises:
        ValueError: It is something else, such as True, by which users mean a switch.
    """
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise ValueError(f"{name} must be an int of 1 or more, not {value!r}") from None
    if count < 1:
        raise ValueError(f"{name} must be greater than 0, not {count}")
    return count
