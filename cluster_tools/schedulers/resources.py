"""Reads `job_resources` for queueing systems whose submit command has options with short names.

This module knows text and no system: which names belong to the executor is a table of the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def requested(
    resources: Mapping[str, Any],
    *,
    command: str,
    owned: Collection[str],
    makes_no_job: Mapping[str, Collection[str]] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yields names and values of `job_resources`, without those that are False or None.

    Names are yielded without the dashes at their beginning.

    Arguments:
        command: The submit command, for messages.
        owned: Its options that belong to the executor.
        makes_no_job: Option -> those of its values with which the command makes no job.

    Raises: ValueError, for an option that belongs to the executor, for a value with which the
    command makes no job, and for text that is not exactly one line.
    """
    for key, value in resources.items():
        name, text = str(key).lstrip("-"), str(value)
        if not name or f"{name}{text}".splitlines() != [f"{name}{text}"]:
            raise ValueError(f"job_resources: {key!r}: {value!r} is not one line")
        if name in owned:
            raise ValueError(
                f"job_resources: {key!r} is the option -{name} of {command}, which belongs to the "
                "executor"
            )
        if text in (makes_no_job or {}).get(name, ()):
            raise ValueError(f"job_resources: {key!r}: with {text!r} {command} makes no job")
        if value is not None and value is not False:
            yield name, value


def seconds(time_limit: object) -> float | None:
    """The seconds of a time limit such as `3600` or `1:00:00`; else None, as for "INFINITY"."""
    parts = str(time_limit).split(":")
    if len(parts) not in (1, 3) or not all(part.isdigit() or not part for part in parts):
        return None
    number = 0
    for part in parts:
        number = number * 60 + int(part or 0)
    return number or None
