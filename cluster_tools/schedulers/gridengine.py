"""Grid Engine (Sun's, Son of Grid Engine, Open or Altair's): what its commands take and print.

`queueing` has everything that other queueing systems need, too. See the manual pages qsub(1),
qstat(1), qdel(1), accounting(5), and sge_status(5) for the field `failed` of accounting.

- The index of an element is Grid Engine's task id less one.
- The defaults in .sge_request files, of the user and of the site, apply, except for options that
  the executor sets itself.
- Grid Engine kills jobs with SIGKILL. With -notify it sends SIGUSR2 before; the queue's parameter
  `notify` says how many seconds before. The job's script then sends SIGTERM to the element, and
  kills the job `grace_s` seconds later, if Grid Engine has not done so before.
- The exit code 99 would make Grid Engine run a job again, and 100 would keep the job in the queue
  in the error state. Therefore the job's script does not end with them.
- Elements are not restarted (-r n), because RESTARTED is 1 both for the second and for the third
  run.
- An element that has ended leaves the queue at once. Only a record in accounting proves its end.
"""

from __future__ import annotations

import os
import pwd
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Options,
    RefusedForCount,
    RefusedForSize,
    Report,
    SchedulerError,
    State,
    Unreachable,
)
from cluster_tools.schedulers.commands import CommandFailed, read_ranges
from cluster_tools.schedulers.endings import (
    log_not_written,
    out_of_memory,
    out_of_time,
    process_ended,
)
from cluster_tools.schedulers.queueing import (
    JobTraits,
    QueueingScheduler,
    QueueRow,
    Record,
    job_name,
)
from cluster_tools.schedulers.resources import requested, seconds
from cluster_tools.schedulers.supervision import EXIT_NO_LOG

# Options of qsub: those that users may give, and those that belong to the executor. Any other name
# is the name of a resource.
_OPTION_NAMES = "a A ac ar binding c ckpt dl h hold_jid jc js jsv l m M masterq p P pe q R w"
_OWNED_NAMES = """
@ adds b clear clearp clears C cwd dc display e hard help hold_jid_ad i inherit j
mods N noshell nostdin notify now o ot pty r rdi rou S sc shell soft sync t tc tcon terse u umask v
V verbose verify wd
"""
_OPTIONS, _OWNED = frozenset(_OPTION_NAMES.split()), frozenset(_OWNED_NAMES.split())
_MAKES_NO_JOB = {"w": ("v", "p")}
# Environment variables that Grid Engine sets for a job.
_JOBS_OWN_NAMES = """
ARC ENVIRONMENT HOSTNAME JOB_ID JOB_NAME JOB_SCRIPT NHOSTS NQUEUES NSLOTS PE
PE_HOSTFILE QUEUE REQNAME REQUEST RESTARTED SGE_ TMP TMPDIR
"""
# Values of the field `failed`.
_FAILED_BY_LIMIT = 37
_FAILED_LATER = 100
_FAILED_WITH_NODE = (19, 21)
# If a signal ends a command, the shell's exit code is 128 plus the number of the signal, which is
# at most 64.
_MAX_SIGNALLED = 192


