"""The names of the files in a run directory, and the contents of the small ones.

`cluster_tools.cluster.run_directory` draws the directory; arrays, outputs and what pilots write
have modules of their own. A shard is a directory with the files of a thousand tasks. A submission
of a task is one time that it goes to the scheduler: the first is 0, and it may go in again. A
restart is the scheduler's own: it runs the same element again, as restart 1, 2, and so on.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# One directory lists at most this many tasks: a listing must stay cheap, also on NFS.
TASKS_PER_SHARD = 1_000
# The pickled initializer and its arguments, where the executor has one.
INITIALIZER = "initializer"
# A directory with a file for each value of `executor.share`: see `cluster_tools.format.shared`.
SHARED = "shared"
# The client's heartbeat, a file of four lines: host, pid, boot id, and a timeout in seconds. The
# client sets its modification time again and again; once that is older than the timeout, jobs take
# it that nobody waits for them.
HEARTBEAT = "client"


def shard_path(run_directory: str, task: int) -> str:
    """The directory of this task's claims and outputs."""
    return os.path.join(run_directory, str(task // TASKS_PER_SHARD))


def claim_name(task: int, submission: int, restart: int) -> str:
    """The claim of an attempt: made exclusively by the worker before it runs the call."""
    return f"{task}.claim.{submission}.{restart}"


def is_claim(name: str) -> bool:
    return ".claim." in name


def output_name(task: int) -> str:
    """The task's output file."""
    return f"{task}.output"


def interrupted_name(task: int) -> str:
    """A failure that was written after a signal: counts only if the element does not run again."""
    return f"{task}.interrupted"


def task_of(name: str) -> int | None:
    """The task that a file of a shard belongs to; None of `over`."""
    number = name.partition(".")[0]
    return int(number) if number.isdigit() else None


# Made by the client before it interrupts what runs: nobody wants the outputs any more.
STOPPED = "stopped"


def over_path(shard: str) -> str:
    """The client's note of tasks that must not begin any more: lines of `<task> <why>`."""
    return os.path.join(shard, "over")


def closed_name(task: int, submission: int) -> str:
    """The client's note that the task goes in again: attempts of this submission must not begin."""
    return f"{task}.closed.{submission}"


def left_name(task: int, submission: int) -> str:
    """A worker's note that it has not begun this task, since nobody seemed to wait for it."""
    return f"{task}.left.{submission}"


def over_lines(tasks: Collection[int], why: str) -> str:
    """What to append to the file of `over_path`."""
    # A line end before each, too: a line that a full disk has cut off
    # must not become another task's.
    return "".join(f"\n{task} {why}" for task in tasks)


def why_over(lines: Iterable[str], task: int) -> str:
    """Why this task must not begin, by lines of the file of `over_path`; "" where none is of it."""
    return next(
        (line.partition(" ")[2] for line in lines if line.startswith(f"{task} ")), ""
    ).strip()


def heartbeat(host: str, pid: int, boot_id: str, timeout_s: float | None) -> str:
    """The contents of HEARTBEAT. `timeout_s`: None: jobs never take it that nobody waits."""
    return "".join(f"{line}\n" for line in (host, pid, boot_id, timeout_s))


def read_heartbeat(text: str) -> tuple[str, str, float]:
    """(host, pid, timeout in seconds). Raises: ValueError, where something is missing."""
    host, pid, _, timeout = text.splitlines()
    return host, pid, float(timeout)


def claim_numbers(name: str, task: int) -> list[int] | None:
    """[submission, restart] of a claim of this task; None of any other file."""
    prefix = f"{task}.claim."
    return (
        [int(part) for part in name.removeprefix(prefix).split(".")]
        if name.startswith(prefix)
        else None
    )


def pack_tasks(tasks: Iterable[int]) -> str:
    """Ascending task numbers as text, for a worker's command line: "7-9,12"."""
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
