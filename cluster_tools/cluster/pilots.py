"""The pilots of one executor, seen from the client.

    resolver --arrays--> PilotQueue --ranges of tasks--> pilots --journals--> JournalReader
       ^                                                                          |
       +--outputs, ends-- PilotPool: notes which tasks began and which ended <----+
       +--element's end-> PilotPool: fails the task that the ended pilot ran, gives its other tasks
                          back to the queue, and starts another pilot

Only the resolver's thread may call a method whose docstring does not say otherwise.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any, ClassVar, Protocol

from cluster_tools import own_files, pickling
from cluster_tools.cluster import failures
from cluster_tools.cluster.arrays import Arrays
from cluster_tools.cluster.calls import CallArray
from cluster_tools.cluster.events import Event, JournalsGrew, Refused, RunLater
from cluster_tools.cluster.failures import TaskLocation
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.jobs import Jobs
from cluster_tools.cluster.journals import JournalReader, WatchedJournals
from cluster_tools.cluster.ledger import Ledger
from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.logs import LogSection
from cluster_tools.cluster.pilot_queue import NotOffered, PilotQueue
from cluster_tools.cluster.run_directory import Outcome, RunDirectory, stored_outcome
from cluster_tools.cluster.settings import Settings
from cluster_tools.cluster.tasks import State, TaskArray
from cluster_tools.errors import (
    RemoteNeverStartedException,
    RemoteTimeLimitException,
    SubmissionException,
)
from cluster_tools.format import pilots, run_files
from cluster_tools.job import pilot as pilot_job
from cluster_tools.schedulers.base import Element

# How many pilots may end, one after the other, without having begun a task. Then no more are
# started.
_MAX_FAILURES = 4
# The same for pilots whose initializer has failed.
_MAX_INITIALIZER_FAILURES = 2
# Calls may wait for others for this part of the time for which pilots have enough to do.
_GATHERING_PART = 0.25
_MAX_GATHERING_S = 0.1
# The weight of the newest tasks in the moving average of tasks' durations.
_NEWEST_PART = 0.2

_logger = logging.getLogger("cluster_tools")


@dataclass(eq=False)
class Pilot:
    """One pilot, from its submission to its end."""

    array: PilotArray | None = None
    position: int = 0
    # The pickled failure of its initializer, if the pilot has ended because of that.
    failed_initializer: bytes | None = None
    # Why its element has ended, if it has failed.
    error: BaseException | None = None

    @property
    def element(self) -> Element | None:
        """The pilot's element; None if it has no job."""
        place = None if self.array is None else self.array.place_of(self.position)
        return None if place is None or place.job_id is None else place.element(self.position)


@dataclass(eq=False, kw_only=True)
class PilotArray(TaskArray):
    """An array whose tasks are pilots."""

    runs_pilots: ClassVar[bool] = True

    pilots: list[Pilot]
    # Returns: whether the pilot was still needed.
    on_pilot_end: Callable[[Pilot], bool]
    on_pilot_abandoned: Callable[[Pilot], None]

    def __post_init__(self) -> None:
        super().__post_init__()
        for position, pilot in enumerate(self.pilots):
            pilot.array, pilot.position = self, position

    def describe(self, position: int) -> str:
        return "The pilot" if self.count == 1 else f"Pilot {position} of {self.count}"

    def is_over(self, position: int) -> bool:
        return not self.is_open(position)

    def on_running(self, position: int) -> None:
        pass  # its journal says when it has started

    def on_end(self, position: int, result: Any, exception: BaseException | None) -> bool:
        pilot = self.pilots[position]
        # Another result is a text that says why the pilot has ended.
        pilot.failed_initializer = result if isinstance(result, bytes) else None
        pilot.error = exception
        return self.on_pilot_end(pilot)

    def on_cancelled(self, position: int) -> None:
        self.on_pilot_abandoned(self.pilots[position])


class _PilotPlace:
    """The `Place` of all tasks that one pilot has begun: the pilot's element."""

    def __init__(self, element: Element):
        self._element = element

    @property
    def job_id(self) -> str:
        return self._element.job_id

    def element(self, position: int) -> Element:
        return self._element


