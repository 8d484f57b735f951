"""Checks `job_resources`, and turns them into arguments of qsub.

See the manual page qsub(1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Options of qsub: those that users may give, and those that belong to the executor. Any other name
# is the name of a resource.
_OPTION_NAMES = "a A ac ar binding c ckpt dl h hold_jid jc js jsv l m M masterq p P pe q R w"
_OWNED_NAMES = """
@ adds b clear clearp clears C cwd dc display e hard help hold_jid_ad i inherit j
mods N noshell nostdin notify now o ot pty r rdi rou S sc shell soft sync t tc tcon terse u umask v
V verbose verify wd
"""
_OPTIONS, _OWNED = frozenset(_OPTION_NAMES.split()), frozenset(_OWNED_NAMES.split())
_MAKES_NO_JOB = ("v", "p")  # values of -w


def read_resources(resources: Mapping[str, Any]) -> list[str]:
    """Turns `{"h_vmem": "4G", "pe": "smp 4"}` into `-l h_vmem=4G -pe smp 4`.

    Raises: ValueError, for an option that belongs to the executor, for a value of `-w` with which
    qsub makes no job, and for text that is not exactly one line.
    """
    words: list[str] = []
    for key, value in resources.items():
        name, text = str(key).lstrip("-"), str(value)
        if not name or f"{name}{text}".splitlines() != [f"{name}{text}"]:
            raise ValueError(f"job_resources: {key!r}: {value!r} is not one line")
        if name in _OWNED:
            raise ValueError(
                f"job_resources: {key!r} is the option -{name} of qsub, which belongs to the "
                "executor"
            )
        if name == "w" and text in _MAKES_NO_JOB:
            raise ValueError(f"job_resources: {key!r}: with {text!r} qsub makes no job")
        if value is None or value is False:
            continue
        if name not in _OPTIONS:
            words += ["-l", f"{name}={'TRUE' if value is True else text}"]
        elif name == "h" and value is True:
            words.append("-h")
        else:
            words += [f"-{name}", *("y" if value is True else text).split()]
    return words


def seconds(time_limit: object) -> float | None:
    """The seconds of a time limit such as `3600` or `1:00:00`; else None, as for "INFINITY"."""
    parts = str(time_limit).split(":")
    if len(parts) not in (1, 3) or not all(part.isdigit() or not part for part in parts):
        return None
    number = 0
    for part in parts:
        number = number * 60 + int(part or 0)
    return number or None