class GridEngineScheduler(QueueingScheduler):
    """One executor's connection to Grid Engine.

    Raises: ValueError, for `job_resources` that can't be used.
    """

    prefix = "sge"
    system = "Grid Engine"
    accounting = "qacct"
    where_missing = "is Grid Engine installed here, and its settings.sh read?"
    variables: Mapping[str, str] = {"LC_ALL": "C", "SGE_SINGLE_LINE": "1"}
    job = JobTraits(
        job_id="$JOB_ID",
        index="$((SGE_TASK_ID - 1))",
        restarts="${RESTARTED:-0}",
        own_variables=frozenset(_JOBS_OWN_NAMES.split()),
        warning="USR2",
        not_to_end_with=(99, 100),
    )
    job_id_pattern = re.compile(r"^(\d+)(?:\.\d+-\d+:\d+)?$", re.MULTILINE)
    # Longer than two minutes, after which qsub itself gives up a qmaster that hangs.
    submit_timeout_s = 180.0
    unreachable_words = re.compile(
        r"commlib error|unable to (?:send message to|contact) qmaster|can't connect to service"
        r"|got (?:send|read|select) error",
        re.IGNORECASE,
    )
    not_arrived_words = re.compile(r"connection refused|can't resolve", re.IGNORECASE)
    refusals: Mapping[int | str, type[SchedulerError]] = {
        25: RefusedForCount,  # max_u_jobs or max_jobs is reached
        "job with more than": RefusedForSize,
    }
    # By default, accounting is up to 15 seconds late (sge_conf(5), accounting_flush_time).
    accounting_patience_s = 18.0

    def __init__(self, options: Options):
        super().__init__(options)
        self._resources = read_resources(options.job_resources)
        self.time_limit_s = seconds(options.job_resources.get("h_rt"))

    def submit_command(self, request: ArrayRequest) -> list[str]:
        command = ["qsub", "-terse", "-N", job_name(request)]
        command += ["-S", "/bin/sh", "-C", "", "-b", "n", "-wd", "/", "-o", "/dev/null", "-j", "y"]
        command += ["-notify", "-r", "n", "-now", "n", "-sync", "n"]
        if request.is_array:
            command += ["-t", f"1-{request.count}", "-tc", str(request.at_a_time or 0)]
        return [*command, *self._resources]

    def max_array_size(self) -> int | None:
        limit = re.search(r"^max_aj_tasks\s+(\d+)", self.run("qconf", "-sconf"), re.MULTILINE)
        return int(limit.group(1)) or None if limit else None

    def max_submitted(self) -> int | None:
        return None  # max_u_jobs counts jobs, and a whole array counts as one job

    def queue(self) -> list[QueueRow]:
        user = pwd.getpwuid(os.geteuid()).pw_name
        try:
            return queue_rows(self.run("qstat", "-u", user, "-xml"))
        except CommandFailed as exc:
            raise Unreachable(str(exc)) from exc

    def report(self, row: QueueRow) -> Report:
        if "E" in row.state:
            return Report(
                State.PENDING,
                row.state,
                self._error_reason(row.job_id) or "unknown",
                hopeless="and does so until somebody clears its error with `qmod -cj`",
            )
        if "q" not in row.state:
            return Report(State.RUNNING, row.state)
        if "h" in row.state:
            return Report(
                State.PENDING, row.state, "held, or waiting for another job", notable=True
            )
        return Report(State.PENDING, row.state)

    def _error_reason(self, job_id: str) -> str:
        """Why the job is in the error state (E); "" if that can't be found out."""
        try:
            return self._described(job_id, r"error reason\s+\d+")
        except SchedulerError:
            return ""

    def script_path(self, job_id: str) -> str:
        return self._described(job_id, "script_file")

    def _described(self, job_id: str, field: str) -> str:
        """A field (a regular expression) of `qstat -j`; "" if there is none. Raises as `run`."""
        found = re.search(rf"^{field}:\s*(.*)", self.run("qstat", "-j", job_id), re.MULTILINE)
        return found.group(1).strip() if found else ""

    def records(self, job_id: str) -> Iterator[Record]:
        return accounted(job_id, self.run("qacct", "-j", job_id))

    def ending(self, record: Record) -> Ending:
        element, fields = record.element, record.fields
        task = "" if element.index is None else f" -t {element.index + 1}"
        look = f"`qacct -j {element.job_id}{task}` shows more."
        on_node = f" on node {fields['hostname']}" if "hostname" in fields else ""
        failed, code = _leading_number(fields, "failed"), _leading_number(fields, "exit_status")
        if failed == _FAILED_BY_LIMIT:
            return _limit_ending(fields, on_node, look)
        if failed in _FAILED_WITH_NODE:
            words = f"The job's node failed{on_node} ({record.word})."
            return Ending(Cause.NODE_FAILURE, words, look)
        if failed == _FAILED_LATER:
            words = f"The job was deleted{on_node}, or its script was killed."
            return Ending(Cause.CANCELLED, words, look)
        if failed:
            words = f"Grid Engine could not run the job{on_node} ({record.word})."
            return Ending(Cause.NEVER_STARTED, words, look)
        if code == 0 and fields.get("ru_minflt") == "0":  # no sign that anything ran
            words = f"The job was deleted by force{on_node} (qdel -f)."
            return Ending(Cause.CANCELLED, words, look)
        if code == EXIT_NO_LOG:
            return log_not_written(on_node, look)
        return process_ended(code, code - 128 if 128 < code <= _MAX_SIGNALLED else 0, on_node, look)

    def element_ids(self, job_id: str, first: int, last: int) -> str:
        return f"{job_id}.{first + 1}-{last + 1}"

    def delete(self, ids: Sequence[str]) -> None:
        with suppress(CommandFailed):  # qdel also fails if some of them have ended
            self.run("qdel", *ids)


