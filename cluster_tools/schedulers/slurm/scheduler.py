"""Slurm: submits arrays with sbatch, queries states with squeue, explains endings with sacct.

Knows jobs and elements. `commands` runs the tools and reads what they print, `options` reads what
users ask for, `limits` the cluster's limits; `stop` cancels jobs, in a process of its own.

Our jobs are known by the path of their script, `<run directory>/<token>.sh`: Slurm keeps it as the
job's command, which users can't change later, other than name, comment or partition. The file
itself is deleted once sbatch has read it. Where a site's wrapper gives sbatch a copy of the script,
that copy is fetched from slurmctld and read.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from contextlib import suppress

from cluster_tools.caller import warn_caller
from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Options,
    Refused,
    RefusedForCount,
    Report,
    Scheduler,
    SchedulerError,
    State,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.commands import ranges
from cluster_tools.schedulers.detached import start_helper
from cluster_tools.schedulers.endings import log_not_written, process_ended
from cluster_tools.schedulers.script import (
    CHECK_LOG,
    LOG_UMASK,
    job_script,
    own_umask,
    write_script,
)
from cluster_tools.schedulers.slurm.commands import (
    SBATCH_TIMEOUT_S,
    AccountedElement,
    CommandFailed,
    account,
    accounted_elements,
    controlled_elements,
    has_token,
    parse_size,
    query,
    queue,
    refusal,
    run,
    script_mark,
    script_name,
    script_of,
    submitted_job_id,
)
from cluster_tools.schedulers.slurm.limits import (
    max_array_size_of,
    max_submit_jobs_of_qos,
    max_submit_jobs_of_user,
    number_from_environment,
    queued_ids,
)
from cluster_tools.schedulers.slurm.options import (
    read_resources,
    refuse_for_pilots,
)
from cluster_tools.schedulers.slurm.stop import stop_at_once

# https://slurm.schedmd.com/job_state_codes.html; any other word means that the element is alive.
_ENDED_WORDS = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
_PENDING_WORDS = {
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
}
# The only reason for waiting that never ends. https://slurm.schedmd.com/job_reason_codes.html
_HOPELESS_REASON = "DependencyNeverSatisfied"
# Reasons for waiting that may last until somebody does something.
_NOTABLE_REASONS = {
    "BadConstraints",
    "Dependency",
    "JobHeldAdmin",
    "JobHeldUser",
    "PartitionConfig",
    "PartitionDown",
    "PartitionInactive",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "launch failed requeued held",
    "job requeued in held state",
}
# slurmctld sets these before it decides whether to run the job again (JobRequeue, PreemptMode).
_RETURNING_WORDS = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}

# How long to wait for accounting, which learns of an end seconds later than slurmctld.
_ACCOUNTING_PATIENCE_S = 8.0
_ACCOUNTING_INTERVAL_S = 1.0
# Each query costs slurmctld an RPC, and jobs that end together mostly end for the same reason.
_MAX_SCONTROL_QUERIES = 20

# Advice about a job that Slurm has lost.
_SUBMIT_AGAIN = "Look at its log, and submit the call again if its work is not done."

_logger = logging.getLogger("cluster_tools")

# How many indexes one argument of scancel lists: the kernel limits an argument's length.
_MAX_INDEXES = 5_000
# INDEX, RESTART and JOB_ID of the worker's arguments. Shell variables with names
# that no set-up line will use.
_ELEMENT_ARGUMENTS = '"$cluster_tools_index" "${SLURM_RESTART_COUNT:-0}" "$cluster_tools_job" '


class SlurmScheduler(Scheduler):
    """One executor's connection to Slurm, by its command-line tools."""

    prefix = "slurmpy"
    may_run_again = True
    # On preemption, job steps get SIGTERM at the beginning of the partition's GraceTime, batch
    # scripts at its end. Longer ones than this are not waited for.
    # https://slurm.schedmd.com/slurm.conf.html#OPT_GraceTime
    notice_s = 30.0

    def __init__(self, options: Options):
        self._options = options
        if "\\" in options.log_directory:
            raise ValueError(
                f"cfut_dir {options.log_directory}: sbatch takes no backslash in --output"
            )
        if not options.may_run_again:
            refuse_for_pilots(options.job_resources)
        self._requested = read_resources(options.job_resources)
        self.destination = self._requested.destination
        self._cluster_arguments = self.destination.arguments
        self._has_submitted = False
        # The umask that calls get; the job, which makes the log, has
        # `LOG_UMASK`. None: both have ours.
        self._umask = None if options.trust_group else own_umask()
        # (job id, token) of jobs that we know as ours by their scripts alone.
        self._known_by_script: set[tuple[str, str]] = set()
        if any(line.lstrip().startswith("#SBATCH") for line in options.setup_lines):
            warn_caller(
                "#SBATCH lines among additional_setup_lines take no effect: give the options as "
                "job_resources"
            )

    @property
    def cluster(self) -> Hashable:
        return ("slurm", *self._cluster_arguments)

    # -- submission --

    def submit(self, request: ArrayRequest) -> str:
        limit = number_from_environment("SLURM_MAX_SUBMIT_JOBS")
        if limit is not None:
            queued = len(queued_ids(self.destination))
            if queued + request.count > limit:
                raise RefusedForCount(
                    f"SLURM_MAX_SUBMIT_JOBS is {limit}, and {queued} are in the queue"
                )
        path = os.path.join(request.run_directory, script_name(request.token))
        command = [*self._sbatch_command(request), path]
        write_script(path, self._script(request))
        self._has_submitted = True
        try:
            stdout = run(
                command,
                timeout_s=SBATCH_TIMEOUT_S,
                variables=self._requested.variables,
                umask=-1 if self._umask is None else LOG_UMASK,
            )
        except Unreachable as exc:
            raise Uncertain(str(exc)) from exc
        except CommandFailed as exc:
            error = refusal(str(exc))
            if isinstance(error, Refused):
                error = Refused(f"sbatch says: {exc}\nThe command was: {' '.join(command)}")
            raise error from exc
        finally:
            with suppress(OSError):
                os.unlink(path)
        job_id = submitted_job_id(stdout)
        if job_id is None:
            raise Uncertain(f"sbatch printed no job id but {stdout!r}")
        return job_id

    def _sbatch_command(self, request: ArrayRequest) -> list[str]:
        command = [
            "sbatch",
            "--parsable",
            f"--job-name={self._requested.job_name or request.name}",
            f"--output={self._log_pattern(request)}",
            "--open-mode=append",
            *self._cluster_arguments,
        ]
        if request.is_array:
            # For Slurm a whole array is one singleton, but it is we who
            # put calls together in arrays.
            one = 1 if self._requested.is_singleton else None
            limits = (number_from_environment("SLURM_MAX_RUNNING_SIZE"), request.at_a_time, one)
            running = min(filter(None, limits), default=request.count)
            at_a_time = f"%{running}" if running < request.count else ""
            command.append(f"--array=0-{request.count - 1}{at_a_time}")
        if request.warning_s is not None:
            command.append(f"--signal=B:USR1@{request.warning_s:.0f}")
        command += self._requested.arguments
        if not request.may_run_again:
            command.append("--no-requeue")
        return command

    def _log_pattern(self, request: ArrayRequest) -> str:
        directory = self._options.log_directory.replace("%", "%%")
        return self.log_path(directory, Element("%A_%a" if request.is_array else "%j"))

    def _script(self, request: ArrayRequest) -> str:
        """The job's script, for all elements of the array."""
        script = job_script(
            request.command,
            f'{_ELEMENT_ARGUMENTS}"$cluster_tools_log"',
            request.working_directory,
            self._options.setup_lines,
        )
        first_line, _, rest = script.partition("\n")
        if request.is_array:
            job, index = '"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"', '"$SLURM_ARRAY_TASK_ID"'
        else:
            job, index = '"$SLURM_JOB_ID"', "0"
        log = self.log_path(
            shlex.quote(self._options.log_directory), Element('"$cluster_tools_job"')
        )
        names = f"cluster_tools_job={job}\ncluster_tools_index={index}\ncluster_tools_log={log}\n"
        umask = "" if self._umask is None else f"umask {self._umask:04o}\n"
        return f"{first_line}\n{script_mark(request.token)}{names}{CHECK_LOG}{umask}{rest}"

    def find(self, token: str) -> str | None:
        for row in queue(*self._cluster_arguments, "--states=all"):
            if has_token(row.command, token):
                return row.job_id
        return None

    def width(self) -> int:
        if self._requested.is_singleton:
            return 1
        limits = [number_from_environment("SLURM_MAX_RUNNING_SIZE"), super().width()]
        for limit in (self.max_submitted, self.max_array_size):
            try:
                limits.append(limit())
            except SchedulerError:  # no accounting, or no answer: the other limits must do
                continue
        return max(1, min(filter(None, limits)))

    def array_limit(self) -> int | None:
        limits = [
            limit
            for name in ("SLURM_MAX_ARRAY_SIZE", "SLURM_MAX_SUBMIT_JOBS")
            if (limit := number_from_environment(name)) is not None
        ]
        return max(1, min(limits)) if limits else None

    def max_array_size(self) -> int | None:
        return max_array_size_of(self.destination)

    def max_submitted(self) -> int | None:
        limit = number_from_environment("SLURM_MAX_SUBMIT_JOBS")
        if limit is not None:
            return limit
        # Which of them Slurm applies depends on settings that can't be
        # queried; the lower one is safe.
        limits = (
            max_submit_jobs_of_user(self.destination),
            max_submit_jobs_of_qos(self.destination),
        )
        return min((limit for limit in limits if limit is not None), default=None)

    # -- states --

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        self._known_by_script &= jobs.items()
        reports: dict[Element, Report] = {}
        # (state, reason) -> a report that elements share: of 10,000 most are in the same state.
        shared: dict[tuple[str, str], Report] = {}
        for row in queue(*self._cluster_arguments, "--states=all"):
            token = jobs.get(row.job_id)
            if token is None or not self._is_ours(row.job_id, row.command, token):
                continue
            report = shared.get((row.state, row.reason))
            if report is not None:
                reports[Element(row.job_id, row.index)] = report
                continue
            if row.state in _ENDED_WORDS:
                state = State.ENDED
            elif row.state in _PENDING_WORDS:
                state = State.PENDING
            else:
                state = State.RUNNING
            shared[row.state, row.reason] = reports[Element(row.job_id, row.index)] = Report(
                state,
                row.state,
                row.reason,
                hopeless="which can never end" if row.reason == _HOPELESS_REASON else "",
                notable=row.reason in _NOTABLE_REASONS,
                may_return=row.state in _RETURNING_WORDS,
            )
        return reports

    def _is_ours(self, job_id: str, command: str, token: str) -> bool:
        """Whether a job has this token, by its command or its script. Raises: Unreachable."""
        if has_token(command, token) or (job_id, token) in self._known_by_script:
            return True
        if not has_token(script_of(job_id, *self._cluster_arguments), token):
            return False
        self._known_by_script.add((job_id, token))
        return True

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        accounted = self._accounted(ended, jobs)
        unexplained = [element for element in ended if element not in accounted]
        controlled, known_jobs = self._controlled(unexplained, jobs)
        endings: dict[Element, Ending] = {}
        for element, report in ended.items():
            row = accounted.get(element) or controlled.get(element)
            if row is not None and report is None and row.state == "CANCELLED":
                # A user's scancel is "CANCELLED by 1000". Accounting says a bare "CANCELLED" of
                # jobs that were open when slurmctld started without its saved state.
                endings[element] = Ending(
                    Cause.LOST,
                    f"Slurm answers, but does not know job {element} any more, there is no output, "
                    "and "
                    "in accounting it is cancelled by nobody: slurmctld was started without its "
                    "state.",
                    _SUBMIT_AGAIN,
                )
            elif row is not None:
                endings[element] = _ending(element, row)
            elif report is not None and report.state is State.ENDED:
                endings[element] = _ending(
                    element, AccountedElement(report.word, "", "", "", "", "", "", None)
                )
            elif element.index is not None and element.job_id in known_jobs:
                # slurmctld forgets an element that was cancelled before it began.
                endings[element] = Ending(
                    Cause.CANCELLED,
                    "The element was taken out of its array before it began: somebody has "
                    "cancelled it.",
                )
            else:
                endings[element] = Ending(
                    Cause.LOST,
                    f"Slurm answers, but does not know job {element} any more, and there is no "
                    "output. Its state may have been lost, or the job purged.",
                    f"{_SUBMIT_AGAIN} slurmctld remembers a job for MinJobAge seconds (slurm.conf) "
                    "after its end, accounting for longer, where there is any.",
                )
        return endings

    def _accounted(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, AccountedElement]:
        """What accounting says about these elements, of those that it knows to have ended.

        Waits, up to `_ACCOUNTING_PATIENCE_S`, until it knows that of all.
        """
        job_ids = sorted({element.job_id for element in ended})
        deadline = time.monotonic() + _ACCOUNTING_PATIENCE_S
        while True:
            try:
                rows = accounted_elements(account(job_ids, *self._cluster_arguments))
            except SchedulerError:  # there is no accounting, or slurmdbd is down
                # Worth waiting only for elements that slurmctld has forgotten.
                if None not in ended.values() or time.monotonic() >= deadline:
                    return {}
                time.sleep(_ACCOUNTING_INTERVAL_S)
                continue
            found = {
                element: row
                for element, report in ended.items()
                if (row := rows.get((element.job_id, element.index))) is not None
                # If accounting keeps no command line, that slurmctld has just reported it must do.
                and (
                    has_token(row.submit_line, jobs[element.job_id])
                    or (not row.submit_line and report is not None)
                )
                and row.state.partition(" ")[0] in _ENDED_WORDS
            }
            # A failure without an exit code is incomplete: a slurmdbd that was down for a while
            # gets the start of a job, and only then its end.
            is_complete = all(
                (row.state, row.exit_code) != ("FAILED", "0:0") for row in found.values()
            )
            if (is_complete and len(found) == len(ended)) or time.monotonic() >= deadline:
                return found
            time.sleep(_ACCOUNTING_INTERVAL_S)

    def _controlled(
        self, elements: Collection[Element], jobs: Mapping[str, str]
    ) -> tuple[Mapping[Element, AccountedElement], set[str]]:
        """What slurmctld still knows about these elements, and the jobs that it still knows."""
        found: dict[Element, AccountedElement] = {}
        known_jobs: set[str] = set()
        for job_id in sorted({element.job_id for element in elements})[:_MAX_SCONTROL_QUERIES]:
            try:
                records = controlled_elements(
                    query("scontrol", *self._cluster_arguments, "--oneliner", "show", "job", job_id)
                )
            except SchedulerError:
                continue
            try:
                is_ours = any(
                    self._is_ours(job_id, record["Command"], jobs[job_id])
                    for record in records.values()
                )
            except SchedulerError:
                continue
            if not is_ours:
                continue
            known_jobs.add(job_id)
            for element in elements:
                record = records.get((element.job_id, element.index))
                if record is not None and record.get("JobState") in _ENDED_WORDS:
                    found[element] = AccountedElement(
                        state=record["JobState"],
                        exit_code=record.get("ExitCode", ""),
                        submit_line="",
                        node=record.get("NodeList", ""),
                        time_limit=record.get("TimeLimit", ""),
                        elapsed=record.get("RunTime", ""),
                        requested_memory=record.get(
                            "MinMemoryNode", record.get("MinMemoryCPU", "")
                        ),
                        peak_memory_bytes=None,
                    )
        return found, known_jobs

    # -- cancelling --

    def cancel(self, elements: Collection[Element], token: str) -> None:
        indexes: defaultdict[str, list[int]] = defaultdict(list)
        for element in elements:
            indexes[element.job_id] += [] if element.index is None else [element.index]
        ids = [
            f"{job}_[{_ranges(some[start : start + _MAX_INDEXES])}]" if some else job
            for job, some in indexes.items()
            for start in range(0, max(1, len(some)), _MAX_INDEXES)
        ]
        try:
            self._start_stop("elements", token, ids)
        except OSError as exc:
            raise Unreachable(str(exc)) from exc

    def stop(self, job_ids: Collection[str], token: str) -> None:
        if not self._has_submitted:
            return
        if "SLURM_JOB_ID" in os.environ:
            stop_at_once(token, job_ids, self._cluster_arguments)
        else:
            self._start_stop("all", token, job_ids)

    def _start_stop(self, what: str, token: str, ids: Iterable[str]) -> None:
        start_helper(
            "cluster_tools.schedulers.slurm.stop",
            [what, token, str(self._options.grace_s), *self._cluster_arguments],
            stdin="".join(f"{one}\n" for one in ids),
        )


