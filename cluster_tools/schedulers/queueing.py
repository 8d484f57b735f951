"""What schedulers have in common that are a queueing system with commands for users.

    submit        --> the job's script (`supervision`) --> <run directory>/<token>.sh --> worker
    states        --> the queue; for jobs that are not in it any more, accounting
    explain       --> accounting, again and again while it has no record: records are late
    cancel, stop  --> a helper (`stopping`) --> the queue, and then the command that deletes

`QueueingScheduler` knows jobs, elements and the order of all this. A subclass knows one system: its
commands, their options, and what they print. `gridengine.py` is such a subclass. The system needs
- job ids that are digits, and arrays whose elements have indexes,
- a submit command that takes the path of a script, and has read it when it ends,
- names of jobs, of some 230 characters, which are in the queue and in accounting alike: a job
  belongs to an array if its name ends in the array's token,
- a signal that reaches the job's script before the job is killed.

Where users can change the name of a job, it is known by the path of its script, if the system shows
that path. The file is `<run directory>/<token>.job`.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

from cluster_tools.schedulers import commands, stopping
from cluster_tools.schedulers.base import (
    ArrayRequest,
    Element,
    Ending,
    Options,
    Refused,
    Report,
    Scheduler,
    SchedulerError,
    State,
    Uncertain,
    Unreachable,
)
from cluster_tools.schedulers.commands import CommandFailed, ranges
from cluster_tools.schedulers.detached import entries_for, start_helper
from cluster_tools.schedulers.endings import forgotten
from cluster_tools.schedulers.script import own_umask, write_script
from cluster_tools.schedulers.supervision import (
    exports,
    supervising_script,
    write_element_script,
)

_QUERY_TIMEOUT_S = 60.0
# How many jobs one query looks for in accounting: many systems read the whole file for each job.
_MAX_ACCOUNTED_JOBS = 10
_ACCOUNTING_INTERVAL_S = 1.0
# How many characters of a request's name a job's name has.
_MAX_NAME = 200
_USUAL_UMASK = 0o022


@dataclass(frozen=True)
class JobTraits:
    """What a system's jobs find in their environment, and what their scripts have to do."""

    # Shell words for an element's job id, its index (from 0) and how often it was restarted.
    job_id: str
    index: str
    restarts: str
    # Variables that the system sets, so they are not exported; see `supervision.exports`.
    own_variables: Collection[str]
    # The name of the signal that comes before the kill.
    warning: str
    # Exit codes that mean something else to the system; they become 1.
    not_to_end_with: Collection[int] = ()


@dataclass(frozen=True)
class QueueRow:
    """Elements of one job in the queue that are in the same state."""

    job_id: str
    name: str
    # The system's own word.
    state: str
    # The indexes of the elements; None if the job is no array.
    indexes: Sequence[range] | None

    def elements(self) -> Iterator[Element]:
        if self.indexes is None:
            yield Element(self.job_id)
            return
        for some in self.indexes:
            for index in some:
                yield Element(self.job_id, index)


@dataclass(frozen=True)
class Record:
    """What accounting has about one run of an element that has ended."""

    element: Element
    # The job's name.
    name: str
    # The system's own word for the ending.
    word: str
    # Everything that the record has.
    fields: Mapping[str, str]


def has_token(name: str, token: str) -> bool:
    """Whether a job has this token, by its name or by the name of its script.

    `token`: of an array, or of an executor, with which the tokens of its arrays begin.
    """
    return f".{token}." in f".{name}."


def job_name(request: ArrayRequest) -> str:
    """The name of the array's job, with its token; has no characters that systems refuse."""
    name = re.sub(r"[^\w+=-]", "_", request.name, flags=re.ASCII)[:_MAX_NAME]
    return f"{'_' if name[:1].isdigit() else ''}{name}.{request.token}"


