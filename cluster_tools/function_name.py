"""The name under which logs, messages and jobs speak of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast


def function_name(fn: Callable[..., Any]) -> str:
    """`fn`'s own name, that of the inner function for a partial, or else that of its type."""
    while not hasattr(fn, "__name__") and hasattr(fn, "func"):
        fn = cast("Callable[..., Any]", cast(Any, fn).func)
    return str(getattr(fn, "__name__", type(fn).__name__))