@dataclass(eq=False)
class _PilotRun:
    """One run of a pilot's element, with a journal. A restart of the element is another run."""

    journal: pilots.Journal
    reader: JournalReader
    # The task that it runs, by its journal.
    running: pilots.Began | None = None
    # Whether it has begun any task, and how many it has done.
    began: bool = False
    done: int = 0
    # Tasks that were running when it ended, and that were failed or offered again.
    ended_tasks: set[int] = field(default_factory=set[int])
    # When its journal last had the end of a task, or it ran none (time.monotonic).
    seen_at: float = field(default_factory=time.monotonic)
    # The element has ended, or was restarted.
    is_over: bool = False
    # When it was last told to look for work (time.monotonic), and whether it is on this machine, so
    # that it can be told.
    woken_at: float = 0.0
    is_here: bool = True

    def __post_init__(self) -> None:
        job_id, _, index = self.journal.job_id.rpartition("_")
        self.place = _PilotPlace(Element(job_id, int(index)))


class TaskEnds(Protocol):
    """What the pool needs from `Resolver`. A task is given as an array and a position in it."""

    def take_output_file(self, array: TaskArray, position: int) -> None: ...
    def take(
        self, array: TaskArray, position: int, read: Callable[[], Outcome], name: str = ""
    ) -> None: ...
    def take_kept(self, array: TaskArray, position: int) -> bool: ...
    def fail(self, array: TaskArray, position: int, exception: BaseException) -> None: ...
    def end_cancelled(self, array: TaskArray, position: int) -> None: ...
    def is_reading(self, array: TaskArray, position: int) -> bool: ...
    def expect(self, array: TaskArray) -> None: ...
    def later(self, act: Callable[[], None]) -> None: ...
    def retry_on_oserror(
        self, act: Callable[[], None], give_up: Callable[[OSError], None]
    ) -> None: ...


