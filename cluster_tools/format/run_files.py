"""The names of what lies in a run directory, and what its small files say.

Arrays, outputs and what pilots write have modules of their own.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# One directory lists at most this many tasks: a listing must stay cheap, also on NFS.
TASKS_PER_SHARD = 1_000
# In the run directory, where there is one: the pickled initializer and its arguments.
INITIALIZER = "initializer"
# The client's heartbeat, a file of four lines: its host, pid, boot id, and after how many seconds without
# a beat (its modification time) nobody is taken to wait for it any more.
HEARTBEAT = "client"


def shard_path(run_directory: str, task: int) -> str:
    return os.path.join(run_directory, str(task // TASKS_PER_SHARD))


def claim_name(task: int, submission: int, restart: int) -> str:
    return f"{task}.claim.{submission}.{restart}"


def is_claim(name: str) -> bool:
    return ".claim." in name


def output_name(task: int) -> str:
    return f"{task}.output"


def interrupted_name(task: int) -> str:
    """A failure that was written after a signal: it counts only if the element does not run again."""
    return f"{task}.interrupted"


def task_of(name: str) -> int | None:
    """The task that an entry of a shard belongs to."""
    number = name.partition(".")[0]
    return int(number) if number.isdigit() else None


# Made by the client before it interrupts what runs: nobody wants what comes of it.
STOPPED = "stopped"


def over_path(shard: str) -> str:
    """A file of lines, `<task> <why>`, made by the client: whoever has not begun this task must not begin it."""
    return os.path.join(shard, "over")


def closed_name(task: int, submission: int) -> str:
    """Made by the client: this task goes in again, and whoever has not started it before must not."""
    return f"{task}.closed.{submission}"


def left_name(task: int, submission: int) -> str:
    """Made by a worker: it has not begun this task, since nobody seemed to wait for it."""
    return f"{task}.left.{submission}"


def over_lines(tasks: Collection[int], why: str) -> str:
    """What is appended to that file."""
    # Before each line, too: what a full disk has cut off is no other task's number.
    return "".join(f"\n{task} {why}" for task in tasks)


def why_over(lines: Iterable[str], task: int) -> str:
    """Empty where none of them is of this task."""
    return next(
        (line.partition(" ")[2] for line in lines if line.startswith(f"{task} ")), ""
    ).strip()


def heartbeat(host: str, pid: int, boot_id: str, timeout_s: float | None) -> str:
    return "".join(f"{line}\n" for line in (host, pid, boot_id, timeout_s))


def read_heartbeat(text: str) -> tuple[str, str, float]:
    """(host, pid, timeout in seconds). Raises: ValueError, where it is not whole or has no timeout."""
    host, pid, _, timeout = text.splitlines()
    return host, pid, float(timeout)


def claim_numbers(name: str, task: int) -> list[int] | None:
    """[submission, restart] of a claim of this task; None of any other name."""
    prefix = f"{task}.claim."
    return (
        [int(part) for part in name.removeprefix(prefix).split(".")]
        if name.startswith(prefix)
        else None
    )


def pack_tasks(tasks: Iterable[int]) -> str:
    """Task numbers, ascending, as a worker is told them: "7-9,12"."""
    if isinstance(tasks, range):
        return f"{tasks[0]}-{tasks[-1]}"
    ranges: list[tuple[int, int]] = []
    for task in tasks:
        if ranges and task == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], task)
        else:
            ranges.append((task, task))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def task_at(packed: str, index: int) -> int:
    """The task of the element with this index. Raises: ValueError."""
    for part in packed.split(","):
        first, _, last = part.partition("-")
        task = int(first) + index
        if task <= int(last or first):
            return task
        index = task - int(last or first) - 1
    raise ValueError(f"there are fewer tasks than elements: {packed}")
