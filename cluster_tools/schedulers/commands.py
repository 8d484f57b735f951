"""Runs the commands of schedulers, each with a time limit.

This module knows processes and text, and no scheduler.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from cluster_tools.schedulers import exit_status
from cluster_tools.schedulers.base import SchedulerError, Unreachable
from cluster_tools.schedulers.script import encoded


class CommandFailed(SchedulerError):
    """A command has answered with an error. `exit_code`: None if it could not be started."""

    def __init__(self, words: str, exit_code: int | None = None):
        super().__init__(words)
        self.exit_code = exit_code


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    timeout_s: float,
    where_missing: str,
    stdin: str = "",
    umask: int = -1,
) -> str:
    """Runs a command and returns what it prints to stdout.

    Arguments:
        timeout_s: After so many seconds the command is killed.
        where_missing: The end of the message if there is no such command: what to check.
        umask: The umask of the command; -1: that of this process.

    Raises: Unreachable, if the command can't run or is ended before it answers; CommandFailed, with
    the command's own message, if it ends with an exit code above 0 or does not exist.
    """
    try:
        done = exit_status.run(
            [encoded(word) for word in command],
            input=encoded(stdin),
            capture_output=True,
            timeout=timeout_s,
            env=environment,
            umask=umask,
            start_new_session=True,  # Ctrl-C at the terminal must not end the command
        )
    except subprocess.TimeoutExpired as exc:
        raise Unreachable(f"{command[0]} did not answer within {timeout_s} s") from exc
    except FileNotFoundError as exc:
        raise CommandFailed(f"there is no command {command[0]} on PATH: {where_missing}") from exc
    except OSError as exc:
        raise Unreachable(f"{command[0]} could not be run: {exc}") from exc
    stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    if done.returncode < 0:
        raise Unreachable(f"{command[0]} was ended by signal {-done.returncode}")
    if done.returncode:
        words = stderr.strip() or stdout.strip() or f"exit code {done.returncode}"
        raise CommandFailed(words, done.returncode)
    return stdout


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Groups consecutive numbers as (first, last): 0, 1, 2, 3, 7 becomes (0, 3), (7, 7)."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def read_ranges(text: str, *, first: int = 0) -> list[range]:
    """Reads numbers such as "9-12,15" or, with a step, "1-9:2", as ranges of indexes from 0.

    `first`: the number whose index is 0.
    """
    return [
        range(int(start) - first, int(last or start) - first + 1, int(step or 1))
        for start, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", text)
    ]
