"""Names of functions, types and exceptions, for logs, messages and jobs.

The objects are users' own: their attributes may have any value, or raise. Each function here
returns a text all the same. Knows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

_TYPE_NAME = vars(type)["__name__"]  # `cls.__name__` may be defined by a metaclass
_INNER_FUNCTION = vars(partial)["func"]
_MAX_PARTIALS = 100  # a partial may be its own inner function
_MAX_CHARACTERS = 200  # names are parts of log lines and of jobs' names


def function_name(fn: Callable[..., Any]) -> str:
    """The name of `fn`; of a partial, that of its inner function; if there is none, its type's."""
    named: Any = fn
    for _ in range(_MAX_PARTIALS):
        try:
            name: Any = named.__name__
        except Exception:
            name = None
        if issubclass(type(name), str) and str.__len__(name):
            return _printable(str.__str__(name))
        if not issubclass(type(named), partial):
            break
        named = _INNER_FUNCTION.__get__(named)
    return type_name(fn)


def type_name(value: object) -> str:
    """The name of the type of `value`, whatever its `__class__` says."""
    return _printable(_TYPE_NAME.__get__(type(value)))


def exception_text(exception: BaseException) -> str:
    """The exception's type and message, as in the last line of a traceback."""
    name = type_name(exception)
    try:
        text = str.__str__(str(exception))
    except BaseException:  # its class may do anything in __str__
        return name
    return f"{name}: {text}" if text else name


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:_MAX_CHARACTERS])