def read_resources(resources: Mapping[str, Any]) -> list[str]:
    """Turns `{"h_vmem": "4G", "pe": "smp 4"}` into `-l h_vmem=4G -pe smp 4`. Raises: ValueError."""
    words: list[str] = []
    for name, value in requested(
        resources, command="qsub", owned=_OWNED, makes_no_job=_MAKES_NO_JOB
    ):
        if name not in _OPTIONS:
            words += ["-l", f"{name}={'TRUE' if value is True else value}"]
        elif name == "h" and value is True:
            words.append("-h")
        else:
            words += [f"-{name}", *("y" if value is True else str(value)).split()]
    return words


def queue_rows(xml: str) -> list[QueueRow]:
    """The rows in the output of `qstat -xml`. Raises: Unreachable, if it is no list of jobs."""
    try:
        jobs = ET.fromstring(xml).iter("job_list")
    except ET.ParseError as exc:
        raise Unreachable(f"qstat printed no list of jobs: {exc}") from exc
    rows: list[QueueRow] = []
    for job in jobs:
        job_id, name = job.findtext("JB_job_number", ""), job.findtext("JB_name", "")
        tasks = job.findtext("tasks")  # as "9-12:1,15"
        indexes = None if tasks is None else read_ranges(tasks, first=1)
        rows.append(QueueRow(job_id, name, job.findtext("state", ""), indexes))
    return rows


def accounted(job_id: str, text: str) -> Iterator[Record]:
    """Yields the records that `qacct -j` prints, in the order of their ends."""
    for record in re.split(r"^=+$", text, flags=re.MULTILINE)[1:]:
        lines = (line.partition(" ") for line in record.strip().split("\n"))
        fields = {name: value.strip() for name, _, value in lines}
        task = fields.get("taskid", "")
        element = Element(job_id, int(task) - 1 if task.isdigit() else None)
        yield Record(element, fields.get("jobname", ""), fields.get("failed", ""), fields)


def _limit_ending(fields: Mapping[str, str], on_node: str, look: str) -> Ending:
    """The element has reached a limit. Finds out which one, because Grid Engine does not say it."""
    limits = dict(re.findall(r"([hs]_\w+)=([^,\s]+)", fields.get("category", "")))
    ran_s, limit_s = _leading_number(fields, "ru_wallclock"), seconds(limits.get("h_rt"))
    if "h_vmem" in limits and (limit_s is None or ran_s < limit_s):
        asked, used = f"h_vmem={limits['h_vmem']}", fields.get("maxvmem", "more")
        return out_of_memory(asked, used, '{"h_vmem": "8G"}', on_node, look)
    asked = f"h_rt={limits['h_rt']}" if "h_rt" in limits else "its queue (h_rt, h_cpu or h_vmem)"
    return out_of_time(asked, ran_s, '{"h_rt": "2:00:00"}', on_node, look)


def _leading_number(fields: Mapping[str, str], name: str) -> int:
    """The number at the beginning of a field; 0 if there is none."""
    number = re.match(r"\d+", fields.get(name, ""))
    return int(number.group()) if number else 0