class QueueingScheduler(Scheduler):
    """One executor's connection to a queueing system, by its commands.

    A subclass has these attributes and the abstract methods. The helper that cancels makes an
    object of it, too, with default options, so its module should be imported in milliseconds.
    """

    # The system's name and its accounting command, for messages.
    system: str
    accounting: str
    # The end of the message if there is no such command: what to check.
    where_missing: str
    # Added to the environment of commands: what makes their output the same everywhere.
    variables: Mapping[str, str]
    job: JobTraits
    # Finds the job id, as its first group, in what the submit command prints.
    job_id_pattern: re.Pattern[str]
    # How long the submit command may take. Should be longer than it waits for its server itself.
    submit_timeout_s = 180.0
    # Finds words of a command's message which say that the system did not answer.
    unreachable_words: re.Pattern[str]
    # Finds those of them which say that a submission has certainly not arrived.
    not_arrived_words: re.Pattern[str]
    # What it means that the submit command fails with this exit code, or with these words in its
    # message. All other failures are `Refused`.
    refusals: Mapping[int | str, type[SchedulerError]]
    # How long to wait for a record in accounting after an element has ended.
    accounting_patience_s: float

    def __init__(self, options: Options):
        self._options = options
        umask = own_umask()
        self._umask = _USUAL_UMASK if umask is None else umask
        self._has_submitted = False
        # (job id, token) of jobs whose names were changed, and that are known by their scripts.
        self._known_by_script: set[tuple[str, str]] = set()

    @property
    def cluster(self) -> Hashable:
        return self.system

    # -- what a subclass knows of its system --

    @abstractmethod
    def submit_command(self, request: ArrayRequest) -> list[str]:
        """The command that submits the array. The path of the job's script is added to it.

        The job has the name `job_name(request)`, its script is run by /bin/sh, and what the system
        itself would write to a log is thrown away: the script opens the log.
        """

    @abstractmethod
    def queue(self) -> Iterable[QueueRow]:
        """The user's jobs that have not ended. Raises: Unreachable."""

    @abstractmethod
    def report(self, row: QueueRow) -> Report:
        """The report about all elements of a row of `queue`."""

    @abstractmethod
    def script_path(self, job_id: str) -> str:
        """The path of the script of a job in the queue; "" if the system does not show it.

        Raises: Unreachable; CommandFailed, if the job has ended.
        """

    @abstractmethod
    def records(self, job_id: str) -> Iterable[Record]:
        """The records in accounting of this job id, in the order of their ends.

        Jobs of other arrays may have had the same id: they are sorted out by their names.
        Raises: SchedulerError, if there are none.
        """

    @abstractmethod
    def ending(self, record: Record) -> Ending:
        """Why the element of this record has ended."""

    @abstractmethod
    def element_ids(self, job_id: str, first: int, last: int) -> str:
        """A word of `delete` for the elements of an array with the indexes `first` to `last`.

        It is the job id, a character that is no digit, and more.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Deletes jobs and elements, in one command; ignores those that have ended.

        `ids`: job ids, and words of `element_ids`. Raises: Unreachable.
        """

    # -- commands --

    def run(self, *command: str, timeout_s: float = _QUERY_TIMEOUT_S) -> str:
        """Runs a command of the system and returns what it prints to stdout.

        Raises: Unreachable, if it has no answer; CommandFailed, if the answer is an error.
        """
        try:
            return commands.run(
                command,
                timeout_s=timeout_s,
                environment={**os.environ, **self.variables},
                where_missing=self.where_missing,
            )
        except CommandFailed as exc:
            if self.unreachable_words.search(str(exc)):
                raise Unreachable(str(exc)) from exc
            raise

    # -- submission --

    def submit(self, request: ArrayRequest) -> str:
        job_path = os.path.join(request.run_directory, f"{request.token}.job")
        command = [*self.submit_command(request), job_path]
        write_script(job_path, self._job_script(request))
        self._has_submitted = True
        try:
            stdout = self.run(*command, timeout_s=self.submit_timeout_s)
        except SchedulerError as exc:
            raise self._refusal(exc, command) from exc
        finally:
            with suppress(OSError):
                os.unlink(job_path)  # the command has read it
        job_id = self.job_id_pattern.search(stdout)
        if job_id is None:
            raise Uncertain(f"{command[0]} printed no job id but {stdout!r}")
        return job_id.group(1)

    def _job_script(self, request: ArrayRequest) -> str:
        """Writes the script of the elements. Returns: the script of the job, which runs it."""
        path = os.path.join(request.run_directory, f"{request.token}.sh")
        names = self._names(request)
        shell = write_element_script(
            path,
            names,
            exports(self.job.own_variables),
            request.command,
            # As cluster_tools.job.worker takes them.
            f'"$cluster_tools_index" "{self.job.restarts}" "$cluster_tools_job" '
            '"$cluster_tools_log"',
            request.working_directory,
            self._options.setup_lines,
        )
        return supervising_script(
            path,
            shell,
            names,
            owner=os.stat(path).st_uid,
            umask=self._umask,
            trusts_group=self._options.trust_group,
            warning=self.job.warning,
            grace_s=self._options.grace_s,
            not_to_end_with=self.job.not_to_end_with,
        )

    def _names(self, request: ArrayRequest) -> str:
        """Shell lines that set an element's index, its job id and the path of its log."""
        log = self.log_path(
            shlex.quote(self._options.log_directory), Element('"$cluster_tools_job"')
        )
        lines = [f"cluster_tools_job={self.job.job_id}", "cluster_tools_index=0"]
        if request.is_array:
            lines[1] = f"cluster_tools_index={self.job.index}"
            lines.append('cluster_tools_job="${cluster_tools_job}_$cluster_tools_index"')
        return "".join(f"{line}\n" for line in (*lines, f"cluster_tools_log={log}"))

    def _refusal(self, error: SchedulerError, command: Sequence[str]) -> SchedulerError:
        """Returns the exception that `submit` raises after the command has failed with `error`."""
        words = str(error)
        if isinstance(error, Unreachable):
            return error if self.not_arrived_words.search(words) else Uncertain(words)
        code = error.exit_code if isinstance(error, CommandFailed) else None
        for sign, kind in self.refusals.items():
            if sign == code or (isinstance(sign, str) and sign in words):
                return kind(words)
        return Refused(f"{command[0]} says: {words}\nThe command was: {shlex.join(command)}")

    def find(self, token: str) -> str | None:
        return next((row.job_id for row in self.queue() if has_token(row.name, token)), None)

    # -- states --

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        self._known_by_script &= jobs.items()
        reports: dict[Element, Report] = {}
        there: set[str] = set()
        for row in self.queue():
            token = jobs.get(row.job_id)
            if token is None or not self._is_ours(row.job_id, row.name, token):
                continue
            there.add(row.job_id)
            reports.update(dict.fromkeys(row.elements(), self.report(row)))
        # A job that has left the queue has ended only if accounting has a record of it.
        for job_id in [job_id for job_id in jobs if job_id not in there][:_MAX_ACCOUNTED_JOBS]:
            for element, record in self._accounted(job_id, jobs[job_id]).items():
                reports[element] = Report(State.ENDED, record.word)
        return reports

    def _is_ours(self, job_id: str, name: str, token: str) -> bool:
        """Whether the job has this token, by its name or by its script. Raises: Unreachable."""
        if has_token(name, token) or (job_id, token) in self._known_by_script:
            return True
        if not self._is_of_script(job_id, token):
            return False
        self._known_by_script.add((job_id, token))
        return True

    def _is_of_script(self, job_id: str, token: str) -> bool:
        """Whether the job has this token, by the path of its script. Raises: Unreachable."""
        try:
            return has_token(os.path.basename(self.script_path(job_id)), token)
        except CommandFailed:  # the job has ended
            return False

    def _accounted(self, job_id: str, token: str) -> Mapping[Element, Record]:
        """The last record of each element of the job; empty if accounting has no record."""
        is_known = (job_id, token) in self._known_by_script
        try:
            return {
                record.element: record
                for record in self.records(job_id)
                if is_known or has_token(record.name, token)
            }
        except SchedulerError:  # no record yet, or accounting can't be read on this machine
            return {}

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        found: dict[Element, Record] = {}
        deadline = time.monotonic() + self.accounting_patience_s
        while True:
            for job_id in sorted({element.job_id for element in ended.keys() - found.keys()}):
                found |= self._accounted(job_id, jobs[job_id])
            if ended.keys() <= found.keys() or time.monotonic() > deadline:
                break
            time.sleep(_ACCOUNTING_INTERVAL_S)
        return {
            element: self.ending(found[element])
            if element in found
            else forgotten(element, self.system, self.accounting)
            for element in ended
        }

    # -- cancelling --

    def cancel(self, elements: Collection[Element], token: str) -> None:
        indexes: defaultdict[str, list[int]] = defaultdict(list)
        for element in elements:
            indexes[element.job_id] += [] if element.index is None else [element.index]
        ids: list[str] = []
        for job_id, some in indexes.items():
            ids += [self.element_ids(job_id, first, last) for first, last in ranges(some)]
            ids += [] if some else [job_id]
        try:
            self._start_stop("elements", token, ids)
        except OSError as exc:
            raise Unreachable(str(exc)) from exc

    def stop(self, job_ids: Collection[str], token: str) -> None:
        if self._has_submitted:
            self._start_stop("all", token, job_ids)

    def _start_stop(self, what: str, token: str, ids: Iterable[str]) -> None:
        """Starts the helper, which runs `main`, below. Raises: OSError."""
        module, kind = type(self).__module__, type(self).__qualname__
        package = module.partition(".")[0]
        start_helper(
            __name__,
            [module, kind, what, token],
            stdin="".join(f"{one}\n" for one in ids),
            entries=() if package == __name__.partition(".")[0] else entries_for(package),
        )

    def jobs_of(self, token: str, known: Collection[str]) -> Collection[str]:
        """The ids of an executor's jobs in the queue. Raises: Unreachable.

        `token`: the executor's. `known`: the job ids that it knows; of these, a job whose name was
        changed is found, too.
        """
        names = {row.job_id: row.name for row in self.queue()}
        ours = {job_id for job_id, name in names.items() if has_token(name, token)}
        unclear = (names.keys() & known) - ours
        return ours | {job_id for job_id in unclear if self._is_of_script(job_id, token)}


def main(arguments: Sequence[str], begun: Callable[[], None]) -> None:
    """Cancels jobs in a helper process, by the commands of one system; see `stopping`.

    `arguments`: the module and the name of a subclass, and then those of `stopping.stop`.
    """
    module, kind, *others = arguments
    scheduler: QueueingScheduler = getattr(import_module(module), kind)(Options())
    stopping.stop(others, begun, scheduler.jobs_of, scheduler.delete)
