"""The names under which logs, messages and jobs speak of functions, types and exceptions.

What is asked for them is a user's own object, whose attributes may be anything, raise or lie: each of
these returns a text all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

_TYPE_NAME = vars(type)["__name__"]  # not asked of the class: its metaclass may have its own idea
_INNER_FUNCTION = vars(partial)["func"]
_MAX_PARTIALS = 100  # one may be its own inner function
_MAX_CHARACTERS = 200  # it is a part of log lines and of jobs' names


def function_name(fn: Callable[..., Any]) -> str:
    """`fn`'s own name, that of the inner function for a partial, or else that of its type."""
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
    """The name of the type that `value` has for the interpreter."""
    return _printable(_TYPE_NAME.__get__(type(value)))


def exception_text(exception: BaseException) -> str:
    """Its type and what it says, as in a traceback's last line."""
    name = type_name(exception)
    try:
        text = str.__str__(str(exception))
    except BaseException:  # its class may do anything in __str__
        return name
    return f"{name}: {text}" if text else name


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:_MAX_CHARACTERS])
