"""Runs Slurm's command-line tools and reads what they print.

Knows text and processes, nothing of tasks or executors.
https://slurm.schedmd.com/man_index.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cluster_tools.schedulers import commands
from cluster_tools.schedulers.base import (
    Refused,
    RefusedForCount,
    RefusedForSize,
    SchedulerError,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.commands import CommandFailed

# sbatch itself retries for two minutes while slurmctld's job table is full.
SBATCH_TIMEOUT_S = 180
# Time limit of all other commands: a busy slurmctld may take tens of seconds.
QUERY_TIMEOUT_S = 60
# How many characters of what a command printed a message quotes.
_MAX_QUOTE = 200

# Prefixes of variables that would change what the tools print, or on which jobs they act.
_TOOL_PREFIXES = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
# Inside a job only these SLURM_ variables say which cluster to use; the others describe that job.
_KEPT_IN_A_JOB = {
    "SLURM_CONF",
    "SLURM_JWT",
    "SLURM_CLUSTERS",
    "SLURM_MAX_ARRAY_SIZE",
    "SLURM_MAX_SUBMIT_JOBS",
    "SLURM_MAX_RUNNING_SIZE",
}
# Variables that would set options of the executor's own, not all of which are on the command line.
_SBATCH_OWNED = {
    "SBATCH_ARRAY_INX",
    "SBATCH_CLUSTERS",
    "SBATCH_ERROR",
    "SBATCH_OUTPUT",
    "SBATCH_INPUT",
    "SBATCH_OPEN_MODE",
    "SBATCH_WAIT",
    "SBATCH_WAIT_ALL_NODES",
    "SBATCH_JOB_NAME",
    "SBATCH_IGNORE_PBS",
    "SLURM_CPU_BIND",  # "Unable to satisfy cpu bind request" when submitted from inside a job
    "SLURM_CPU_BIND_LIST",
    "SLURM_CPU_BIND_TYPE",
    "SLURM_CPU_BIND_VERBOSE",
}


def _environment(command: str) -> dict[str, str]:
    """The environment of one of Slurm's commands: ours without what would change its meaning."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_TOOL_PREFIXES)
    }
    if "SLURM_JOB_ID" in environment:
        environment = {
            name: value
            for name, value in environment.items()
            if not name.startswith("SLURM_") or name in _KEPT_IN_A_JOB
        }
    if command == "sbatch":  # the job inherits this environment, so the user's locale stays
        return {name: value for name, value in environment.items() if name not in _SBATCH_OWNED}
    environment["LC_ALL"] = "C"
    environment["SLURM_BITSTR_LEN"] = "0"  # lists of indexes are not cut
    environment["SLURM_TIME_FORMAT"] = "standard"
    return environment


def run(
    command: Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float | None = None,
    variables: Mapping[str, str] | None = None,
    umask: int = -1,
) -> str:
    """Runs one of Slurm's commands and returns what it prints to stdout.

    `timeout_s`: its time limit; None: `QUERY_TIMEOUT_S`. `variables`: added to its environment.
    `umask`: the command's; -1: ours.
    Raises: Unreachable, where it was ended before it answered; CommandFailed, with what it printed.
    """
    return commands.run(
        command,
        stdin=stdin,
        timeout_s=QUERY_TIMEOUT_S if timeout_s is None else timeout_s,
        environment={**_environment(command[0]), **(variables or {})},
        umask=umask,
        where_missing="is Slurm installed on this machine, and its module loaded?",
    )


def query(*command: str) -> str:
    """`run` for a command that may be run twice. Raises: Unreachable, CommandFailed."""
    try:
        return run(command)
    except CommandFailed as exc:
        if _CONNECTION_WORDS.search(str(exc)):
            raise Unreachable(str(exc)) from exc
        raise


