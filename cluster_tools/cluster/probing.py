"""Asks schedulers how the elements are whose outputs have not come.

    sessions --open tasks--> prober thread --one query a cluster--> scheduler
       ^                          |
       +---- endings, outputs ----+

One thread for all executors of the process; its commands may take their time. Nothing is concluded from
silence: only a positive answer decides, or an element that stays unknown while the scheduler answers.
An element that has ended is looked for on the disk once more before its task is given up.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from cluster_tools.cluster import logs
from cluster_tools.cluster.tasks import Piece
from cluster_tools.format import run_files
from cluster_tools.schedulers.base import (
    Cause,
    Element,
    Ending,
    Report,
    SchedulerError,
    State,
)

if TYPE_CHECKING:
    from cluster_tools.cluster.session import Session

# An ending is noticed at most this part of its waiting time late.
_INTERVAL_PART = 0.1
# The part of a processor that asking may take, however many elements there are: never more than the
# first, and mostly the second.
_MAX_LOAD = 0.02
_LOAD = 0.005
# Between looks at an element that has ended, until its output is there or given up: at least, and as a
# part of the time that files may be late.
_MIN_RECHECK_S = 1.0
_RECHECK_PART = 0.1
# An element that the scheduler does not mention in any answer for so long is forgotten.
_UNKNOWN_PATIENCE_S = 60.0
# The same where it mentions others of the array: that is no silence.
_UNMENTIONED_PATIENCE_S = 5.0
# For so long no call is given up because the run directory can't be read.
_UNREADABLE_PATIENCE_S = 120.0
# Between losing a node or being preempted and being requeued, a scheduler may say "ended".
_REQUEUE_PATIENCE_S = 6.0

_logger = logging.getLogger("cluster_tools")


class _Suspicion:
    """An element that may be dead: since when, and by which word."""

    def __init__(self, report: Report | None):
        self.since = time.monotonic()
        self.report = report


class Docket:
    """What the prober remembers of one session between its rounds."""

    def __init__(self, session: Session):
        self._session = session
        self._suspicions: dict[Element, _Suspicion] = {}
        # Elements have ended whose outputs are not there.
        self._hurries = False
        self._told: set[tuple[str, str]] = set()
        # Since when an element waits in the queue without a break; kept only where that is limited.
        self._pending_since: dict[Element, float] = {}
        # At the last look outputs could not be opened, though they may exist.
        self._is_unreadable = False
        # The session has been told how they ended; it may be slow to act on it.
        self._given_up: set[Element] = set()

    @property
    def recheck_s(self) -> float | None:
        """When to look again at elements that have ended; None where there are none."""
        if not self._suspicions or not self._hurries:
            return None
        return max(_MIN_RECHECK_S, self._session.late_files_s * _RECHECK_PART)

    def judge(self, pieces: Sequence[Piece], reports: Mapping[Element, Report]) -> None:
        """Takes in one answer of the scheduler; tells the session what it proves."""
        suspects: dict[Element, Piece] = {}
        hopeless: dict[Element, tuple[Piece, Ending]] = {}
        there: set[Element] = set()
        for piece in pieces:
            for position in piece.open_positions():
                element = piece.element(position)
                there.add(element)
                if element in self._given_up:
                    continue
                # A row without an index stands for all elements that have none of their own.
                report = reports.get(element, reports.get(Element(element.job_id)))
                if report is None or report.state is State.ENDED:
                    suspects[element] = piece
                    known = self._suspicions.get(element)
                    if known is None or (known.report is None) != (report is None):
                        self._suspicions[element] = _Suspicion(report)
                else:
                    self._suspicions.pop(element, None)
                    ending = self._hopeless(
                        piece, position, element, report, own=element in reports
                    )
                    if ending is not None:
                        hopeless[element] = (piece, ending)
        for element in [element for element in self._suspicions if element not in suspects]:
            del self._suspicions[element]
        self._forget_all_but(there)
        if hopeless:
            self._given_up.update(hopeless)
            self._session.cancel_elements(list(hopeless))
            for element, (piece, ending) in hopeless.items():
                self._session.on_dead(piece, element, ending)
        if suspects:
            self._examine(suspects, {element.job_id for element in reports})

    def _forget_all_but(self, there: set[Element]) -> None:
        """What is over is not asked about again."""
        self._given_up &= there
        for element in self._pending_since.keys() - there:
            del self._pending_since[element]
        jobs = {element.job_id for element in there}
        self._told = {(job_id, reason) for job_id, reason in self._told if job_id in jobs}

    def _hopeless(
        self, piece: Piece, position: int, element: Element, report: Report, *, own: bool
    ) -> Ending | None:
        """Why an element that has not begun is given up; None while it may still run.

        `own`: the report is on this element alone, not on all the rest of its array.
        """
        future = piece.array.futures[position]
        has_started = future is None or future.has_started()
        if has_started or (own and report.state is not State.PENDING):
            self._pending_since.pop(element, None)
        if report.state is not State.PENDING:
            # Slurm waits for ever for somebody who reads a FIFO in the place of a log.
            if not has_started and logs.is_something_else(self._session.log_path(element)):
                return Ending(Cause.NEVER_STARTED, logs.NOT_A_LOG)
            return None
        details = f": {report.details}" if report.details else ""
        reason = f"The job waits ({report.word}, reason {report.reason}{details})"
        if not has_started:
            if report.hopeless:
                return Ending(Cause.NEVER_STARTED, f"{reason} {report.hopeless}.")
            limit = self._session.pending_timeout_s
            now = time.monotonic()
            if limit is not None and now - self._pending_since.setdefault(element, now) > limit:
                return Ending(
                    Cause.NEVER_STARTED,
                    f"{reason} for longer than pending_timeout_s = {limit:g} s.",
                )
        if report.notable and (piece.job_id or "", report.reason) not in self._told:
            self._told.add((piece.job_id or "", report.reason))
            _logger.warning("%s: job %s of %s", reason, piece.job_id, piece.array.name)
        return None

    def _examine(self, suspects: Mapping[Element, Piece], known_jobs: set[str]) -> None:
        session = self._session
        tasks = {piece.array.first + piece.position(e): e for e, piece in suspects.items()}
        found, unknown = session.directory.look_again(tasks)
        self._say_unreadable(unknown)
        names = [name for names in found.values() for name in names]
        if names:
            session.on_seen(names)
        now = time.monotonic()
        given_up: dict[Element, Report | None] = {}
        for task, element in tasks.items():
            if run_files.output_name(task) in found.get(task, ()):
                del self._suspicions[element]
                continue
            suspicion = self._suspicions[element]
            patience = session.late_files_s
            if task in unknown:  # an error is no answer
                patience = max(patience, _UNREADABLE_PATIENCE_S)
            if suspicion.report is None:
                is_array_known = element.job_id in known_jobs
                unknown_s = _UNMENTIONED_PATIENCE_S if is_array_known else _UNKNOWN_PATIENCE_S
                patience = max(patience, unknown_s)
            elif suspicion.report.may_return:
                patience = max(patience, _REQUEUE_PATIENCE_S)
            if now - suspicion.since >= patience:
                given_up[element] = suspicion.report
        self._hurries = any(
            suspicion.report is not None or element.job_id in known_jobs
            for element, suspicion in self._suspicions.items()
        )
        if not given_up:
            return
        tokens = {element.job_id: suspects[element].token for element in given_up}
        endings = session.scheduler.explain(given_up, tokens)
        self._given_up.update(given_up)
        for element in given_up:
            del self._suspicions[element]
            session.on_dead(suspects[element], element, endings[element])

    def _say_unreadable(self, unknown: Mapping[int, OSError]) -> None:
        if bool(unknown) == self._is_unreadable:
            return
        self._is_unreadable = bool(unknown)
        path = self._session.directory.path
        if unknown:
            error = next(iter(unknown.values()))
            _logger.warning("%s can't be read for now; looking again: %s", path, error)
        else:
            _logger.warning("%s can be read again.", path)


class _Round:
    """When a cluster is to be asked next, and how it answered last."""

    def __init__(self) -> None:
        self.last_news = time.monotonic()
        self.due = 0.0
        # Not asked before this time, even where something new was submitted.
        self.rests_until = 0.0
        self.unreachable = False


class Prober(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="cluster_tools-prober", daemon=True)
        # Only whole-dict operations, which need no lock.
        self._dockets: dict[Session, Docket] = {}
        self._wakes: queue.SimpleQueue[Session | None] = queue.SimpleQueue()
        self._ended = False
        self._rounds: defaultdict[Hashable, _Round] = defaultdict(_Round)

    def add(self, session: Session) -> None:
        self._dockets[session] = Docket(session)

    def remove(self, session: Session) -> None:
        self._dockets.pop(session, None)
        self._rounds.pop(session.scheduler.cluster, None)  # others of the cluster begin a new one

    def expect(self, session: Session) -> None:
        """Something was submitted: ask often from now on."""
        self._wakes.put(session)

    def stop(self) -> None:
        self._ended = True
        self._wakes.put(None)

    def run(self) -> None:
        while not self._ended:
            due = [self._rounds[cluster].due for cluster in self._clusters()]
            timeout = max(0.0, min(due) - time.monotonic()) if due else None
            woken = self._wait(timeout)
            for session in woken:
                if session in self._dockets:
                    self._hurry(session)
            if woken or self._ended:
                continue
            try:
                self._ask_all()
            except Exception:  # nobody else would notice a death any more
                _logger.exception("the prober goes on after an unexpected error")
                time.sleep(_MIN_RECHECK_S)

    def _wait(self, timeout: float | None) -> set[Session]:
        """Waits so long, or until something is submitted. Returns: the sessions that did that."""
        woken: set[Session] = set()
        while not self._ended:
            try:
                session = self._wakes.get(timeout=0 if woken else timeout)
            except queue.Empty:
                break
            if session is not None:
                woken.add(session)
        return woken

    def _clusters(self) -> set[Hashable]:
        """Those where jobs are open. Looks at none of them, as it is asked at each wake."""
        return {session.scheduler.cluster for session in list(self._dockets) if session.has_jobs()}

    def _hurry(self, session: Session) -> None:
        now = time.monotonic()
        round_ = self._rounds[session.scheduler.cluster]
        idle = round_.due < now
        round_.last_news = now
        first = max(round_.rests_until, now + session.scheduler.min_interval_s)
        round_.due = first if idle else min(round_.due, first)

    def _asking(self) -> dict[Hashable, list[tuple[Docket, Session, list[Piece]]]]:
        """The sessions with jobs whose tasks are not all done, by cluster."""
        asking: defaultdict[Hashable, list[tuple[Docket, Session, list[Piece]]]]
        asking = defaultdict(list)
        for session, docket in list(self._dockets.items()):
            pieces = session.open_pieces()
            if pieces:
                asking[session.scheduler.cluster].append((docket, session, pieces))
        return asking

    def _ask_all(self) -> None:
        now = time.monotonic()
        for cluster, asking in self._asking().items():
            round_ = self._rounds[cluster]
            if round_.due > now:
                continue
            scheduler = asking[0][1].scheduler
            began = time.thread_time()
            jobs = {
                piece.job_id: piece.token
                for _, _, pieces in asking
                for piece in pieces
                if piece.job_id is not None
            }
            try:
                reports = scheduler.states(jobs)
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
                for docket, _, pieces in asking:
                    try:
                        docket.judge(pieces, reports)
                    except Exception:  # one session's disk must not hide the others' deaths
                        _logger.exception("the states of one executor's jobs could not be judged")
            part = (time.monotonic() - round_.last_news) * _INTERVAL_PART
            cost = time.thread_time() - began
            round_.rests_until = time.monotonic() + cost / _MAX_LOAD
            pace = min(cost / _LOAD, part + 2 * scheduler.min_interval_s)
            interval = min(scheduler.max_interval_s, max(scheduler.min_interval_s, part, pace))
            for docket, _, _ in asking:
                recheck_s = docket.recheck_s
                if recheck_s is not None:
                    interval = min(interval, recheck_s)
            round_.due = max(round_.rests_until, time.monotonic() + interval)