class PilotPool:
    """The pilots of one executor: starts and replaces them, and reads what they have done.

    Arguments:
        ends: Resolves the futures of tasks.
        count: How many pilots there are at most.
        time_limit_s: The time limit of a pilot's element; None if it is not known.
        post: Puts an event into the resolver's inbox.
        on_replaced: Called when something else has replaced the directory of journals.
        submit: Submits an array of pilots.

    Raises: OSError, if the run directory can't be written.
    """

    def __init__(
        self,
        directory: RunDirectory,
        queue: PilotQueue,
        arrays: Arrays,
        jobs: Jobs,
        ledger: Ledger,
        lifecycle: Lifecycle,
        settings: Settings,
        *,
        ends: TaskEnds,
        count: int,
        time_limit_s: float | None,
        post: Callable[[Event], None],
        on_replaced: Callable[[], None],
        submit: Callable[[TaskArray], None],
    ):
        self._directory = directory
        self._queue = queue
        self._array_files = arrays
        self._jobs = jobs
        self._ledger = ledger
        self._lifecycle = lifecycle
        self._settings = settings
        self._count = count
        self._time_limit_s = time_limit_s
        self._ends = ends
        self._post = post
        self._submit = submit
        self._journals = os.path.join(directory.path, pilots.JOURNALS)
        os.mkdir(self._journals, 0o700)
        self.watched = WatchedJournals(
            self._journals,
            lambda names: post(JournalsGrew(names)),
            on_replaced,
            queue.client_pipe(),
        )
        # Arrays of calls with open tasks, by number.
        self._arrays: dict[int, CallArray] = {}
        self._open_tasks = 0
        # A moving average of tasks' durations, from the times at which their ends were seen.
        self._task_s: float | None = None
        # Pilots that were submitted and have not ended. An ordered set.
        self._pilots: dict[Pilot, None] = {}
        # Pilots that have ended, and whose tasks are not yet failed or offered again.
        self._ended: dict[Pilot, None] = {}
        # Runs of pilots that have not ended, by the pilot's name.
        self._runs: dict[str, _PilotRun] = {}
        # A `RunLater` that starts missing pilots is in the resolver's inbox.
        self._is_starting = False
        # How many pilots have failed since the last task ended.
        self._failures = 0
        # `_tell_count` is called soon.
        self._is_telling_count = False
        # Open tasks that no file named at the first of two looks; None: there was no first look.
        self._missing: set[int] | None = None
        # Tasks that were offered again after a pilot's time limit ended them.
        self._second_chances: set[int] = set()

    # -- work --

    def publish(self, array: CallArray) -> None:
        """Offers the array's tasks to pilots, and starts pilots if some are missing.

        Called after `expect`, because records of the tasks may arrive at once.
        """
        if self._lifecycle.aborted:
            return
        self._ledger.submitted(array, range(array.count))
        try:
            self._wake(self._queue.publish(array, self._task_s))
        except NotOffered as exc:
            self._post(Refused(array, exc.positions, exc.error))
            # After `Refused`, so that no pilot is started for a refused task.
            self._post(RunLater(self.start_missing))
        else:
            self.start_missing()

    def _wake(self, count: int) -> None:
        """Tells up to `count` idle pilots to look for work, those first that were not told yet."""
        idle = [run for run in self._runs.values() if run.running is None and run.is_here]
        for run in sorted(idle, key=lambda run: run.woken_at):
            if count <= 0:
                return
            count -= self._tell_to_look(run)

    def _tell_to_look(self, run: _PilotRun) -> bool:
        """Tells a pilot to look for work. Returns: whether that has reached it."""
        if not run.is_here or run.is_over:
            return False
        run.woken_at = time.monotonic()
        is_told = self._queue.wake(run.journal.pilot)
        # One that has sent messages is on this machine, and can be told another time.
        run.is_here = is_told or run.journal.pilot in self.watched.senders
        return is_told

    def _has_waiting(self) -> bool:
        """Whether some tasks have not begun, as far as journals show it."""
        return self._open_tasks > sum(run.running is not None for run in self._runs.values())

    def gathering_s(self) -> float:
        """How many seconds a call may wait for others while pilots have enough to do.

        May be called in any thread.
        """
        if self._task_s is None:
            return 0.0
        waiting = max(0, self._open_tasks - self._count)
        busy_s = waiting * self._task_s / self._count
        return min(_MAX_GATHERING_S, _GATHERING_PART * busy_s)

    def has_open_tasks(self) -> bool:
        """Whether a task has not ended. May be called in any thread."""
        return bool(self._open_tasks)

    def expect(self, array: CallArray) -> None:
        """Records of the array's tasks may arrive from now on."""
        self._arrays[array.number] = array
        self._open_tasks += array.open
        self.watched.open_tasks[0] = self._open_tasks

    def on_task_ended(self, array: TaskArray, position: int) -> None:
        """The task has ended. Called after the ledger has changed its state."""
        self._open_tasks -= 1
        self._second_chances.discard(array.first + position)
        if self._open_tasks:
            self.watched.open_tasks[0] = self._open_tasks
        else:
            self.watched.open_tasks.pop(0, None)
        if not array.open:
            self._arrays.pop(array.number, None)
            self._queue.on_array_ended(array)

    def forget(self, array: TaskArray) -> None:
        """Forgets an ended array whose file was removed, so that no pilot can begin its tasks."""
        if self._queue.forget(array):
            self._ends.later(self._remove_leftover)

    def _remove_leftover(self) -> None:
        if not self._queue.remove_leftover():
            self._ends.later(self._remove_leftover)

    # -- pilots --

    def start_missing(self) -> None:
        """Starts pilots until there is one for each open task, or the maximum is reached."""
        missing = min(self._count, self._open_tasks) - len(self._pilots)
        if missing <= 0 or self._lifecycle.begins_nothing:
            return
        new = [Pilot() for _ in range(missing)]
        self._pilots.update(dict.fromkeys(new))
        try:
            array = self._write(new)
        except Exception as exc:
            for pilot in new:
                pilot.error = failures.pilot_not_written(exc)
                self._on_pilot_end(pilot)
            return
        self._ends.expect(array)
        self._submit(array)

    def _write(self, new: list[Pilot]) -> PilotArray:
        """Writes an array of pilots. Raises: OSError; NotOurs; PicklingError."""
        function = pickling.dumps(pilot_job.run_pilot)
        keywords = {"initializes": self._settings.initializer is not None}
        arguments = (self._settings.pilot_idle_timeout_s, self._time_limit_s)
        call = pickling.dump_fragments((arguments, keywords))
        working_directory = self._working_directory()
        writer = self._array_files.begin()
        try:
            for _ in new:
                writer.add(function, call, None)
            # Not the worker: the pilot runs the initializer itself, before its first call.
            first = self._array_files.finish_file(
                writer, working_directory, has_keys=False, initializer=False
            )
        except BaseException:
            writer.discard()
            raise
        return PilotArray(
            name=self._settings.pilot_name,
            count=len(new),
            path=writer.path,
            number=writer.number,
            first=first,
            working_directory=working_directory,
            indexed=True,
            pilots=new,
            on_pilot_end=self._on_pilot_end,
            on_pilot_abandoned=self._on_pilot_abandoned,
        )

    def _working_directory(self) -> str:
        """The directory in which a pilot's set-up lines run. Each task has its own directory."""
        try:
            return os.getcwd()
        except FileNotFoundError:  # the working directory was removed
            return self._directory.path

    def _on_pilot_end(self, pilot: Pilot) -> bool:
        """The pilot's element has ended. Returns: False if the pilot was dismissed before."""
        if pilot not in self._pilots:
            return False
        self._ended[pilot] = None
        del self._pilots[pilot]
        self._post(RunLater(partial(self._retry_on_oserror, partial(self._settle_ended, pilot))))
        return True

    def _on_pilot_abandoned(self, pilot: Pilot) -> None:
        self._pilots.pop(pilot, None)

    def dismiss(self) -> None:
        """Ends all pilots, once all calls are done and no more can come.

        Running pilots are told to end. Those that are not known to run are cancelled.
        """
        if not self._lifecycle.leaves_jobs:
            self._queue.tell_to_leave()
            for run in self._runs.values():
                self._tell_to_look(run)
        not_started: list[Element] = []
        known = {run.journal.job_id for run in self._runs.values()}
        for pilot in list(self._pilots):
            element, array = pilot.element, pilot.array
            if element is None and array is not None:
                # Its submission may be in flight: the job is cancelled once its id is known.
                self._ends.end_cancelled(array, pilot.position)
            elif element is not None and str(element) not in known:
                not_started.append(element)
        if not_started:
            self._jobs.cancel(not_started)
        self._pilots.clear()

    # -- journals --

    def on_journals_grew(self, names: Sequence[str]) -> None:
        """Reads what is new in the journals with these names."""
        journals = [journal for name in names if (journal := pilots.read_journal_name(name))]
        for journal in sorted(journals, key=lambda journal: journal.part):
            try:
                run = self._run_of(journal)
            except OSError as exc:
                _logger.debug("the journal of a pilot is looked for later: %s", exc)
                self.watched.unsettled.add(journal.name())
                continue
            if run is None:
                self.watched.unsettled.discard(journal.name())
                continue
            try:
                self._read(run)
            except OSError as exc:
                run.reader.read_later(exc)
            except own_files.NotOurs as exc:
                self._fail_unreadable(exc)
        self._jobs.announce()

    def _run_of(self, journal: pilots.Journal) -> _PilotRun | None:
        """The run that writes this journal; None if it is over. Raises: OSError."""
        known = self._runs.get(journal.pilot)
        if known is not None:
            known.reader.last_part = max(known.reader.last_part, journal.part)
            return known
        path = os.path.join(self._journals, journal.name())
        if journal.part or not own_files.is_there(path):
            return None
        reader = JournalReader(
            self._journals, journal, self._directory.owner, self.watched.unsettled
        )
        run = _PilotRun(journal, reader)
        others = [other for other in self._runs.values() if other.journal.job_id == journal.job_id]
        self._runs[journal.pilot] = run
        for other in others:
            earlier = min(other, run, key=lambda known: known.journal.restart)
            error = failures.pilot_requeued(journal.job_id)
            self._retry_on_oserror(partial(self._take_over, earlier, error))
        self._tell_count_soon()
        if self._has_waiting():  # offered before this pilot was known
            self._tell_to_look(run)
        return self._runs.get(journal.pilot)

    def _tell_count_soon(self) -> None:
        """Tells pilots, in a second, how many of them are idle then."""
        if not self._is_telling_count:
            self._is_telling_count = True
            self._ends.later(self._tell_count)

    def _tell_count(self) -> None:
        self._is_telling_count = False
        self._queue.tell_count(sum(run.running is None for run in self._runs.values()))

    def _read(self, run: _PilotRun) -> None:
        """Reads and handles the new records of the run's journal. Raises: OSError; NotOurs."""
        was_idle, done = run.running is None, run.done
        for records in run.reader.read(is_over=run.is_over):
            self._take_all(run, records)
        self._measure(run, run.done - done, was_idle)
        self._tell_count_soon()
        # It may have looked for work before the last was offered, when it did not seem idle.
        if run.running is None and run.done > done and self._has_waiting():
            self._tell_to_look(run)

    def _take_all(self, run: _PilotRun, records: list[pilots.Record]) -> None:
        for record, following in zip_longest(records, records[1:]):
            # Skips `Began` if `Ended` follows: so it is with most tasks.
            if (
                run.running is None
                and isinstance(record, pilots.Began)
                and isinstance(following, pilots.Ended)
                and following.task == record.task
            ):
                continue
            try:
                self._take(run, record)
            except Exception:  # the other records must still be handled
                _logger.exception(
                    "a record of the journal %s could not be taken in", run.reader.name
                )

    def _measure(self, run: _PilotRun, done: int, was_idle: bool) -> None:
        """Updates the average duration of tasks.

        `done`: how many tasks the run has done since its journal was last read. `was_idle`: whether
        it ran none at that time.
        """
        now = time.monotonic()
        if done and not was_idle:
            took = max(1e-6, (now - run.seen_at) / done)
            known = took if self._task_s is None else self._task_s
            self._task_s = known + _NEWEST_PART * (took - known)
        if done or was_idle:
            run.seen_at = now

    def _take(self, run: _PilotRun, record: pilots.Record) -> None:
        if isinstance(record, pilots.Ended):
            self._on_ended(run, record)
        elif isinstance(record, pilots.Began):
            self._on_began(run, record)
        elif isinstance(record, pilots.Skipped) and (place := self._place(record.task)) is not None:
            self._ends.end_cancelled(*place)

    def _place(self, task: int) -> tuple[CallArray, int] | None:
        array, position = self._ledger.locate(task) or (None, 0)
        return (array, position) if isinstance(array, CallArray) else None

    def _on_began(self, run: _PilotRun, record: pilots.Began) -> None:
        lost = run.running
        run.running = record
        run.began = True
        if lost is not None and lost.task != record.task:
            error = failures.record_lost()
            self._retry_on_oserror(partial(self._fail, run, lost.task, error))
        place = self._place(record.task)
        if place is None:
            return
        array, position = place
        array.places[position] = run.place
        future = array.futures[position]
        if future is not None and record.log_offset != pilots.NO_LOG:
            future.log_range = (record.log_offset, None)
        if future is not None:
            future.begun = (run.journal.node, record.started_at)
        if self._ledger.change(array, position, State.RUNNING):
            array.on_running(position)

    def _on_ended(self, run: _PilotRun, record: pilots.Ended) -> None:
        run.done += 1
        run.began = True
        self._failures = 0
        if run.running is not None and run.running.task == record.task:
            run.running = None
        place = self._place(record.task)
        if place is None:
            if record.place == pilots.IN_FILE:  # the task has ended, so nobody reads its output
                shard = self._directory.shard(record.task)
                own_files.unlink(os.path.join(shard, run_files.output_name(record.task)))
            return
        array, position = place
        array.places[position] = run.place
        future = array.futures[position]
        if future is not None:
            has_printed = record.log_end > record.log_begin
            future.log_range = (record.log_begin, record.log_end) if has_printed else None
        of_run: dict[str, Any] = {
            "node": run.journal.node,
            "stored": None,
            "measured": record.numbers,
        }
        if record.place == pilots.IN_FILE:
            self._ends.take_output_file(array, position)
        elif record.place == pilots.IN_STORE:
            of_run["stored"] = record.output
            self._ends.take(array, position, lambda: Outcome(True, None, None, of_run))
        else:
            self._ends.take(array, position, lambda: stored_outcome(record.output, of_run))

    # -- pilots that have ended --

    def _retry_on_oserror(self, act: Callable[[], None]) -> None:
        """Calls `act`, and again while it raises OSError. At last fails all open tasks."""

        def read() -> None:
            try:
                act()
            except own_files.NotOurs as exc:
                self._fail_unreadable(exc)

        self._ends.retry_on_oserror(read, self._fail_unreadable)

    def _settle_ended(self, pilot: Pilot) -> None:
        """Handles the tasks of a pilot that has ended, or never started. Raises: OSError."""
        element = pilot.element
        self.on_journals_grew(own_files.listed(self._journals))
        its = [run for run in self._runs.values() if run.journal.job_id == str(element)]
        for run in its:
            self._take_over(run, pilot.error)
        if not self._pilots and len(self._ended) == 1:
            for run in list(self._runs.values()):
                self._take_over(run, pilot.error)
        self._ended.pop(pilot, None)
        self._tell_count_soon()
        self._look_for_lost()
        self._replace(pilot, began=any(run.began for run in its))

    def _replace(self, pilot: Pilot, *, began: bool) -> None:
        """Starts another pilot in its place, unless that one would probably fail, too."""
        error, element = pilot.error, pilot.element
        if pilot.failed_initializer is not None and element is not None:
            self._failures += 1
            if self._failures >= _MAX_INITIALIZER_FAILURES:
                self._fail_as_initializer(pilot.failed_initializer, element)
                return
        elif error is not None and not began:
            self._failures += 1
            # The scheduler, or the submission, has tried long enough to start this pilot.
            is_hopeless = isinstance(error, (SubmissionException, RemoteNeverStartedException))
            if is_hopeless or self._failures >= _MAX_FAILURES:
                self._fail_not_begun(error)
                return
        # Through the inbox: other pilots that the same node has ended are handled first.
        if not self._is_starting:
            self._is_starting = True
            self._post(RunLater(self._start_again))

    def _start_again(self) -> None:
        self._is_starting = False
        self.start_missing()

    def _take_over(self, run: _PilotRun, error: BaseException | None) -> None:
        """Handles the tasks of a run that has ended.

        Tasks that it has not begun go to other pilots. The task that it was running fails.
        Raises: OSError, if that could not be completed. Then it may be called again.
        """
        run.is_over = True
        self._read(run)
        its = self._queue.held_by(run.journal.pilot)
        # The names of its ranges show tasks of which the journal may have no record.
        begun = {held.next - 1 for held in its if held.next > held.begin}
        if run.running is not None:
            begun.add(run.running.task)
        for task in sorted(begun - run.ended_tasks):
            if not (
                isinstance(error, RemoteTimeLimitException) and self._goes_once_more(run, task)
            ):
                self._fail(run, task, error)
            run.ended_tasks.add(task)
        run.running = None
        for held in its:
            self._queue.give_to_others(held, is_wanted=held.array in self._arrays)
        run.reader.remove()
        self._queue.forget_pilot(run.journal.pilot)
        self._runs.pop(run.journal.pilot, None)
        self.watched.senders.discard(run.journal.pilot)
        self._wake(len(its))

    def _goes_once_more(self, run: _PilotRun, task: int) -> bool:
        """Offers a task again that the pilot's time limit has ended. Returns: whether it did.

        That is done once for each task, and only if the pilot had run other tasks before: then the
        task had less than the full time limit.
        """
        place = self._place(task)
        if place is None or task in self._second_chances or not run.done:
            return False
        if self._lifecycle.begins_nothing:
            return False
        self._second_chances.add(task)
        try:
            self._queue.offer(pilots.Range(place[0].number, task, task, task + 1))
        except OSError:
            return False
        self._ledger.change(*place, State.WRITTEN)
        self._ledger.change(*place, State.SUBMITTED)
        self._wake(1)
        return True

    def _look_for_lost(self) -> None:
        """Checks soon that each open task is waiting or running, as the files' names show.

        No way is known in which a task is lost together with its pilot. But the future of a lost
        task would never be done, so it is checked.
        """
        self._missing = None
        self._ends.later(self._look_for_missing)

    def _look_for_missing(self) -> None:
        self._retry_on_oserror(self._fail_missing)

    def _fail_missing(self) -> None:
        """Fails the tasks that no file names at two looks, a second apart. Raises: OSError."""
        there = self._queue.tasks_in_files()
        self.on_journals_grew(own_files.listed(self._journals))
        if self.watched.unsettled:  # such a journal may have the record of a task's end
            self._look_for_lost()
            return
        there.update(run.running.task for run in self._runs.values() if run.running is not None)
        missing = {
            array.first + position
            for array, position in self._open()
            if self._queue.is_published(array)
            and array.first + position not in there
            and not self._ends.is_reading(array, position)
        }
        known, self._missing = self._missing, missing
        if not missing:
            return
        if known is None:
            self._ends.later(self._look_for_missing)
            return
        for task in sorted(missing & known):
            place = self._place(task)
            if place is not None:
                self._ends.fail(*place, failures.lost_with_pilot(place[0].describe(place[1])))

    def _fail_unreadable(self, error: OSError | own_files.NotOurs) -> None:
        """Fails all open tasks: the records of a pilot that has ended can't be read."""
        self._ended.clear()
        for array, position in self._open():
            exception = failures.records_unreadable(array.describe(position), error)
            self._ends.fail(array, position, exception)

    def _fail(self, run: _PilotRun, task: int, error: BaseException | None) -> None:
        """Fails the task, unless the output store has its output.

        Raises: OSError, if the store can't be asked now.
        """
        place = self._place(task)
        if place is None or self._ends.take_kept(*place):
            return
        array, position = place
        where = TaskLocation(array.describe(position), run.journal.job_id)
        self._ends.fail(array, position, failures.ended_on_pilot(where, error))

    def _fail_as_initializer(self, failure: bytes, element: Element) -> None:
        """Fails all open tasks with the initializer's failure, once no pilot is left."""
        if self._pilots or self._ended:
            return
        self._failures = 0
        for array, position in self._open():
            array.places[position] = _PilotPlace(element)
            # Unpickled for each task, so that no two futures share an exception object.
            self._ends.take(array, position, lambda: stored_outcome(failure, {"stored": None}))

    def _fail_not_begun(self, error: BaseException) -> None:
        """Fails all open tasks once no pilot is left."""
        if self._pilots or self._ended:
            return
        self._failures = 0
        for array, position in self._open():
            exception = failures.not_begun(array.describe(position), error)
            self._ends.fail(array, position, exception)

    def _open(self) -> list[tuple[CallArray, int]]:
        return [
            (array, position)
            for array in list(self._arrays.values())
            for position in array.open_positions()
        ]


def log_section(future: ClusterFuture[Any]) -> LogSection:
    """The part of the pilot's log that the call has written; empty if it has written nothing.

    May be called in any thread.
    """
    task = -1 if future.array is None else future.array.first + future.position
    begin, end = future.log_range or (0, 0)
    return LogSection(begin, end, pilots.end_of_part(task, begin))
