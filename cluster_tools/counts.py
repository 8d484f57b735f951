"""Checks of the numbers that callers give: the same words on every executor. Knows nothing else."""

from __future__ import annotations

import operator


def check_count(name: str, value: object) -> int | None:
    """`value` as an int, where it is None or a whole number of 1 or more.

    Arguments:
        name: The keyword that it came by.

    Raises:
        ValueError: It is something else. True is no number here: whoever gives it means a switch.
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
