"""Turns what has happened into futures' results: the one thread of an executor that owns its tasks.

    events --> inbox --> resolver thread --> Ledger: states of tasks
                              |           '--> observers
                              |--> Outcomes: what there is of a task --> verdicts.decide()
                              '--> futures resolved, tasks submitted again, elements cancelled

Whatever is slow here (a large result, a store, a callback) holds up this executor alone.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cluster_tools import own_files
from cluster_tools.cluster import clearing, events, failures, logs, patience
from cluster_tools.cluster.calls import CallArray
from cluster_tools.cluster.cancellation import Cancellation
from cluster_tools.cluster.clearing import Clearing
from cluster_tools.cluster.failures import Where
from cluster_tools.cluster.future import ClusterFuture, end_quietly
from cluster_tools.cluster.jobs import Jobs
from cluster_tools.cluster.joinable_thread import JoinableThread
from cluster_tools.cluster.kept_logs import KeptLogs
from cluster_tools.cluster.ledger import Ledger
from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.outcomes import Outcomes, StoreError
from cluster_tools.cluster.patience import Patience
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
    GoesInAgain,
    Policy,
    TakeInterrupted,
    decide,
)
from cluster_tools.format import run_files
from cluster_tools.format.exit_codes import EXIT_REFUSED
from cluster_tools.function_name import exception_text
from cluster_tools.own_files import NotOurs
from cluster_tools.schedulers.base import Cause, Element, Ending

_POLICY = Policy()
# Cancellations that follow each other within this go to the scheduler together.
_CANCEL_INTERVAL_S = 0.1
# So do tasks that are submitted again: what is lost with a node is not all lost in the same moment.
_AGAIN_INTERVAL_S = 0.5
# Between two counts of calls that have ended, while there are any.
_COUNT_INTERVAL_S = 0.5
# Tasks that a job is given by their numbers, where those are in no row: they have to fit into an
# argument of its command (Linux: MAX_ARG_STRLEN, 128 KiB).
_MAX_PICKED = 5_000

_logger = logging.getLogger("cluster_tools")


class Submitting(Protocol):
    """What the resolver asks of those who submit."""

    def put(self, item: Selection) -> None: ...
    def make_room(self) -> None: ...


class Gathering(Protocol):
    """What it asks of those who gather calls."""

    def has_open_calls(self) -> bool: ...
    def cancel_rest(self) -> int: ...


class Resolver(JoinableThread):
    """`open_tasks`: of the watcher: shard of the run directory -> how many outputs are waited for
    there.

    `expect_outputs`: called when more outputs are waited for. `on_done`: called once the executor
    takes no more calls and has none. `on_last`: called once after everything else. `count_ends`:
    called from time to time, so that the rate at which calls end is known.
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
        self._patience = Patience(directory.path, lambda: lifecycle.aborted)
        # Outputs that could not be opened yet: (array, position, name) -> when to give up, what
        # reads it.
        self._unreadable: dict[tuple[TaskArray, int, str], tuple[float, Callable[[], Outcome]]] = {}
        # Elements whose futures were cancelled: they are cancelled together.
        self._to_cancel: list[Element] = []
        # Tasks that go in again together: (array, submission) -> position -> why.
        self._again: dict[tuple[TaskArray, int], dict[int, str]] = {}
        # What others want to be called in about a second.
        self._later: dict[Callable[[], None], None] = {}
        # When all these are seen to; None where there is nothing.
        self._chores_at: float | None = None
        self._next_count_at = 0.0
        self._ended = False

    def _make_handlers(self) -> dict[type[events.Event], Callable[[Any], None]]:
        return {
            events.Written: lambda event: self._on_written(event.array),
            events.Submitted: lambda event: self._on_submitted(event.job),
            events.Refused: self._on_refused,
            events.NotSubmitted: lambda event: self._end_at_once(event.array),
            events.Seen: lambda event: self._on_seen(event.names),
            events.JournalsGrew: self._on_journals_grew,
            events.ElementEnded: self._on_element_ended,
            events.Cancelled: lambda event: self._on_cancelled(event.future),
            events.NotRevoked: self._on_not_revoked,
            events.Replaced: lambda event: self._fail_all(event.error),
            events.LessToDo: lambda event: self._end_if_done(),
            events.CancelPending: lambda event: self._cancel_pending(),
            events.Aborted: lambda event: self.end_all_at_once(),
            events.SubmitterEnded: lambda event: self._on_last(),
            events.Chore: lambda event: event.act(),
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
        """Starts the thread, once those whom it tells what to do are there."""
        self._jobs = jobs
        self._logs = kept_logs
        self._cancellation = cancellation
        self._submitter = submitter
        self._gatherer = gatherer
        self._pool = pool
        self.start()

    def post(self, event: events.Event) -> None:
        """Takes no lock; any thread, any time."""
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
            # The handlers deal with what goes wrong with a task. This is for the rest to go on.
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
        """How soon the most urgent chore is to be done; None where there is none."""
        if self._to_cancel:
            return _CANCEL_INTERVAL_S
        if self._again:
            return _AGAIN_INTERVAL_S
        if self._unreadable or self._patience.is_waiting():
            return patience.INTERVAL_S
        return clearing.INTERVAL_S if self._clearing.is_waiting() or self._later else None

    def later(self, act: Callable[[], None]) -> None:
        """Calls it once, in about a second. In this thread."""
        self._later[act] = None

    def patiently(self, act: Callable[[], None], give_up: Callable[[OSError], None]) -> None:
        """Calls `act`, and again while it raises OSError; see `Patience`. In this thread."""
        self._patience.try_now(act, give_up)

    def _do_chores(self) -> None:
        """What is better done for many at a time, or a little later."""
        self._chores_at = None
        self.flush_cancellations()
        self._read_again()
        self._patience.try_again()
        if self._lifecycle.aborted or self._lifecycle.ending:
            self._clearing.forget()
        else:
            self._clearing.clear()
        later, self._later = self._later, {}
        for act in later:
            act()
        if self._again:  # behind all ends that were told by now
            self.post(events.Chore(self._submit_again))

    def flush_cancellations(self) -> None:
        elements, self._to_cancel = list(dict.fromkeys(self._to_cancel)), []
        if elements:
            self._jobs.cancel(elements)
        self._logs.on_cancellations_told()

    def end(self) -> None:
        self._ended = True

    # -- arrays --

    def _on_written(self, array: TaskArray) -> None:
        self.expect(array)
        if self._pool is not None and isinstance(array, CallArray):
            self._pool.publish(array)

    def expect(self, array: TaskArray) -> None:
        """The array's outputs may come from now on."""
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
        """What was cancelled while it was on its way is cancelled there."""
        array = job.array
        if array.has_cancelled():
            cancelled = [p for p in job.positions if array.was_cancelled(p)]
            self._to_cancel += [job.element(position) for position in cancelled]
        self._ledger.submitted(array, job.positions)
        if not array.open:  # so was all of its array
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
        """The task has ended, unless it had before: nothing more is expected of it."""
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
            if own_files.unlink(array.path):  # then nobody begins its tasks
                self._clearing.on_array_gone(array)
                if self._pool is not None and isinstance(array, CallArray):
                    self._pool.forget(array)
        self._end_if_done()

    def _on_job_over(self, job: Job) -> None:
        """All its tasks have ended."""
        if self._jobs.remove(job) and not self._lifecycle.leaves_jobs:
            self._logs.on_job_over(job)

    # -- the end --

    def has_open_calls(self) -> bool:
        """In any thread; True where something may be on its way here."""
        return not self._inbox.empty() or self._has_calls()

    def _has_calls(self) -> bool:
        return not self._ledger.is_empty() if self._pool is None else self._pool.has_open_tasks()

    def _is_done(self) -> bool:
        return (
            self._lifecycle.closed and not self._has_calls() and not self._gatherer.has_open_calls()
        )

    def _end_if_done(self) -> None:
        """Ends the executor if it takes no more calls and has none."""
        if self._is_done():  # looked at again behind what the gatherer has handed over
            self.post(events.Chore(self._end_if_still_done))

    def _end_if_still_done(self) -> None:
        lifecycle = self._lifecycle
        # What was aborted ends by itself, once its jobs are being cancelled.
        if lifecycle.aborted or lifecycle.ending or not self._is_done():
            return
        if self._pool is not None:
            self._pool.dismiss()
        self._on_done()

    # -- what was noticed --

    def _on_seen(self, names: Sequence[str]) -> None:
        """These entries of the run directory's shards have appeared."""
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
        """Reads an output and resolves its future; one that can't be opened yet is tried again."""
        task = array.first + position
        self.take(array, position, lambda: self._directory.outcome(task, name), name)

    def take_output_file(self, array: TaskArray, position: int) -> None:
        self._take_file(array, position, run_files.output_name(array.first + position))

    def take(
        self, array: TaskArray, position: int, read: Callable[[], Outcome], name: str = ""
    ) -> None:
        """Resolves the future by an output.

        `name`: its file in the run directory, where it has one.
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
            first = (time.monotonic() + patience.PATIENCE_S, read)
            give_up_at, _ = self._unreadable.setdefault((array, position, name), first)
            if time.monotonic() < give_up_at:
                return
            unusable = (f"Its output can't be read: {exc}", exc)
        except NotOurs as exc:
            unusable = (f"{exc}: not unpickled", exc)
        except (OutputCutShort, StoreError) as exc:
            unusable = (str(exc), exc.__cause__)
        except BaseException as exc:  # whatever the classes of the call do when they are unpickled
            unusable = (f"Its result can't be unpickled here: {exception_text(exc)}", exc)
        if unusable is not None:
            exception = failures.output_unusable(self._where(array, position), *unusable)
        self._unreadable.pop((array, position, name), None)
        self._discard(array, position, name)
        self._resolve(array, position, result, exception)

    def _result(
        self, array: TaskArray, position: int, outcome: Outcome
    ) -> tuple[Any, BaseException | None]:
        """The result, or what the future raises."""
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
        """The task has no output, and will have none."""
        self._resolve(array, position, None, exception)

    def _fail_all(self, error: BaseException) -> None:
        """No output can be had any more; what has a job is cancelled."""
        for array in self._ledger.arrays():
            for position in array.open_positions():
                place = array.place_of(position)
                if place is not None and place.job_id is not None and not array.on_pilots:
                    self._to_cancel.append(place.element(position))
                where = self._where(array, position)
                self.fail(array, position, failures.output_unusable(where, str(error), error))

    def is_reading(self, array: TaskArray, position: int) -> bool:
        """Whether there is an output that could not be read yet."""
        return any(key[:2] == (array, position) for key in self._unreadable)

    def _read_again(self) -> None:
        for (array, position, name), (_, read) in list(self._unreadable.items()):
            if array.is_open(position):
                self.take(array, position, read, name)
            else:
                del self._unreadable[array, position, name]

    def _discard(self, array: TaskArray, position: int, name: str) -> None:
        """Outputs that nobody has asked to keep vanish once read."""
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
        except Exception as exc:  # litter, no loss: the run directory is removed as a whole
            _logger.warning("The output of %s stays: %s", array.describe(position), exc)

    def _where(self, array: TaskArray, position: int) -> Where:
        place = array.place_of(position)
        if place is None or place.job_id is None:
            return Where(array.describe(position))
        element = place.element(position)
        return Where(array.describe(position), str(element), self._jobs.log_path(element))

    # -- elements that have ended --

    def _on_element_ended(self, event: events.ElementEnded) -> None:
        job, ending = event.job, event.ending
        position = job.position(event.element)

        def give_up(error: BaseException) -> None:  # it is not told of this element again
            where = self._where(job.array, position)
            self.fail(job.array, position, failures.ending_unknown(where, ending.message, error))

        def settle() -> None:
            try:
                self._settle(job, position, ending)
            except OSError:
                raise
            except Exception as exc:
                give_up(exc)

        self.patiently(settle, give_up)

    def _settle(self, job: Job, position: int, ending: Ending) -> None:
        """Raises: OSError, where the disk or the store does not tell."""
        array = job.array
        if not array.is_open(position) or array.place_of(position) is not job:
            return
        evidence = self._outcomes.evidence(job, position, ending)
        verdict = decide(evidence, _POLICY)
        if isinstance(verdict, GoesInAgain):
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

    def _goes_in_again(self, job: Job, position: int, verdict: GoesInAgain) -> bool:
        """False where it has begun meanwhile."""
        array = job.array
        if verdict.after_silence:
            self._directory.beat()  # else the next would leave, too
        if not self._directory.close_submission(array.first + position, job.submission):
            return False
        self._ledger.change(array, position, State.WRITTEN)
        # With others that are lost at the same time.
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
            # The array's last needs none: its file goes.
            self._cancellation.revoke(array, position)
        self.fail(array, position, exception)

    def take_kept(self, array: TaskArray, position: int) -> bool:
        """Whether the output is in the store all the same: its job died before it could say so.

        Raises: OSError, where there is no telling.
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
        """A first submission, thought lost, runs this task: its job is the one to watch."""
        _logger.warning("%s is run by job %s after all", job.array.describe(position), element)
        self._jobs.add_earlier(job, position, element.partition("_")[0])

    def _on_refused(self, event: events.Refused) -> None:
        array = event.array
        for position in event.positions:
            if not array.is_open(position):
                continue
            if self._lifecycle.aborted:  # which took away what the submission needed
                self._end_at_once(array)
                return
            self.fail(array, position, failures.refused(array.describe(position), event.error))

    # -- cancellation --

    def _on_cancelled(self, future: ClusterFuture[Any]) -> None:
        if not future.was_cancelled():
            return  # its thread was interrupted before that
        array, position = future.array, future.position
        if array is None:  # `expect` will see to it, if it comes to that
            self._end_if_done()
            return
        if not self._ledger.has(array) or not array.is_open(position):
            return  # as above, or it has ended
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

        self.patiently(revoke, give_up)

    def end_cancelled(self, array: TaskArray, position: int) -> None:
        """Nobody begins it any more, and nobody wants it.

        A call's `cancel` may have returned False.
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
        """The executor ends at once."""
        for position in array.open_positions():
            self._end(array, position, State.ABANDONED)

    def end_all_at_once(self) -> None:
        without_job = self._gatherer.cancel_rest()
        for array in self._ledger.arrays():
            if isinstance(array, CallArray) and not array.on_pilots:
                without_job += sum(array.place_of(p) is None for p in array.open_positions())
            self._end_at_once(array)
        if without_job and self._lifecycle.leaves_jobs:
            _logger.warning("%d calls have no job yet and will get none", without_job)
