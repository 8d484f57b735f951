"""Reads where a caller wants an output kept: `__cfut_options`, and the getters of `map_to_futures`.

For all executors. Knows no stores and no futures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from cluster_tools.caller import warn_caller
from cluster_tools.function_name import type_name

_S = TypeVar("_S")


class CfutOptions(TypedDict, total=False):
    """`__cfut_options` of `submit`: exactly one of the two."""

    output_key: str
    output_pickle_path: str | os.PathLike[str]


def pop_output_key(kwargs: dict[str, Any]) -> str | None:
    """Removes `__cfut_options` from the keyword arguments of a `submit`.

    Returns:
        The key under which the call's output is to be kept; None where it is not to be kept.

    Raises:
        ValueError: The options name no key, or two.
    """
    if "__cfut_options" not in kwargs:
        return None
    options: CfutOptions = kwargs.pop("__cfut_options") or {}
    if not isinstance(options, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"__cfut_options is a dict, not {options!r}")
    key = options.get("output_key")
    path = options.get("output_pickle_path")
    name = path if key is None else key
    if (key is None) == (path is None) or not isinstance(name, (str, os.PathLike)) or not str(name):
        raise ValueError(
            "__cfut_options takes exactly one of output_key and output_pickle_path, a path or a "
            f"text, and was given {options!r}"
        )
    if key is not None:
        return _key(key)
    assert path is not None
    warn_caller(
        "the option output_pickle_path is now called output_key",
        DeprecationWarning,
    )
    return _key(path)


def resolve_output_key_getter(
    output_pickle_path_getter: Callable[[_S], str | os.PathLike[str]] | None,
    output_key_getter: Callable[[_S], str] | None,
) -> Callable[[_S], str] | None:
    """One getter for the two of `map_to_futures`.

    Returns:
        A function from an item to its key; None where outputs are not to be kept.

    Raises:
        ValueError: Both are given.
    """
    if output_key_getter is not None and output_pickle_path_getter is not None:
        raise ValueError("give output_key_getter or output_pickle_path_getter, not both")
    if output_pickle_path_getter is not None:
        warn_caller(
            "the argument output_pickle_path_getter is now called output_key_getter",
            DeprecationWarning,
        )
    getter = output_pickle_path_getter if output_key_getter is None else output_key_getter
    if getter is None:
        return None
    return lambda item: _key(getter(item))


def _key(named: str | os.PathLike[str]) -> str:
    """The key as a plain `str`. Raises: TypeError, where it is neither text nor path."""
    key: Any = os.fspath(named)
    if not issubclass(type(key), str):
        raise TypeError(f"an output's key is a text or a path, not {type_name(named)}")
    return str.__str__(key)
