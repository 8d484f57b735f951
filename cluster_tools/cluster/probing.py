"""Asks schedulers for the states of elements whose outputs have not been seen.

    executors --open jobs--> prober thread --one query a cluster--> scheduler
       ^                                   |
       +--- ElementEnded, FilesAppeared ---+

One thread does this for all executors of the process; its commands may take long. It gives an
element up only if the scheduler says that it has ended, or if the scheduler answers and for some
time does not mention it. A scheduler that does not answer proves nothing. Before an element is
given up, its output is looked for on the disk once more. While outputs of all these executors come
in, the next query is put off for some time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

from cluster_tools.cluster import logs
from cluster_tools.cluster.events import ElementEnded, Event, FilesAppeared
from cluster_tools.cluster.jobs import Jobs
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.tasks import Job
from cluster_tools.format import run_files
from cluster_tools.schedulers.base import (
    Cause,
    Element,
    Ending,
    Report,
    Scheduler,
    SchedulerError,
    State,
)

# The interval between two queries, as a part of the time since the last submission. So the end of
# an element is noticed late by at most this part of its waiting time.
_INTERVAL_PART = 0.1
# For how long a query is put off at most while outputs come in, in units of the scheduler's
# `min_interval_s`: an element that has ended without output is noticed later by so much.
_MAX_PUT_OFF = 5.0
# The part of one CPU that queries may use, however many elements there are: the maximum, and what
# is used in most cases.
_MAX_LOAD = 0.02
_LOAD = 0.005
# The interval between two looks for the output of an element that has ended: the minimum, and as a
# part of the time that files may be late.
_MIN_RECHECK_S = 1.0
_RECHECK_PART = 0.1
# An element that no answer of the scheduler has mentioned for so long is given up.
_UNKNOWN_PATIENCE_S = 60.0
# The same if the answers mention other elements of its job.
_UNMENTIONED_PATIENCE_S = 5.0
# The same if the run directory can't be read.
_UNREADABLE_PATIENCE_S = 120.0
# After a node failure or a preemption, a scheduler may say "ended" before it requeues the element.
_REQUEUE_PATIENCE_S = 6.0

_logger = logging.getLogger("cluster_tools")


class _Suspicion:
    """An element that may have ended.

    `report`: what the scheduler has said of it; None if it did not mention the element.
    """

    def __init__(self, report: Report | None):
        self.since = time.monotonic()
        self.report = report


class Probe:
    """One executor, as the prober sees it: its jobs, and what is remembered between two queries.

    Arguments:
        late_files_s: How many seconds after a job has written a file it may become visible here.
        pending_timeout_s: Seconds after which a pending element is given up; None: never.
        post: Puts an event into the resolver's inbox.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        jobs: Jobs,
        directory: RunDirectory,
        *,
        late_files_s: float,
        pending_timeout_s: float | None,
        post: Callable[[Event], None],
    ):
        self.scheduler = scheduler
        self.jobs = jobs
        self._directory = directory
        self._late_files_s = late_files_s
        self._pending_timeout_s = pending_timeout_s
        self._post = post
        # When an output was last seen (time.monotonic).
        self._last_output = 0.0
        self._suspicions: dict[Element, _Suspicion] = {}
        # There are elements that seem to have ended and whose outputs are missing.
        self._awaits_outputs = False
        # (job id, reason) of the warnings that were logged.
        self._told: set[tuple[str, str]] = set()
        # Since when an element is pending without a break. Only filled with a `pending_timeout_s`.
        self._pending_since: dict[Element, float] = {}
        # At the last look outputs could not be opened, although they may exist.
        self._is_unreadable = False
        # Elements whose end was posted. The resolver may not have handled these events yet.
        self._given_up: set[Element] = set()

    @property
    def recheck_s(self) -> float | None:
        """In how many seconds to look for outputs of ended elements again; None: not needed."""
        if not self._suspicions or not self._awaits_outputs:
            return None
        return max(_MIN_RECHECK_S, self._late_files_s * _RECHECK_PART)

    def note_outputs(self) -> None:
        """Outputs have been seen. May be called in any thread."""
        self._last_output = time.monotonic()

    def quiet_since(self, asked_at: float) -> float | None:
        """Since when no output has come; None if none has come since the query at `asked_at`.

        None also while elements are examined that may have ended.
        """
        if self._suspicions or self._last_output <= asked_at:
            return None
        return self._last_output

    def take_in(self, jobs: Sequence[Job], reports: Mapping[Element, Report]) -> None:
        """Handles one answer of the scheduler, and posts the ends of elements."""
        suspects: dict[Element, Job] = {}
        hopeless: dict[Element, tuple[Job, Ending]] = {}
        there: set[Element] = set()
        for job in jobs:
            for position in job.open_positions():
                element = job.element(position)
                there.add(element)
                if element in self._given_up:
                    continue
                # A report without an index is about all elements that have no report of their own.
                report = reports.get(element, reports.get(Element(element.job_id)))
                if report is None or report.state is State.ENDED:
                    suspects[element] = job
                    known = self._suspicions.get(element)
                    if known is None or (known.report is None) != (report is None):
                        self._suspicions[element] = _Suspicion(report)
                else:
                    self._suspicions.pop(element, None)
                    ending = self._hopeless(job, position, element, report, own=element in reports)
                    if ending is not None:
                        hopeless[element] = (job, ending)
        for element in [element for element in self._suspicions if element not in suspects]:
            del self._suspicions[element]
        self._forget_all_but(there)
        if hopeless:
            self._given_up.update(hopeless)
            self.jobs.cancel(list(hopeless))
            for element, (job, ending) in hopeless.items():
                self._post(ElementEnded(job, element, ending))
        if suspects:
            self._examine(suspects, {element.job_id for element in reports})

    def _forget_all_but(self, there: set[Element]) -> None:
        """Forgets what is stored about elements that are not in `there`."""
        self._given_up &= there
        for element in self._pending_since.keys() - there:
            del self._pending_since[element]
        jobs = {element.job_id for element in there}
        self._told = {(job_id, reason) for job_id, reason in self._told if job_id in jobs}

    def _hopeless(
        self, job: Job, position: int, element: Element, report: Report, *, own: bool
    ) -> Ending | None:
        """Why an element that has not begun is given up; None while it may still run.

        `own`: whether the report is about this element alone, and not about several of its array.
        """
        has_started = job.array.has_started(position)
        if has_started or (own and report.state is not State.PENDING):
            self._pending_since.pop(element, None)
        if report.state is not State.PENDING:
            # If a FIFO is in the place of the log, Slurm waits for ever until it has a reader.
            if not has_started and logs.is_something_else(self.jobs.log_path(element)):
                return Ending(Cause.NEVER_STARTED, logs.NOT_A_LOG)
            return None
        details = f": {report.details}" if report.details else ""
        reason = f"The job waits ({report.word}, reason {report.reason}{details})"
        if not has_started:
            if report.hopeless:
                return Ending(Cause.NEVER_STARTED, f"{reason} {report.hopeless}.")
            limit = self._pending_timeout_s
            now = time.monotonic()
            if limit is not None and now - self._pending_since.setdefault(element, now) > limit:
                return Ending(
                    Cause.NEVER_STARTED,
                    f"{reason} for longer than pending_timeout_s = {limit:g} s.",
                )
        if report.notable and (job.job_id or "", report.reason) not in self._told:
            self._told.add((job.job_id or "", report.reason))
            _logger.warning("%s: job %s of %s", reason, job.job_id, job.array.name)
        return None

    def _examine(self, suspects: Mapping[Element, Job], known_jobs: set[str]) -> None:
        """Looks for the outputs of elements that may have ended, and gives some elements up.

        `known_jobs`: ids of the jobs of which the scheduler's answer has any element.
        """
        tasks = {job.array.first + job.position(e): e for e, job in suspects.items()}
        found, unknown = self._directory.look_again(tasks)
        self._say_unreadable(unknown)
        names = [name for names in found.values() for name in names]
        if names:
            self._post(FilesAppeared(names))
        now = time.monotonic()
        given_up: dict[Element, Report | None] = {}
        for task, element in tasks.items():
            if run_files.output_name(task) in found.get(task, ()):
                del self._suspicions[element]
                continue
            suspicion = self._suspicions[element]
            patience = self._late_files_s
            if task in unknown:  # an error does not prove that there is no output
                patience = max(patience, _UNREADABLE_PATIENCE_S)
            if suspicion.report is None:
                is_array_known = element.job_id in known_jobs
                unknown_s = _UNMENTIONED_PATIENCE_S if is_array_known else _UNKNOWN_PATIENCE_S
                patience = max(patience, unknown_s)
            elif suspicion.report.may_return:
                patience = max(patience, _REQUEUE_PATIENCE_S)
            if now - suspicion.since >= patience:
                given_up[element] = suspicion.report
        self._awaits_outputs = any(
            suspicion.report is not None or element.job_id in known_jobs
            for element, suspicion in self._suspicions.items()
        )
        if not given_up:
            return
        tokens = {element.job_id: suspects[element].token for element in given_up}
        endings = self.scheduler.explain(given_up, tokens)
        self._given_up.update(given_up)
        for element in given_up:
            del self._suspicions[element]
            self._post(ElementEnded(suspects[element], element, endings[element]))

    def _say_unreadable(self, unknown: Mapping[int, OSError]) -> None:
        if bool(unknown) == self._is_unreadable:
            return
        self._is_unreadable = bool(unknown)
        path = self._directory.path
        if unknown:
            error = next(iter(unknown.values()))
            _logger.warning("%s can't be read for now; looking again: %s", path, error)
        else:
            _logger.warning("%s can be read again.", path)


