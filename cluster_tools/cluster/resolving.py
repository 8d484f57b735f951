"""The resolver: the thread of an executor that handles events and resolves futures.

    events --> inbox --> resolver thread --> Ledger: states of tasks
                              |           '--> observers
                              |--> Outcomes: what there is of a task --> verdicts.decide()
                              '--> futures resolved, tasks submitted again, elements cancelled

It alone changes the states of the executor's tasks. A slow step (a large result, the output store,
a callback of a future) delays only this executor.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cluster_tools import own_files
from cluster_tools.cluster import clearing, disk_retries, events, failures, logs
from cluster_tools.cluster.calls import CallArray
from cluster_tools.cluster.cancellation import Cancellation
from cluster_tools.cluster.clearing import Clearing
from cluster_tools.cluster.disk_retries import DiskRetries
from cluster_tools.cluster.failures import TaskLocation
from cluster_tools.cluster.future import ClusterFuture, end_quietly
from cluster_tools.cluster.jobs import Jobs
from cluster_tools.cluster.joinable_thread import JoinableThread
from cluster_tools.cluster.kept_logs import KeptLogs
from cluster_tools.cluster.ledger import Ledger
from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.outcomes import Outcomes, StoreError
from cluster_tools.cluster.pilots import PilotPool
from cluster_tools.cluster.run_directory import (
    Outcome,
    OutputCutShort,
    OutputNotReadable,
    RunDirectory,
)
from cluster_tools.cluster.settings import Settings
from cluster_tools.cluster.tasks import Job, Selection, State, TaskArray
from cluster_tools.cluster.verdicts import (
    NEVER_AGAIN,
    Evidence,
    Fail,
    Follow,
    Policy,
    Resubmit,
    TakeInterrupted,
    decide,
)
from cluster_tools.format import run_files
from cluster_tools.format.exit_codes import EXIT_REFUSED
from cluster_tools.function_name import exception_text
from cluster_tools.own_files import NotOurs
from cluster_tools.schedulers.base import Cause, Element, Ending

_POLICY = Policy()
# Cancellations within this time go to the scheduler together.
_CANCEL_INTERVAL_S = 0.1
# Tasks that go in again within this time are submitted together: the scheduler does not report all
# elements of a lost node at the same moment.
_AGAIN_INTERVAL_S = 0.5
# The shortest time between two calls of `count_ends`.
_COUNT_INTERVAL_S = 0.5
# How many tasks that go in again one job may have: their numbers are one argument of its command,
# whose length is limited (Linux: MAX_ARG_STRLEN, 128 KiB).
_MAX_PICKED = 5_000

_logger = logging.getLogger("cluster_tools")


class Submitting(Protocol):
    """What the resolver needs from the `Submitter` of elements."""

    def put(self, item: Selection) -> None: ...
    def make_room(self) -> None: ...


class Gathering(Protocol):
    """What the resolver needs from the `Submitter` that gathers calls."""

    def has_open_calls(self) -> bool: ...
    def cancel_rest(self) -> int: ...


class Resolver(JoinableThread):
    """The thread that handles the events of one executor.

    Arguments:
        may_run_again: Whether the scheduler may restart elements by itself.
        open_tasks: Shard of the run directory -> how many of its tasks have not ended. The
            watcher's; kept here.
        expect_outputs: Called when tasks were added to `open_tasks`.
        on_done: Called when the executor takes no more calls and all calls are done.
        on_last: Called each time a submitter thread has ended.
        count_ends: Called repeatedly while events arrive, to measure how many calls end in a
            second.
    """

    def __init__(
        self,
        directory: RunDirectory,
        settings: Settings,
        ledger: Ledger,
        lifecycle: Lifecycle,
        observers: events.Observers,
        *,
        may_run_again: bool,
        open_tasks: dict[int, int],
        expect_outputs: Callable[[], None],
        on_done: Callable[[], None],
        on_last: Callable[[], None],
        count_ends: Callable[[], None],
    ):
        super().__init__("cluster_tools-resolver")
        self._directory = directory
        self._settings = settings
        self._ledger = ledger
        self._lifecycle = lifecycle
        self._observers = observers
        self._may_run_again = may_run_again
        self._open_tasks = open_tasks
        self._expect_outputs = expect_outputs
        self._on_done = on_done
        self._on_last = on_last
        self._count_ends = count_ends
        self._jobs: Jobs
        self._logs: KeptLogs
        self._cancellation: Cancellation
        self._submitter: Submitting
        self._gatherer: Gathering
        self._pool: PilotPool | None = None
        self._inbox: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        self._handlers = self._make_handlers()
        self._outcomes = Outcomes(directory, settings.store)
        self._clearing = Clearing(directory, leave_marks=may_run_again)
        self._disk_retries = DiskRetries(directory.path, lambda: lifecycle.aborted)
        # Outputs that could not be opened yet: (array, position, file name) -> (when to give up
        # by time.monotonic, the function that reads it).
        self._unreadable: dict[tuple[TaskArray, int, str], tuple[float, Callable[[], Outcome]]] = {}
        # Elements of cancelled futures, which the scheduler is not yet asked to cancel.
        self._to_cancel: list[Element] = []
        # Tasks that are about to go in again: (array, submission) -> position -> why.
        self._again: dict[tuple[TaskArray, int], dict[int, str]] = {}
        # Functions to call in about a second. An ordered set.
        self._later: dict[Callable[[], None], None] = {}
        # When to do all this (time.monotonic); None if there is nothing to do.
        self._chores_at: float | None = None
        self._next_count_at = 0.0
        self._ended = False

    def _make_handlers(self) -> dict[type[events.Event], Callable[[Any], None]]:
        return {
            events.Written: lambda event: self._on_written(event.array),
            events.Submitted: lambda event: self._on_submitted(event.job),
            events.Refused: self._on_refused,
            events.NotSubmitted: lambda event: self._end_at_once(event.array),
            events.FilesAppeared: lambda event: self._on_seen(event.names),
            events.JournalsGrew: self._on_journals_grew,
            events.ElementEnded: self._on_element_ended,
            events.Cancelled: lambda event: self._on_cancelled(event.future),
            events.NotRevoked: self._on_not_revoked,
            events.Replaced: lambda event: self._fail_all(event.error),
            events.PerhapsDone: lambda event: self._end_if_done(),
            events.CancelPending: lambda event: self._cancel_pending(),
            events.Aborted: lambda event: self.end_all_at_once(),
            events.SubmitterEnded: lambda event: self._on_last(),
            events.RunLater: lambda event: event.act(),
        }

    def begin(
        self,
        jobs: Jobs,
        kept_logs: KeptLogs,
        cancellation: Cancellation,
        submitter: Submitting,
        gatherer: Gathering,
        pool: PilotPool | None,
    ) -> None:
        """Starts the thread, with the parts that it uses and that are made after it."""
        self._jobs = jobs
        self._logs = kept_logs
        self._cancellation = cancellation
        self._submitter = submitter
        self._gatherer = gatherer
        self._pool = pool
        self.start()

    def post(self, event: events.Event) -> None:
        """Puts an event into the inbox. Takes no lock. May be called in any thread, at any time."""
        self._inbox.put(event)

    def work(self) -> None:
        while not self._ended:
            left = None if self._chores_at is None else self._chores_at - time.monotonic()
            event: events.Event | None = None
            try:
                if left is None or left > 0:
                    try:
                        event = self._inbox.get(timeout=left)
                    except queue.Empty:
                        pass
                if event is None:
                    self._do_chores()
                else:
                    self._handlers[type(event)](event)
                    self._observers.tell(event)
                    self._count_ends_at_times()
            # The handlers handle the errors of one task. Here the thread is kept alive for all
            # other tasks.
            except BaseException:
                _logger.exception("the resolver goes on after an unexpected error")
            del event
            interval = self._chores_interval_s()
            if interval is not None:
                at = time.monotonic() + interval
                self._chores_at = at if self._chores_at is None else min(at, self._chores_at)

    def _count_ends_at_times(self) -> None:
        now = time.monotonic()
        if now >= self._next_count_at:
            self._next_count_at = now + _COUNT_INTERVAL_S
            self._count_ends()

    def _chores_interval_s(self) -> float | None:
        """In how many seconds the most urgent chore is due; None if there is none."""
        if self._to_cancel:
            return _CANCEL_INTERVAL_S
        if self._again:
            return _AGAIN_INTERVAL_S
        if self._unreadable or self._disk_retries.is_waiting():
            return disk_retries.INTERVAL_S
        return clearing.INTERVAL_S if self._clearing.is_waiting() or self._later else None

    def later(self, act: Callable[[], None]) -> None:
        """Calls `act` once, in about a second. Called in the resolver's thread only."""
        self._later[act] = None

    def retry_on_oserror(self, act: Callable[[], None], give_up: Callable[[OSError], None]) -> None:
        """Calls `act`, and again while it raises OSError; see `DiskRetries`.

        Called in the resolver's thread only.
        """
        self._disk_retries.try_now(act, give_up)

    def _do_chores(self) -> None:
        """Does the work that was put off, so that it is done for many tasks at once."""
        self._chores_at = None
        self.flush_cancellations()
        self._read_again()
        self._disk_retries.try_again()
        if self._lifecycle.aborted or self._lifecycle.ending:
            self._clearing.forget()
        else:
            self._clearing.clear()
        later, self._later = self._later, {}
        for act in later:
            act()
        if self._again:  # through the inbox: after all `ElementEnded` that are there now
            self.post(events.RunLater(self._submit_again))

    def flush_cancellations(self) -> None:
        """Asks the scheduler to cancel the elements that were collected."""
        elements, self._to_cancel = list(dict.fromkeys(self._to_cancel)), []
        if elements:
            self._jobs.cancel(elements)
        self._logs.on_cancellations_told()

    def end(self) -> None:
        """Ends the thread after the present event."""
        self._ended = True

    # -- arrays --

    def _on_written(self, array: TaskArray) -> None:
        self.expect(array)
        if self._pool is not None and isinstance(array, CallArray):
            self._pool.publish(array)

    def expect(self, array: TaskArray) -> None:
        """Adds the array to the ledger: its outputs may appear from now on."""
        self._ledger.add(array)
        if self._pool is not None and isinstance(array, CallArray):
            self._pool.expect(array)
        else:
            for task in range(array.first, array.first + array.count):
                shard = task // run_files.TASKS_PER_SHARD
                self._open_tasks[shard] = self._open_tasks.get(shard, 0) + 1
        if isinstance(array, CallArray):
            for future in array.cancelled_early:
                self._cancellation.after_cancelling(future)
            array.cancelled_early.clear()
            for future in list(array.futures):
                if future is not None and future.is_done():
                    self._on_cancelled(future)
        if self._lifecycle.cancelling:
            self._cancel_pending()
        self._expect_outputs()

    def _on_submitted(self, job: Job) -> None:
        """Notes the job, and cancels elements whose calls were cancelled during the submission."""
        array = job.array
        if array.has_cancelled():
            cancelled = [p for p in job.positions if array.was_cancelled(p)]
            self._to_cancel += [job.element(position) for position in cancelled]
        self._ledger.submitted(array, job.positions)
        if not array.open:  # all of its tasks were
            self.flush_cancellations()
            self._on_job_over(job)

    def _end(
        self,
        array: TaskArray,
        position: int,
        state: State,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Ends the task in this state, unless it has ended before."""
        where = "" if exception is None else str(self._where(array, position))
        if not self._ledger.change(array, position, state):
            return
        if self._pool is not None and isinstance(array, CallArray):
            self._pool.on_task_ended(array, position)
        else:
            task = array.first + position
            self._clearing.on_task_ended(task)
            shard = task // run_files.TASKS_PER_SHARD
            self._open_tasks[shard] -= 1
            if not self._open_tasks[shard]:
                del self._open_tasks[shard]
            self._submitter.make_room()
        is_last = not array.open
        if is_last:
            self._on_array_ended(array)
        if state is State.DONE or state is State.FAILED:
            was_waited_for = array.on_end(position, result, exception)
            if exception is not None and was_waited_for:
                self._observers.tell(events.TaskFailed(array, position, exception, where))
        else:
            array.on_cancelled(position)
        if is_last:
            self._observers.tell(events.ArrayEnded(array))

    def _on_array_ended(self, array: TaskArray) -> None:
        self._ledger.remove(array)
        for job in array.all_jobs():
            self._on_job_over(job)
        if not self._lifecycle.leaves_jobs:
            self._logs.on_array_ended(array)
            if own_files.unlink(array.path):  # without this file no worker begins its tasks
                self._clearing.on_array_gone(array)
                if self._pool is not None and isinstance(array, CallArray):
                    self._pool.forget(array)
        self._end_if_done()

    def _on_job_over(self, job: Job) -> None:
        """Forgets a job whose tasks have all ended."""
        if self._jobs.remove(job) and not self._lifecycle.leaves_jobs:
            self._logs.on_job_over(job)

    # -- the end --

    def has_open_calls(self) -> bool:
        """Whether a call may be not done, also while an event is in the inbox.

        May be called in any thread.
        """
        return not self._inbox.empty() or self._has_calls()

    def _has_calls(self) -> bool:
        return not self._ledger.is_empty() if self._pool is None else self._pool.has_open_tasks()

    def _is_done(self) -> bool:
        return (
            self._lifecycle.closed and not self._has_calls() and not self._gatherer.has_open_calls()
        )

    def _end_if_done(self) -> None:
        """Ends the executor if it takes no more calls and all its calls are done."""
        if self._is_done():  # checked again after the events that the gatherer has posted
            self.post(events.RunLater(self._end_if_still_done))

    def _end_if_still_done(self) -> None:
        lifecycle = self._lifecycle
        # An aborted executor ends by itself, once it has begun to cancel its jobs.
        if lifecycle.aborted or lifecycle.ending or not self._is_done():
            return
        if self._pool is not None:
            self._pool.dismiss()
        self._on_done()

    # -- outputs --

    def _on_seen(self, names: Sequence[str]) -> None:
        """Handles new claims and outputs in the run directory's shards."""
        for name in names:
            task = run_files.task_of(name)
            place = None if task is None else self._ledger.locate(task)
            if task is None or place is None:
                continue
            if name == run_files.output_name(task):
                self._take_file(*place, name)
            elif run_files.is_claim(name):
                array, position = place
                if self._ledger.change(array, position, State.RUNNING):
                    array.on_running(position)

    def _on_journals_grew(self, event: events.JournalsGrew) -> None:
        if self._pool is not None:
            self._pool.on_journals_grew(event.names)

    def _take_file(self, array: TaskArray, position: int, name: str) -> None:
        """Reads an output file and resolves the future. If it can't be opened, tries again."""
        task = array.first + position
        self.take(array, position, lambda: self._directory.outcome(task, name), name)

    def take_output_file(self, array: TaskArray, position: int) -> None:
        self._take_file(array, position, run_files.output_name(array.first + position))

    def take(
        self, array: TaskArray, position: int, read: Callable[[], Outcome], name: str = ""
    ) -> None:
        """Resolves the future with the output that `read` returns.

        `name`: the output's file name in the run directory; "" if it has no file.
        """
        result: Any = None
        exception: BaseException | None = None
        unusable: tuple[str, BaseException | None] | None = None
        try:
            outcome = self._outcomes.complete(read(), array.key(position))
            array.on_measured(position, outcome.record)
            result, exception = self._result(array, position, outcome)
            del outcome
        except OutputNotReadable as exc:
            first = (time.monotonic() + disk_retries.RETRY_FOR_S, read)
            give_up_at, _ = self._unreadable.setdefault((array, position, name), first)
            if time.monotonic() < give_up_at:
                return
            unusable = (f"Its output can't be read: {exc}", exc)
        except NotOurs as exc:
            unusable = (f"{exc}: not unpickled", exc)
        except (OutputCutShort, StoreError) as exc:
            unusable = (str(exc), exc.__cause__)
        except BaseException as exc:  # unpickling runs code of the call's classes
            unusable = (f"Its result can't be unpickled here: {exception_text(exc)}", exc)
        if unusable is not None:
            exception = failures.output_unusable(self._where(array, position), *unusable)
        self._unreadable.pop((array, position, name), None)
        self._discard(array, position, name)
        self._resolve(array, position, result, exception)

    def _result(
        self, array: TaskArray, position: int, outcome: Outcome
    ) -> tuple[Any, BaseException | None]:
        """(the result, None) or (None, the exception that the future raises)."""
        if outcome.success:
            return outcome.value, None
        where = self._where(array, position)
        node = outcome.record.get("node")
        return None, failures.call_failed(where, node, outcome.exception, outcome.value)

    def _resolve(
        self, array: TaskArray, position: int, result: Any, exception: BaseException | None
    ) -> None:
        state = State.DONE if exception is None else State.FAILED
        self._end(array, position, state, result, exception)

    def fail(self, array: TaskArray, position: int, exception: BaseException) -> None:
        """Fails a task that has no output and will have none."""
        self._resolve(array, position, None, exception)

    def _fail_all(self, error: BaseException) -> None:
        """Fails all open tasks and cancels their elements: no output can be read any more."""
        for array in self._ledger.arrays():
            for position in array.open_positions():
                place = array.place_of(position)
                if place is not None and place.job_id is not None and not array.on_pilots:
                    self._to_cancel.append(place.element(position))
                where = self._where(array, position)
                self.fail(array, position, failures.output_unusable(where, str(error), error))

    def is_reading(self, array: TaskArray, position: int) -> bool:
        """Whether the task has an output that could not be opened yet."""
        return any(key[:2] == (array, position) for key in self._unreadable)

    def _read_again(self) -> None:
        for (array, position, name), (_, read) in list(self._unreadable.items()):
            if array.is_open(position):
                self.take(array, position, read, name)
            else:
                del self._unreadable[array, position, name]

    def _discard(self, array: TaskArray, position: int, name: str) -> None:
        """Deletes an output that was read, unless the user has asked to keep it."""
        try:
            if name:
                self._directory.delete_outcome(
                    array.first + position,
                    name,
                    leave_mark=self._may_run_again and not array.on_pilots,
                )
            key = array.key(position)
            if key is not None and isinstance(array, CallArray) and not array.kept:
                self._settings.store.delete(key)
        except Exception as exc:  # does no harm: the run directory is removed at the end
            _logger.warning("The output of %s stays: %s", array.describe(position), exc)

    def _where(self, array: TaskArray, position: int) -> TaskLocation:
        place = array.place_of(position)
        if place is None or place.job_id is None:
            return TaskLocation(array.describe(position))
        element = place.element(position)
        return TaskLocation(array.describe(position), str(element), self._jobs.log_path(element))

    # -- elements that have ended --

    def _on_element_ended(self, event: events.ElementEnded) -> None:
        job, ending = event.job, event.ending
        position = job.position(event.element)

        def give_up(error: BaseException) -> None:  # there is only one event for an element
            where = self._where(job.array, position)
            self.fail(job.array, position, failures.ending_unknown(where, ending.message, error))

        def settle() -> None:
            try:
                self._settle(job, position, ending)
            except OSError:
                raise
            except Exception as exc:
                give_up(exc)

        self.retry_on_oserror(settle, give_up)

    def _settle(self, job: Job, position: int, ending: Ending) -> None:
        """Decides what to do about a task whose element has ended, and does it.

        Raises: OSError, if the disk or the store can't be read now.
        """
        array = job.array
        if not array.is_open(position) or array.place_of(position) is not job:
            return
        evidence = self._outcomes.evidence(job, position, ending)
        verdict = decide(evidence, _POLICY)
        if isinstance(verdict, Resubmit):
            if self._goes_in_again(job, position, verdict):
                return
            evidence = self._outcomes.evidence(job, position, ending)
            verdict = decide(evidence, NEVER_AGAIN)
        if isinstance(verdict, Follow):
            self._follow(job, position, verdict.element)
        elif isinstance(verdict, TakeInterrupted):
            self._take_file(array, position, run_files.interrupted_name(array.first + position))
        elif not self.take_kept(array, position):
            assert isinstance(verdict, Fail)
            self._fail_ended(job, position, evidence, verdict.cause)

    def _goes_in_again(self, job: Job, position: int, verdict: Resubmit) -> bool:
        """Prepares another submission of the task. Returns: False if the task has begun."""
        array = job.array
        if verdict.after_silence:
            self._directory.beat()  # without a heartbeat, the next element would leave, too
        if not self._directory.close_submission(array.first + position, job.submission):
            return False
        self._ledger.change(array, position, State.WRITTEN)
        # Submitted together with other tasks; see `_AGAIN_INTERVAL_S`.
        self._again.setdefault((array, job.submission + 1), {})[position] = verdict.why
        return True

    def _fail_ended(self, job: Job, position: int, evidence: Evidence, cause: Cause) -> None:
        array = job.array
        where = self._where(array, position)
        tail = logs.tail(where.log)
        was_refused = evidence.ending.exit_code == EXIT_REFUSED
        log = failures.Log(
            tail,
            is_there=bool(tail) or not own_files.is_gone(where.log),
            is_something_else=was_refused and logs.is_something_else(where.log),
        )
        exception = failures.element_ended(where, cause, evidence, log, self._directory.path)
        if array.open > 1 and self._may_run_again and not array.on_pilots:
            # For the last open task the array's file is removed, which has the same effect.
            self._cancellation.revoke(array, position)
        self.fail(array, position, exception)

    def take_kept(self, array: TaskArray, position: int) -> bool:
        """Resolves the future if the output store has the output, though no record says so.

        Returns: whether it has. Raises: OSError, if the store can't be asked now.
        """
        key = array.key(position)
        if key is None:
            return False
        outcome = self._outcomes.kept(key, self._where(array, position))
        if outcome is None:
            return False
        self._resolve(array, position, *self._result(array, position, outcome))
        return True

    def _submit_again(self) -> None:
        again, self._again = self._again, {}
        for (array, submission), reasons in again.items():
            positions = sorted(p for p in reasons if array.is_open(p))
            if not positions:
                continue
            first = positions[0]
            if len(positions) == 1:
                text = f"{self._where(array, first)} ended before it began and goes in again"
            else:
                text = (
                    f"{len(positions)} tasks of {array.name}, {array.describe(first)} the first, "
                    "ended before they began and go in again together"
                )
            _logger.warning("%s: %s", text, reasons[first])
            for start in range(0, len(positions), _MAX_PICKED):
                some = positions[start : start + _MAX_PICKED]
                self._submitter.put(Selection(array, some, submission))

    def _follow(self, job: Job, position: int, element: str) -> None:
        """Watches the job of an earlier submission, taken to be lost, that runs the task."""
        _logger.warning("%s is run by job %s after all", job.array.describe(position), element)
        self._jobs.add_earlier(job, position, element.partition("_")[0])

    def _on_refused(self, event: events.Refused) -> None:
        array = event.array
        for position in event.positions:
            if not array.is_open(position):
                continue
            if self._lifecycle.aborted:  # the abort has removed files that the submission needed
                self._end_at_once(array)
                return
            self.fail(array, position, failures.refused(array.describe(position), event.error))

    # -- cancellation --

    def _on_cancelled(self, future: ClusterFuture[Any]) -> None:
        if not future.was_cancelled():
            return  # an exception has interrupted `cancel`
        array, position = future.array, future.position
        if array is None:  # the call is not in an array yet: `expect` handles its cancellation
            self._end_if_done()
            return
        if not self._ledger.has(array) or not array.is_open(position):
            return  # the array is not in the ledger yet (see above), or the task has ended
        place = array.place_of(position)
        if place is not None and place.job_id is not None and not array.on_pilots:
            self._to_cancel.append(place.element(position))
        self._end(array, position, State.CANCELLED)

    def _on_not_revoked(self, event: events.NotRevoked) -> None:
        array, position = event.array, event.position

        def revoke() -> None:
            try:
                self._cancellation.revoke_now(array, position)
            except NotOurs as exc:
                give_up(exc)

        def give_up(error: Exception) -> None:
            self._cancellation.say_not_revoked(array, position, error)

        self.retry_on_oserror(revoke, give_up)

    def end_cancelled(self, array: TaskArray, position: int) -> None:
        """Ends a task that was revoked, and that no pilot begins.

        The future's `cancel` may have returned False, because it was not known then.
        """
        self._end(array, position, State.CANCELLED)

    def _cancel_pending(self) -> None:
        for array in self._ledger.arrays():
            if not isinstance(array, CallArray):
                continue
            pending = {p: f for p, f in enumerate(array.futures) if f is not None}
            taken = self._cancellation.withdraw(array, pending)
            for position, future in pending.items():
                end_quietly(
                    future.start if position in taken else future.cancel_waiting, array.name
                )

    def _end_at_once(self, array: TaskArray) -> None:
        """Abandons all open tasks of the array: the executor was aborted."""
        for position in array.open_positions():
            self._end(array, position, State.ABANDONED)

    def end_all_at_once(self) -> None:
        """Abandons all open tasks, and cancels all calls that wait for their submission."""
        without_job = self._gatherer.cancel_rest()
        for array in self._ledger.arrays():
            if isinstance(array, CallArray) and not array.on_pilots:
                without_job += sum(array.place_of(p) is None for p in array.open_positions())
            self._end_at_once(array)
        if without_job and self._lifecycle.leaves_jobs:
            _logger.warning("%d calls have no job yet and will get none", without_job)
