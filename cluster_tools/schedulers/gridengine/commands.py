"""Grid Engine's commands: running them, and reading what they print of the queue.

Knows text and processes, nothing of arrays, tasks or executors. See the manual pages qsub(1),
qstat(1), qdel(1).
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

# qsub gives up a master that hangs after two minutes, by itself.
QSUB_TIMEOUT_S = 180.0
_QUERY_TIMEOUT_S = 60.0

_UNREACHABLE_WORDS = re.compile(
    r"commlib error|unable to (?:send message to|contact) qmaster|can't connect to service"
    r"|got (?:send|read|select) error",
    re.IGNORECASE,
)
_CERTAIN_WORDS = re.compile(r"connection refused|can't resolve", re.IGNORECASE)
# The exit code of qsub where max_u_jobs or max_jobs is reached.
_EXIT_COUNT = 25


def run(*command: str, stdin: str = "", timeout_s: float | None = None) -> str:
    """Raises: Unreachable, CommandFailed."""
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
    """What it means for the array that qsub has failed."""
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
    """A row of `qstat -xml`: a running element, or all of a job that wait in the same state."""

    job_id: str
    name: str
    state: str
    # "9-12:1,15"; None where the job is no array.
    tasks: str | None

    def elements(self) -> Iterator[Element]:
        if self.tasks is None:
            yield Element(self.job_id)
            return
        for first, last, step in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", self.tasks):
            for task in range(int(first), int(last or first) + 1, int(step or 1)):
                yield Element(self.job_id, task - 1)


def queue_rows(xml: str) -> list[QueueRow]:
    """Raises: Unreachable, where it is no list of jobs."""
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
    """Our user's jobs that have not ended. Raises: Unreachable."""
    try:
        return queue_rows(run("qstat", "-u", pwd.getpwuid(os.geteuid()).pw_name, "-xml"))
    except CommandFailed as exc:
        raise Unreachable(str(exc)) from exc


def script_name(token: str) -> str:
    """The name of the file that qsub is given as the script of an array of this token."""
    return f"{token}.job"


def is_of(name: str, token: str) -> bool:
    """Whether this is the name of a job, or of its script, of this token: an array's, or an
    executor's.
    """
    return f".{token}." in f".{name}."


def is_of_script(job_id: str, token: str) -> bool:
    """The same of a job whose name was changed: nobody can change the path of its script.

    Raises: Unreachable.
    """
    try:
        described = run("qstat", "-j", job_id)
    except CommandFailed:  # it has ended
        return False
    path = re.search(r"^script_file:\s*(.*)", described, re.MULTILINE)
    return path is not None and is_of(os.path.basename(path.group(1).strip()), token)


def error_reason(job_id: str) -> str:
    try:
        described = run("qstat", "-j", job_id)
    except SchedulerError:
        return ""
    reason = re.search(r"^error reason\s+\d+:\s*(.*)", described, re.MULTILINE)
    return reason.group(1).strip() if reason else ""


def jobs_of(token: str, known: Collection[str]) -> Collection[str]:
    """The ids of an executor's jobs in the queue; `known`: those that it knows.

    Raises: Unreachable.
    """
    names = {row.job_id: row.name for row in queue()}
    ours = {job_id for job_id, name in names.items() if is_of(name, token)}
    unclear = (names.keys() & known) - ours
    return ours | {job_id for job_id in unclear if is_of_script(job_id, token)}


def delete(ids: Sequence[str]) -> None:
    """Raises: Unreachable."""
    try:
        run("qdel", *ids)
    except CommandFailed:  # also said where some of them have ended
        pass