def _ending(element: Element, row: AccountedElement) -> Ending:
    """Why an element ended, by what Slurm says about it: first its state, then its exit code."""
    word, _, rest = row.state.partition(" ")
    fields = "JobID,State,ExitCode,Elapsed,Timelimit,ReqMem,MaxRSS"
    look = f"`sacct -j {element} --format={fields}` shows more."
    on_node = f" on node {row.node}" if row.node else ""
    requested, peak = parse_size(row.requested_memory) or 0, row.peak_memory_bytes or 0
    killed = _was_killed(row)
    if word == "OUT_OF_MEMORY" or (killed and word == "FAILED" and 0 < requested < peak):
        # A lower bound: accounting takes samples, the last perhaps long before the end.
        used = f", used at least {peak / (1 << 20):.0f} MiB" if peak > requested else ""
        asked = f"asked for {row.requested_memory or 'the default'}"
        return Ending(
            Cause.OUT_OF_MEMORY,
            f"The job ran out of memory{on_node}: {asked}{used}.",
            f'Ask for more, for example with job_resources={{"mem": "8G"}}. {look}',
        )
    if word in ("TIMEOUT", "DEADLINE"):
        return Ending(
            Cause.TIME_LIMIT,
            f"The job reached its time limit of {row.time_limit or 'its partition'} "
            f"(it ran for {row.elapsed or 'that long'}).",
            f'Ask for more, for example with job_resources={{"time": "02:00:00"}}. {look}',
        )
    if word in ("NODE_FAIL", "BOOT_FAIL"):
        return Ending(Cause.NODE_FAILURE, f"The job's node failed{on_node} ({word}).", look)
    if word == "PREEMPTED":
        return Ending(Cause.PREEMPTED, f"The job was preempted{on_node}.", look)
    if word == "CANCELLED":
        return Ending(Cause.CANCELLED, f"The job was cancelled{f' {rest}' if rest else ''}.", look)
    return _ending_of_process(row, word, on_node, look)


def _was_killed(row: AccountedElement) -> bool:
    code, _, signal_number = row.exit_code.partition(":")
    return signal_number == "9" or code == "137"


def _ending_of_process(row: AccountedElement, word: str, on_node: str, look: str) -> Ending:
    """Why the process of an element ended, by its exit code.

    `word`, `on_node`, `look`: parts of the message: Slurm's state, the node, where to see more.
    """
    code, _, signal_number = row.exit_code.partition(":")
    exit_code = int(code) if code.isdigit() else None
    # What Slurm gives where it can't open the log.
    if row.exit_code == "0:53":
        return log_not_written(on_node, look)
    number = int(signal_number) if signal_number.isdigit() else 0
    signal = 9 if _was_killed(row) else number
    return process_ended(exit_code, signal, on_node, look, word)


def _ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3, 7: how Slurm writes indexes of an array."""
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges(numbers))