# Words of error messages after which the command can be tried again.
_CONNECTION_WORDS = re.compile(
    r"unable to contact slurm controller|connect failure|connection refused|standby mode"
    r"|unable to establish (?:controller|configuration)|no route to host"
    r"|could not establish a configuration source|timed out|zero bytes were transmitted"
    r"|communication|slurmdbd|connection reset|unexpected message|resolve_ctls",
    re.IGNORECASE,
)
# Words after which slurmctld may have received the request.
_UNCERTAIN_WORDS = re.compile(
    r"timed out|zero bytes were transmitted|connection reset|unexpected message"
    r"|communications? (?:shutdown|failure|error)",
    re.IGNORECASE,
)
# Words that say that too many elements are in the queue. They stand on the line before
# "Job violates accounting/QOS policy".
_COUNT_WORDS = re.compile(
    r"\b(?:Assoc|QOS|Acct|Partition)?(?:Max|Grp)Submit\w*|temporarily unable to accept job"
    r"|slurm_submit_batch_job: Resource temporarily unavailable",
)
# Words that say that the array has too many elements.
_SIZE_WORDS = re.compile(r"Invalid job array specification|max_array_tasks", re.IGNORECASE)


def refusal(words: str) -> SchedulerError:
    """The exception for an error message of sbatch's."""
    if _COUNT_WORDS.search(words):
        return RefusedForCount(words)
    if _SIZE_WORDS.search(words):
        return RefusedForSize(words)
    if _UNCERTAIN_WORDS.search(words):
        return Uncertain(words)
    if _CONNECTION_WORDS.search(words):
        return Unreachable(words)
    return Refused(words)


_JOB_ID = re.compile(r"^(\d+)(;\S+)?$")


def submitted_job_id(stdout: str) -> str | None:
    """The job id in what `sbatch --parsable` has printed; None where there is none.

    The last line that is one counts, as sites' wrappers print banners.
    """
    for line in reversed(stdout.splitlines()):
        match = _JOB_ID.match(line.strip())
        if match:
            return match.group(1)
    return None


# -- which jobs are ours --


def script_name(token: str) -> str:
    """The file name of the script of an array with this token."""
    return f"{token}.sh"


def script_mark(token: str) -> str:
    """A line of the script with its name: a site's wrapper may give sbatch a copy of the script."""
    return f"# cluster_tools: /{script_name(token)}\n"


def has_token(text: str, token: str) -> bool:
    """Whether a job has this token.

    `text`: its command, the command line that submitted it, or its script. `token`: an array's; or
    an executor's, with which the tokens of its arrays begin.
    """
    return f"/{token}." in text


def script_of(job_id: str, *cluster_arguments: str) -> str:
    """The script of a job, from slurmctld; "" where that has none. Raises: Unreachable."""
    try:
        return query("scontrol", *cluster_arguments, "write", "batch_script", job_id, "-")
    except CommandFailed:
        return ""


@dataclass(frozen=True)
class QueueRow:
    """A row of `squeue -r`: one element."""

    job_id: str
    index: int | None
    state: str
    reason: str
    # The path of the job's script, which users can't change later; "(null)"
    # where sbatch read it from stdin.
    command: str


_SQUEUE_FORMAT = "%i|%T|%r|%o"
# The header of squeue's answer, also of one without rows. An answer without it is not squeue's.
SQUEUE_HEADER = "JOBID|STATE|REASON|COMMAND"


def queue(*options: str) -> list[QueueRow]:
    """All elements of this user that slurmctld knows and `options` select. Raises: Unreachable."""
    try:
        stdout = query(
            *("squeue", *options, "--all", "--me", "--array", f"--format={_SQUEUE_FORMAT}")
        )
    except CommandFailed as exc:
        raise Unreachable(str(exc)) from exc
    if SQUEUE_HEADER not in stdout:
        raise Unreachable(f"squeue printed no list of jobs but {stdout[:_MAX_QUOTE]!r}")
    return queue_rows(stdout)


def queue_rows(stdout: str) -> list[QueueRow]:
    """The rows of `squeue -r -o _SQUEUE_FORMAT`; other lines are left out."""
    rows: list[QueueRow] = []
    for line in stdout.split("\n"):  # not splitlines: paths may have Unicode's other line ends
        parts = line.split("|", 3)
        if len(parts) != 4:
            continue
        identity, state, reason, command = parts
        job_id, _, index = identity.strip().partition("_")
        if not job_id.isdigit() or (index and not index.isdigit()):
            continue
        rows.append(QueueRow(job_id, int(index) if index else None, state.strip(), reason, command))
    return rows


@dataclass(frozen=True)
class AccountedElement:
    """What accounting says about one element: its allocation and its steps together."""

    state: str
    # "<exit code>:<signal>", as sacct prints it.
    exit_code: str
    # The command line that has submitted it; "" where accounting does not keep it.
    submit_line: str
    node: str
    time_limit: str
    elapsed: str
    requested_memory: str
    peak_memory_bytes: int | None