class _Round:
    """When to ask a cluster next, and whether it has answered. Times are of time.monotonic."""

    def __init__(self) -> None:
        # The last submission.
        self.last_news = time.monotonic()
        # The next query; the last one, and after how many seconds the next was planned then.
        self.due = 0.0
        self.asked_at = 0.0
        self.interval = 0.0
        # No query before this time, even after a submission.
        self.rests_until = 0.0
        self.unreachable = False


class Prober(threading.Thread):
    """The thread that asks all schedulers of the process.

    Other threads call `add`, `remove`, `expect` and `stop`.
    """

    def __init__(self) -> None:
        super().__init__(name="cluster_tools-prober", daemon=True)
        # An ordered set. Needs no lock: each operation on it is atomic.
        self._probes: dict[Probe, None] = {}
        self._wakes: queue.SimpleQueue[Probe | None] = queue.SimpleQueue()
        self._ended = False
        self._rounds: defaultdict[Hashable, _Round] = defaultdict(_Round)

    def add(self, probe: Probe) -> None:
        self._probes[probe] = None

    def remove(self, probe: Probe) -> None:
        self._probes.pop(probe, None)
        # Other executors of the same cluster begin a new round.
        self._rounds.pop(probe.scheduler.cluster, None)

    def expect(self, probe: Probe) -> None:
        """The executor has submitted a job: ask its scheduler often from now on."""
        self._wakes.put(probe)

    def stop(self) -> None:
        self._ended = True
        self._wakes.put(None)

    def run(self) -> None:
        while not self._ended:
            due = [self._rounds[cluster].due for cluster in self._clusters()]
            timeout = max(0.0, min(due) - time.monotonic()) if due else None
            woken = self._wait(timeout)
            for probe in woken:
                if probe in self._probes:
                    self._ask_soon(probe)
            if woken or self._ended:
                continue
            try:
                self._ask_all()
            except Exception:  # without this thread, ends of elements would not be noticed
                _logger.exception("the prober goes on after an unexpected error")
                time.sleep(_MIN_RECHECK_S)

    def _wait(self, timeout: float | None) -> set[Probe]:
        """Waits for `timeout` seconds, or until a job is submitted; None: without a limit.

        Returns: the probes of the executors that have submitted jobs.
        """
        woken: set[Probe] = set()
        while not self._ended:
            try:
                probe = self._wakes.get(timeout=0 if woken else timeout)
            except queue.Empty:
                break
            if probe is not None:
                woken.add(probe)
        return woken

    def _clusters(self) -> set[Hashable]:
        """The clusters that may have open jobs. Cheap, because it is called at each wake."""
        return {probe.scheduler.cluster for probe in list(self._probes) if probe.jobs.any()}

    def _ask_soon(self, probe: Probe) -> None:
        """Moves the next query of the probe's cluster to the earliest allowed time."""
        now = time.monotonic()
        round_ = self._rounds[probe.scheduler.cluster]
        idle = round_.due < now
        round_.last_news = now
        first = max(round_.rests_until, now + probe.scheduler.min_interval_s)
        round_.due = first if idle else min(round_.due, first)

    def _asking(self) -> dict[Hashable, list[tuple[Probe, list[Job]]]]:
        """Cluster -> the executors with open jobs there, and these jobs."""
        asking: defaultdict[Hashable, list[tuple[Probe, list[Job]]]] = defaultdict(list)
        for probe in list(self._probes):
            jobs = probe.jobs.open()
            if jobs:
                asking[probe.scheduler.cluster].append((probe, jobs))
        return asking

    def _ask_all(self) -> None:
        """Asks each cluster whose next query is due."""
        now = time.monotonic()
        for cluster, asking in self._asking().items():
            round_ = self._rounds[cluster]
            if round_.due <= now:
                round_.due = self._put_off(round_, asking)
            if round_.due > now:
                continue
            round_.asked_at = now
            scheduler = asking[0][0].scheduler
            began = time.thread_time()
            tokens = {
                job.job_id: job.token
                for _, jobs in asking
                for job in jobs
                if job.job_id is not None
            }
            try:
                reports = scheduler.states(tokens)
            except SchedulerError as exc:
                if not round_.unreachable:
                    _logger.warning(
                        "The scheduler does not answer; jobs go on, asking again: %s", exc
                    )
                round_.unreachable = True
            else:
                if round_.unreachable:
                    _logger.warning("The scheduler answers again.")
                round_.unreachable = False
                for probe, jobs in asking:
                    try:
                        probe.take_in(jobs, reports)
                    except Exception:  # the ends of other executors' elements must be noticed
                        _logger.exception("the states of one executor's jobs could not be judged")
            part = (time.monotonic() - round_.last_news) * _INTERVAL_PART
            cost = time.thread_time() - began
            round_.rests_until = time.monotonic() + cost / _MAX_LOAD
            pace = min(cost / _LOAD, part + 2 * scheduler.min_interval_s)
            interval = min(scheduler.max_interval_s, max(scheduler.min_interval_s, part, pace))
            for probe, _ in asking:
                recheck_s = probe.recheck_s
                if recheck_s is not None:
                    interval = min(interval, recheck_s)
            round_.interval = interval
            round_.due = max(round_.rests_until, time.monotonic() + interval)

    @staticmethod
    def _put_off(round_: _Round, asking: Sequence[tuple[Probe, list[Job]]]) -> float:
        """When to ask instead of now, as outputs of all executors have come since the last query.

        Only then: an executor whose elements have all ended without output has to be noticed soon.
        """
        quiet = [probe.quiet_since(round_.asked_at) for probe, _ in asking]
        since = [time_s for time_s in quiet if time_s is not None]
        if len(since) < len(quiet):
            return round_.due
        least = asking[0][0].scheduler.min_interval_s
        latest = max(round_.asked_at, round_.last_news) + _MAX_PUT_OFF * least
        return max(round_.due, min(latest, min(since) + max(least, round_.interval)))
