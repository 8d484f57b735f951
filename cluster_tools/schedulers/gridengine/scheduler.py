"""Grid Engine: submits arrays with qsub, asks qstat for states, and asks qacct why elements ended.

    qsub --> the job's script (see `supervision`) --> <run directory>/<token>.sh --> worker

This module knows jobs and elements. `commands` runs commands and reads their output; `stop` cancels
jobs in a process of its own. The index of an element is Grid Engine's task id less one.

- A job belongs to an array if its name ends in the array's token. The name is in the queue and in
  accounting. If a user has changed the name, the job is known by the path of its script,
  `<run directory>/<token>.job`, which can't be changed.
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
import re
import shlex
import time
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from contextlib import suppress

from cluster_tools.schedulers.base import (
    ArrayRequest,
    Element,
    Ending,
    Options,
    Report,
    Scheduler,
    SchedulerError,
    State,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.commands import ranges
from cluster_tools.schedulers.detached import start_helper
from cluster_tools.schedulers.gridengine.accounting import accounted, ending
from cluster_tools.schedulers.gridengine.commands import (
    QSUB_TIMEOUT_S,
    QueueRow,
    error_reason,
    is_of,
    is_of_script,
    queue,
    refusal,
    run,
    script_name,
)
from cluster_tools.schedulers.gridengine.options import read_resources, seconds
from cluster_tools.schedulers.script import own_umask, write_script
from cluster_tools.schedulers.supervision import (
    exports,
    supervising_script,
    write_element_script,
)

# How long to wait for a record. By default, accounting is up to 15 seconds late (sge_conf(5),
# accounting_flush_time).
_ACCOUNTING_PATIENCE_S = 18.0
_ACCOUNTING_INTERVAL_S = 1.0
# How many jobs one query looks for in accounting: for each, qacct reads the whole file.
_MAX_ACCOUNTED_JOBS = 10
# How many characters of a request's name a job's name has. With the token, 512 are allowed.
_MAX_NAME = 200
_USUAL_UMASK = 0o022
_NOT_TO_END_WITH = (99, 100)
# Environment variables that Grid Engine sets for a job, so they are not exported to it.
_JOBS_OWN_NAMES = """
ARC ENVIRONMENT HOSTNAME JOB_ID JOB_NAME JOB_SCRIPT NHOSTS NQUEUES NSLOTS PE
PE_HOSTFILE QUEUE REQNAME REQUEST RESTARTED SGE_ TMP TMPDIR
"""
_JOBS_OWN = frozenset(_JOBS_OWN_NAMES.split())
_ELEMENT_ARGUMENTS = (  # as cluster_tools.job.worker takes them
    '"$cluster_tools_index" "${RESTARTED:-0}" "$cluster_tools_job" "$cluster_tools_log"'
)


class GridEngineScheduler(Scheduler):
    """One executor's connection to Grid Engine.

    Raises: ValueError, for `job_resources` that can't be used.
    """

    prefix = "sge"

    def __init__(self, options: Options):
        self._options = options
        self._resources = read_resources(options.job_resources)
        self.time_limit_s = seconds(options.job_resources.get("h_rt"))
        umask = own_umask()
        self._umask = _USUAL_UMASK if umask is None else umask
        self._has_submitted = False
        # (job id, token) of jobs whose names were changed, and that are known by their scripts.
        self._known_by_script: set[tuple[str, str]] = set()

    @property
    def cluster(self) -> Hashable:
        return "gridengine"

    # -- submission --

    def submit(self, request: ArrayRequest) -> str:
        path = os.path.join(request.run_directory, f"{request.token}.sh")
        names = self._names(request)
        shell = write_element_script(
            path,
            names,
            exports(_JOBS_OWN),
            request.command,
            _ELEMENT_ARGUMENTS,
            request.working_directory,
            self._options.setup_lines,
        )
        script = supervising_script(
            path,
            shell,
            names,
            owner=os.stat(path).st_uid,
            umask=self._umask,
            trusts_group=self._options.trust_group,
            warning="USR2",
            grace_s=self._options.grace_s,
            not_to_end_with=_NOT_TO_END_WITH,
        )
        job_path = os.path.join(request.run_directory, script_name(request.token))
        command = [*self._qsub_command(request), job_path]
        write_script(job_path, script)
        self._has_submitted = True
        try:
            stdout = run(*command, timeout_s=QSUB_TIMEOUT_S)
        except SchedulerError as exc:
            raise refusal(exc, command) from exc
        finally:
            with suppress(OSError):
                os.unlink(job_path)  # qsub has read it
        job_id = re.search(r"^(\d+)(?:\.\d+-\d+:\d+)?$", stdout, re.MULTILINE)
        if job_id is None:
            raise Uncertain(f"qsub printed no job id but {stdout!r}")
        return job_id.group(1)

    def _qsub_command(self, request: ArrayRequest) -> list[str]:
        """The command that submits the array, without the path of the job's script."""
        name = re.sub(r"[^\w+=-]", "_", request.name, flags=re.ASCII)[:_MAX_NAME]
        name = f"_{name}" if name[:1].isdigit() else name
        command = ["qsub", "-terse", "-N", f"{name}.{request.token}"]
        command += ["-S", "/bin/sh", "-C", "", "-b", "n", "-wd", "/", "-o", "/dev/null", "-j", "y"]
        command += ["-notify", "-r", "n", "-now", "n", "-sync", "n"]
        if request.is_array:
            command += ["-t", f"1-{request.count}", "-tc", str(request.at_a_time or 0)]
        return [*command, *self._resources]

    def _names(self, request: ArrayRequest) -> str:
        """Shell lines that set an element's index, its job id and the path of its log."""
        job, index = ("$JOB_ID", "0")
        if request.is_array:
            job, index = '"${JOB_ID}_$cluster_tools_index"', "$((SGE_TASK_ID - 1))"
        log = self.log_path(
            shlex.quote(self._options.log_directory), Element('"$cluster_tools_job"')
        )
        return f"cluster_tools_index={index}\ncluster_tools_job={job}\ncluster_tools_log={log}\n"

    def find(self, token: str) -> str | None:
        return next((row.job_id for row in queue() if is_of(row.name, token)), None)

    def max_array_size(self) -> int | None:
        limit = re.search(r"^max_aj_tasks\s+(\d+)", run("qconf", "-sconf"), re.MULTILINE)
        return int(limit.group(1)) or None if limit else None

    def max_submitted(self) -> int | None:
        return None  # max_u_jobs counts jobs, and a whole array counts as one job

    # -- states --

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        self._known_by_script &= jobs.items()
        reports: dict[Element, Report] = {}
        there: set[str] = set()
        for row in queue():
            token = jobs.get(row.job_id)
            if token is None or not self._is_ours(row.job_id, row.name, token):
                continue
            there.add(row.job_id)
            report = _report(row)
            reports.update(dict.fromkeys(row.elements(), report))
        # Elements that have ended leave the queue at once: their ends are only in accounting.
        for job_id in [job_id for job_id in jobs if job_id not in there][:_MAX_ACCOUNTED_JOBS]:
            for element, record in self._accounted(job_id, jobs[job_id]).items():
                reports[element] = Report(State.ENDED, record["failed"])
        return reports

    def _is_ours(self, job_id: str, name: str, token: str) -> bool:
        """Whether the job has this token, by its name or by its script. Raises: Unreachable."""
        if is_of(name, token) or (job_id, token) in self._known_by_script:
            return True
        if not is_of_script(job_id, token):
            return False
        self._known_by_script.add((job_id, token))
        return True

    def _accounted(self, job_id: str, token: str) -> Mapping[Element, Mapping[str, str]]:
        """The last record of each element of the job; empty if accounting has no record."""
        try:
            text = run("qacct", "-j", job_id)
        except SchedulerError:  # no record yet, or the accounting file can't be read on this host
            return {}
        found: dict[Element, Mapping[str, str]] = {}
        is_known = (job_id, token) in self._known_by_script
        for record in accounted(text):
            if is_known or is_of(record.get("jobname", ""), token):
                task = record.get("taskid", "")
                found[Element(job_id, int(task) - 1 if task.isdigit() else None)] = record
        return found

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        found: dict[Element, Mapping[str, str]] = {}
        deadline = time.monotonic() + _ACCOUNTING_PATIENCE_S
        while True:
            for job_id in sorted({element.job_id for element in ended.keys() - found.keys()}):
                found |= self._accounted(job_id, jobs[job_id])
            if ended.keys() <= found.keys() or time.monotonic() > deadline:
                return {element: ending(element, found.get(element)) for element in ended}
            time.sleep(_ACCOUNTING_INTERVAL_S)

    # -- cancelling --

    def cancel(self, elements: Collection[Element], token: str) -> None:
        tasks: defaultdict[str, list[int]] = defaultdict(list)
        for element in elements:
            tasks[element.job_id] += [] if element.index is None else [element.index + 1]
        try:
            self._start_stop(
                "elements",
                token,
                (
                    f"{job_id}.{first}-{last}" if first else job_id
                    for job_id, some in tasks.items()
                    for first, last in ranges(some) or [(0, 0)]
                ),
            )
        except OSError as exc:
            raise Unreachable(str(exc)) from exc

    def stop(self, job_ids: Collection[str], token: str) -> None:
        if self._has_submitted:
            self._start_stop("all", token, job_ids)

    def _start_stop(self, what: str, token: str, ids: Iterable[str]) -> None:
        """Starts the helper that cancels jobs; see `stopping`. Raises: OSError."""
        start_helper(
            "cluster_tools.schedulers.gridengine.stop",
            [what, token],
            stdin="".join(f"{one}\n" for one in ids),
        )


def _report(row: QueueRow) -> Report:
    """The report about all elements of a row."""
    if "E" in row.state:
        return Report(
            State.PENDING,
            row.state,
            error_reason(row.job_id) or "unknown",
            hopeless="and does so until somebody clears its error with `qmod -cj`",
        )
    if "q" not in row.state:
        return Report(State.RUNNING, row.state)
    if "h" in row.state:
        return Report(State.PENDING, row.state, "held, or waiting for another job", notable=True)
    return Report(State.PENDING, row.state)