_SACCT_FIELDS = "JobID,State,ExitCode,NodeList,Timelimit,Elapsed,ReqMem,MaxRSS"


def account(job_ids: Iterable[str], *cluster_arguments: str) -> str:
    """What sacct prints about these jobs. Raises: Unreachable, CommandFailed."""
    command = ("sacct", *cluster_arguments, "--noheader", "--parsable2")
    jobs = f"--jobs={','.join(job_ids)}"
    try:
        return query(*command, f"--format={_SACCT_FIELDS},SubmitLine", jobs)
    except CommandFailed as exc:
        if "SubmitLine" not in str(exc):
            raise
        return query(*command, f"--format={_SACCT_FIELDS}", jobs)  # Slurm before 21.08


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int | None:
    """The bytes of "30720K" or "1.5G", as Slurm prints sizes; None of any other text."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)[cn]?", text.strip())
    return int(float(match.group(1)) * _UNITS[match.group(2)]) if match else None


def _indexes(index_list: str) -> Iterator[int]:
    """2, 4, 5, 6 of `[2,4-6%2]`."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", index_list.partition("%")[0]):
        yield from range(int(first), int(last or first) + 1)


def accounted_elements(stdout: str) -> Mapping[tuple[str, int | None], AccountedElement]:
    """What `account` has printed, by (job id, index)."""
    allocations: dict[tuple[str, int | None], list[str]] = {}
    peaks: dict[tuple[str, int | None], int] = {}
    out_of_memory: set[tuple[str, int | None]] = set()
    # Rows of elements that had not started, one for all of an array.
    not_started: list[tuple[str, str, list[str]]] = []
    for line in stdout.split("\n"):  # not splitlines: paths may have Unicode's other line ends
        fields = line.split("|", 8)
        if len(fields) < 8:
            continue
        identity, _, step = fields[0].partition(".")
        job_id, _, index = identity.partition("_")
        if not job_id.isdigit():
            continue
        if index.startswith("["):
            not_started.append((job_id, index, fields))
            continue
        key = (job_id, int(index) if index.isdigit() else None)
        if not step:
            allocations[key] = fields
        elif fields[1].startswith("OUT_OF_ME"):
            out_of_memory.add(key)
        peak = parse_size(fields[7])
        if peak is not None:
            peaks[key] = max(peak, peaks.get(key, 0))
    for job_id, index_list, fields in not_started:
        for index in _indexes(index_list):
            # An element that has started after all has a row of its own, which counts.
            allocations.setdefault((job_id, index), fields)
    return {
        key: AccountedElement(
            state="OUT_OF_MEMORY" if key in out_of_memory else fields[1],
            exit_code=fields[2],
            node=fields[3],
            time_limit=fields[4],
            elapsed=fields[5],
            requested_memory=fields[6],
            peak_memory_bytes=peaks.get(key),
            submit_line="".join(fields[8:]),
        )
        for key, fields in allocations.items()
    }


def controlled_elements(stdout: str) -> Mapping[tuple[str, int | None], Mapping[str, str]]:
    """The records of `scontrol -o show job`, by (job id, index), each as field -> value."""
    records: dict[tuple[str, int | None], Mapping[str, str]] = {}
    for line in stdout.split("\n"):
        # The job's name may look like fields. It stands before them, other free text behind them.
        line = _JOB_NAME.sub(" ", line, count=1)
        record: dict[str, str] = {}
        for name, value in re.findall(r"(?:^|\s)([A-Z]\w*(?::\w+)*)=(\S*)", line):
            record.setdefault(name, value)
        command = re.search(r"\sCommand=(.*)", line)  # to the line's end, as paths may have spaces
        job_id = record.get("ArrayJobId", record.get("JobId"))
        index = record.get("ArrayTaskId")
        if job_id is None or (index is not None and not index.isdigit()):
            continue
        record["Command"] = command.group(1) if command else ""
        records[job_id, int(index) if index is not None else None] = record
    return records


_JOB_NAME = re.compile(r" JobName=.* (?=UserId=\S+\(\d+\) GroupId=)")


def leading_number(stdout: str) -> int | None:
    """The first line that is a number; None where there is none, as sacctmgr prints no limit."""
    for line in stdout.splitlines():
        if line.strip().isdigit():
            return int(line.strip())
    return None
