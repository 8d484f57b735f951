"""Runs Grid Engine's commands, and reads what they print about the queue.

This module knows text and processes, but no arrays, tasks or executors. See the manual pages
qsub(1), qstat(1) and qdel(1).
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from cluster_tools.schedulers import commands
from cluster_tools.schedulers.base import (
    Element,
    Refused,
    RefusedForCount,
    RefusedForSize,
    SchedulerError,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.commands import CommandFailed

# Longer than two minutes, after which qsub itself gives up a qmaster that hangs.
QSUB_TIMEOUT_S = 180.0
_QUERY_TIMEOUT_S = 60.0

_UNREACHABLE_WORDS = re.compile(
    r"commlib error|unable to (?:send message to|contact) qmaster|can't connect to service"
    r"|got (?:send|read|select) error",
    re.IGNORECASE,
)
_CERTAIN_WORDS = re.compile(r"connection refused|can't resolve", re.IGNORECASE)
# The exit code of qsub if max_u_jobs or max_jobs is reached.
_EXIT_COUNT = 25


def run(*command: str, stdin: str = "", timeout_s: float | None = None) -> str:
    """Runs a command and returns what it prints to stdout.

    `timeout_s`: default: 60 seconds. Raises: Unreachable; CommandFailed.
    """
    try:
        return commands.run(
            command,
            stdin=stdin,
            timeout_s=timeout_s or _QUERY_TIMEOUT_S,
            environment={**os.environ, "LC_ALL": "C", "SGE_SINGLE_LINE": "1"},
            where_missing="is Grid Engine installed here, and its settings.sh read?",
        )
    except CommandFailed as exc:
        if _UNREACHABLE_WORDS.search(str(exc)):
            raise Unreachable(str(exc)) from exc
        raise


def refusal(error: SchedulerError, command: Sequence[str]) -> SchedulerError:
    """Returns the exception that `submit` raises after qsub has failed with `error`."""
    words = str(error)
    if isinstance(error, Unreachable):
        return error if _CERTAIN_WORDS.search(words) else Uncertain(words)
    if isinstance(error, CommandFailed) and error.exit_code == _EXIT_COUNT:
        return RefusedForCount(words)
    if "job with more than" in words:
        return RefusedForSize(words)
    return Refused(f"qsub says: {words}\nThe command was: {shlex.join(command)}")


@dataclass(frozen=True)
class QueueRow:
    """A row of `qstat -xml`: one element that runs, or several elements of a job that wait."""

    job_id: str
    name: str
    state: str
    # Task ids as "9-12:1,15"; None if the job is no array.
    tasks: str | None

    def elements(self) -> Iterator[Element]:
        """Yields the elements of this row. Their index is the task id less one."""
        if self.tasks is None:
            yield Element(self.job_id)
            return
        for first, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", self.tasks):
            for task in range(int(first), int(last or first) + 1, int(step or 1)):
                yield Element(self.job_id, task - 1)


def queue_rows(xml: str) -> list[QueueRow]:
    """The rows in the output of `qstat -xml`. Raises: Unreachable, if it is no list of jobs."""
    try:
        jobs = ET.fromstring(xml).iter("job_list")
    except ET.ParseError as exc:
        raise Unreachable(f"qstat printed no list of jobs: {exc}") from exc
    return [
        QueueRow(
            job.findtext("JB_job_number", ""),
            job.findtext("JB_name", ""),
            job.findtext("state", ""),
            job.findtext("tasks"),
        )
        for job in jobs
    ]


def queue() -> list[QueueRow]:
    """The rows of this user's jobs that have not ended. Raises: Unreachable."""
    try:
        return queue_rows(run("qstat", "-u", pwd.getpwuid(os.geteuid()).pw_name, "-xml"))
    except CommandFailed as exc:
        raise Unreachable(str(exc)) from exc


def script_name(token: str) -> str:
    """The file name of the job's script of the array with this token."""
    return f"{token}.job"


def is_of(name: str, token: str) -> bool:
    """Whether a job has this token, by its name or by the name of its script.

    `token`: of an array, or of an executor, with which the tokens of its arrays begin.
    """
    return f".{token}." in f".{name}."


def is_of_script(job_id: str, token: str) -> bool:
    """Whether a job has this token, by the path of its script.

    A job's name can be changed with qalter, the path of its script can't.
    Raises: Unreachable.
    """
    try:
        described = run("qstat", "-j", job_id)
    except CommandFailed:  # the job has ended
        return False
    path = re.search(r"^script_file:\s*(.*)", described, re.MULTILINE)
    return path is not None and is_of(os.path.basename(path.group(1).strip()), token)


def error_reason(job_id: str) -> str:
    """Why the job is in the error state (E); "" if that can't be found out."""
    try:
        described = run("qstat", "-j", job_id)
    except SchedulerError:
        return ""
    reason = re.search(r"^error reason\s+\d+:\s*(.*)", described, re.MULTILINE)
    return reason.group(1).strip() if reason else ""


def jobs_of(token: str, known: Collection[str]) -> Collection[str]:
    """The ids of an executor's jobs in the queue.

    `token`: the executor's. `known`: the job ids that it knows; of these, a job whose name was
    changed is found, too.
    Raises: Unreachable.
    """
    names = {row.job_id: row.name for row in queue()}
    ours = {job_id for job_id, name in names.items() if is_of(name, token)}
    unclear = (names.keys() & known) - ours
    return ours | {job_id for job_id in unclear if is_of_script(job_id, token)}


def delete(ids: Sequence[str]) -> None:
    """Deletes jobs or elements; ignores those that have ended. Raises: Unreachable."""
    try:
        run("qdel", *ids)
    except CommandFailed:  # qdel also fails if some of them have ended
        pass
