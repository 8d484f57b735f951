"""Turns what was noticed into futures' results: the one thread of an executor that owns its tasks.

    watcher --names-----+
    prober  --endings---+--> inbox --> resolver thread: reads, unpickles, resolves, calls back
    submitter --pieces--+

Whatever is slow here (a large result, a store, a callback) holds up this executor alone.
"""

from __future__ import annotations

import logging
import queue
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster_tools import own_files
from cluster_tools.cluster import failures, logs, process_wide
from cluster_tools.cluster.failures import Where
from cluster_tools.cluster.future import end_quietly
from cluster_tools.cluster.joinable_thread import JoinableThread
from cluster_tools.cluster.outcomes import Outcomes, StoreError
from cluster_tools.cluster.run_directory import Outcome, OutputCutShort, OutputNotReadable
from cluster_tools.cluster.submission import Span
from cluster_tools.cluster.tasks import Piece, TaskArray
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
from cluster_tools.errors import RemoteException
from cluster_tools.format import run_files
from cluster_tools.format.exit_codes import EXIT_REFUSED
from cluster_tools.function_name import exception_text
from cluster_tools.own_files import NotOurs
from cluster_tools.schedulers.base import Cause, Element, Ending

if TYPE_CHECKING:
    from cluster_tools.cluster.future import ClusterFuture
    from cluster_tools.cluster.session import Session

_POLICY = Policy()
# A file that was listed may take so long to be readable through an NFS client's cache.
_UNREADABLE_PATIENCE_S = 120.0
_UNREADABLE_INTERVAL_S = 1.0
# Cancellations that follow each other within this go to the scheduler together.
_CANCEL_INTERVAL_S = 0.1
# So do tasks that are submitted again: what is lost with a node is not all lost in the same moment.
_AGAIN_INTERVAL_S = 0.5
# Tasks that a job is given by their numbers, where those are in no row: they have to fit into an argument of
# its command (Linux: MAX_ARG_STRLEN, 128 KiB).
_MAX_PICKED = 5_000
# How long the files of tasks that are over may stay, so that a directory is not listed for each of them.
_CLEAR_INTERVAL_S = 1.0

_logger = logging.getLogger("cluster_tools")


@dataclass
class _Question:
    """`act` raises OSError until the disk answers; after `give_up_at`, `give_up` gets the last."""

    act: Callable[[], None]
    give_up: Callable[[OSError], None]
    give_up_at: float


class Resolver(JoinableThread):
    def __init__(self, session: Session):
        super().__init__("cluster_tools-resolver")
        self._session = session
        self._inbox: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]]
        self._inbox = queue.SimpleQueue()
        self._outcomes = Outcomes(session.directory, session.store)
        # Arrays with open tasks, by first task, and those numbers in order.
        self._arrays: dict[int, TaskArray] = {}
        self._firsts: list[int] = []
        # Outputs that could not be opened yet: (array, position, name) -> when to give up, what reads it.
        self._unreadable: dict[tuple[TaskArray, int, str], tuple[float, Callable[[], Outcome]]] = {}
        # Elements whose futures were cancelled: they are cancelled together.
        self._to_cancel: list[Element] = []
        # Tasks that go in again together: (array, submission) -> position -> why.
        self._again: dict[tuple[TaskArray, int], dict[int, str]] = {}
        # Shard -> tasks that are over and may have files there; shards that have no others.
        self._over: defaultdict[int, list[int]] = defaultdict(list)
        self._over_shards: list[int] = []
        # Shard -> how many of its tasks are of arrays that are done.
        self._done_counts: dict[int, int] = {}
        # What is asked again since the disk did not answer, and whether a warning has said so.
        self._unanswered: list[_Question] = []
        self._is_unreadable = False
        # What others want to be called then.
        self._later: dict[Callable[[], None], None] = {}
        # When all these are seen to; None where there is nothing.
        self._chores_at: float | None = None
        self._ended = False

    def post(self, method: Callable[..., None], *arguments: Any) -> None:
        """Has a method of this class run in its thread. Takes no lock; any thread, any time."""
        self._inbox.put((method, arguments))

    def work(self) -> None:
        while not self._ended:
            left = None if self._chores_at is None else self._chores_at - time.monotonic()
            method, arguments = self._do_chores, ()
            if left is None or left > 0:
                try:
                    method, arguments = self._inbox.get(timeout=left)
                except queue.Empty:
                    pass
            try:
                method(*arguments)
            # The methods deal with what goes wrong with a task. This is for the rest to go on.
            except BaseException:
                _logger.exception("the resolver goes on after an unexpected error")
            del method, arguments
            interval = self._chores_interval_s()
            if interval is not None:
                at = time.monotonic() + interval
                self._chores_at = at if self._chores_at is None else min(at, self._chores_at)

    def _chores_interval_s(self) -> float | None:
        """How soon the most urgent chore is to be done; None where there is none."""
        if self._to_cancel:
            return _CANCEL_INTERVAL_S
        if self._again:
            return _AGAIN_INTERVAL_S
        if self._unreadable or self._unanswered:
            return _UNREADABLE_INTERVAL_S
        return _CLEAR_INTERVAL_S if self._over or self._over_shards or self._later else None

    def later(self, method: Callable[[], None]) -> None:
        """Calls it once, in about a second. In this thread."""
        self._later[method] = None

    def patiently(self, act: Callable[[], None], give_up: Callable[[OSError], None]) -> None:
        """Calls `act` now, and again while it raises OSError; after two minutes calls `give_up`.

        A disk that fails for a moment says nothing about a call. In this thread.
        """
        self._ask(_Question(act, give_up, time.monotonic() + _UNREADABLE_PATIENCE_S))

    def _ask(self, question: _Question) -> None:
        try:
            question.act()
        except OSError as exc:
            if time.monotonic() >= question.give_up_at or self._session.aborted:
                question.give_up(exc)
                return
            if not self._is_unreadable:
                self._is_unreadable = True
                path = self._session.directory.path
                _logger.warning("%s can't be read for now; trying again: %s", path, exc)
            self._unanswered.append(question)

    def _ask_again(self) -> None:
        questions, self._unanswered = self._unanswered, []
        for question in questions:
            try:
                self._ask(question)
            except Exception:  # the others are not to be lost with it
                _logger.exception("the resolver goes on after an unexpected error")
        self._is_unreadable = bool(self._unanswered)

    def _do_chores(self) -> None:
        """What is better done for many at a time, or a little later."""
        self._chores_at = None
        self.flush_cancellations()
        self._read_again()
        self._ask_again()
        self._clear()
        later, self._later = self._later, {}
        for method in later:
            method()
        if self._again:  # behind all deaths that were told by now
            self.post(self._submit_lost)

    def flush_cancellations(self) -> None:
        elements, self._to_cancel = list(dict.fromkeys(self._to_cancel)), []
        if elements:
            self._session.cancel_elements(elements)
        self._session.on_cancellations_told()

    def end(self) -> None:
        self._ended = True

    # -- arrays --

    def expect(self, array: TaskArray) -> None:
        """The array's outputs may come from now on."""
        at = bisect_right(self._firsts, array.first)
        self._firsts.insert(at, array.first)
        self._arrays[array.first] = array
        pool = self._session.pool
        open_tasks = self._session.watched.open_tasks
        if pool is not None and array.on_pilots:
            pool.expect(array)
        else:
            for task in range(array.first, array.first + array.count):
                shard = task // run_files.TASKS_PER_SHARD
                open_tasks[shard] = open_tasks.get(shard, 0) + 1
        for future in array.futures:
            if future is not None and future.is_done():
                self._session.after_cancelling(future)
                self.cancelled(future)
        if self._session.cancelling:
            self.cancel_pending()
        process_wide.look(self._session)

    def submitted(self, piece: Piece) -> None:
        """The piece has its job: what was cancelled while it was on its way is cancelled there."""
        cancelled = piece.array.cancelled.intersection(piece.positions)
        self._to_cancel += [piece.element(position) for position in sorted(cancelled)]
        if not piece.array.open:  # so was all of its array
            self.flush_cancellations()
            self._session.let_go(piece)

    def locate(self, task: int) -> tuple[TaskArray, int] | None:
        """The array of an open task and its position there."""
        i = bisect_right(self._firsts, task) - 1
        if i < 0:
            return None
        array = self._arrays[self._firsts[i]]
        position = task - array.first
        if position >= array.count or array.futures[position] is None:
            return None
        return array, position

    def _close(self, array: TaskArray, position: int) -> None:
        """The task has come to its end: nothing more is expected of it."""
        if array.futures[position] is None:
            return
        array.futures[position] = None
        array.open -= 1
        pool = self._session.pool
        if pool is not None and array.on_pilots:
            pool.on_closed(array, position)
        else:
            task = array.first + position
            shard = task // run_files.TASKS_PER_SHARD
            self._over[shard].append(task)
            open_tasks = self._session.watched.open_tasks
            open_tasks[shard] -= 1
            if not open_tasks[shard]:
                del open_tasks[shard]
            self._session.submitter.make_room()
        if not array.open:
            self._firsts.remove(array.first)
            del self._arrays[array.first]
            if self._session.on_array_done(array):
                self._count_done(array)
                if pool is not None and array.on_pilots:
                    pool.forget(array)
            self.end_if_done()

    def _count_done(self, array: TaskArray) -> None:
        """Nobody begins its tasks any more: shards without others go."""
        task, end = array.first, array.first + array.count
        while task < end:
            shard = task // run_files.TASKS_PER_SHARD
            following = min(end, (shard + 1) * run_files.TASKS_PER_SHARD)
            done = self._done_counts.pop(shard, 0) + following - task
            if done < run_files.TASKS_PER_SHARD:
                self._done_counts[shard] = done
            else:
                self._over_shards.append(shard)
            task = following

    def _clear(self) -> None:
        """Files go with the tasks that they are of."""
        session = self._session
        over, self._over = self._over, defaultdict(list)
        shards, self._over_shards = self._over_shards, []
        if session.aborted or session.ending:  # the run directory goes, or jobs that go on need it
            return
        for shard in shards:
            over.pop(shard, None)
            session.directory.remove_shard(shard)
        for shard, tasks in over.items():
            try:
                session.directory.clear(set(tasks), leave_marks=session.scheduler.may_run_again)
            except FileNotFoundError:  # somebody has deleted the run directory
                continue
            except OSError as exc:
                _logger.debug("files of tasks that are over go later: %s", exc)
                self._over[shard] += tasks

    # -- the end --

    def has_open_calls(self) -> bool:
        """In any thread; True where something may be on its way here."""
        return not self._inbox.empty() or self._has_calls()

    def _has_calls(self) -> bool:
        pool = self._session.pool
        return bool(self._arrays) if pool is None else pool.has_open_tasks()

    def _is_done(self) -> bool:
        session = self._session
        return (
            session.takes_no_more()
            and not self._has_calls()
            and not session.gatherer.has_open_calls()
        )

    def end_if_done(self) -> None:
        """Ends the session if it takes no more calls and has none."""
        if self._is_done():
            self.post(self._end_if_still_done)  # behind what the gatherer has handed over

    def _end_if_still_done(self) -> None:
        session = self._session
        # What was aborted ends by itself, once its jobs are being cancelled.
        if session.aborted or session.ending or not self._is_done():
            return
        if session.pool is not None:
            session.pool.dismiss()
        session.begin_end()

    def arrays(self) -> list[TaskArray]:
        return list(self._arrays.values())

    # -- what was noticed --

    def see(self, names: Sequence[str]) -> None:
        """These entries of the run directory's shards have appeared."""
        for name in names:
            task = run_files.task_of(name)
            place = None if task is None else self.locate(task)
            if task is None or place is None:
                continue
            if name == run_files.output_name(task):
                self._take(*place, name)
            elif ".claim." in name:
                future = place[0].futures[place[1]]
                if future is not None:
                    future.start()

    def _take(self, array: TaskArray, position: int, name: str) -> None:
        """Reads an output and resolves its future; one that can't be opened yet is tried again."""
        task = array.first + position
        self.take(array, position, lambda: self._session.directory.outcome(task, name), name)

    def take_output_file(self, array: TaskArray, position: int) -> None:
        self._take(array, position, run_files.output_name(array.first + position))

    def take(
        self, array: TaskArray, position: int, read: Callable[[], Outcome], name: str = ""
    ) -> None:
        """Resolves the future by an output. `name`: its file in the run directory, where it has one."""
        result: Any = None
        exception: BaseException | None = None
        unusable: tuple[str, BaseException | None] | None = None
        try:
            outcome = self._outcomes.complete(read(), self._key(array, position))
            result, exception = self._result(array, position, outcome)
            del outcome
        except OutputNotReadable as exc:
            first = (time.monotonic() + _UNREADABLE_PATIENCE_S, read)
            give_up, _ = self._unreadable.setdefault((array, position, name), first)
            if time.monotonic() < give_up:
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

    @staticmethod
    def _key(array: TaskArray, position: int) -> str | None:
        return None if array.keys is None else array.keys[position]

    def fail(self, array: TaskArray, position: int, exception: RemoteException) -> None:
        """The task has no output, and will have none."""
        self._resolve(array, position, None, exception)

    def fail_all(self, error: BaseException) -> None:
        """No output can be had any more; what has a job is cancelled."""
        for array in self.arrays():
            for position, future in enumerate(array.futures):
                if future is None:
                    continue
                piece = array.piece_of(position)
                if piece is not None and piece.job_id is not None and not array.on_pilots:
                    self._to_cancel.append(piece.element(position))
                where = self._where(array, position)
                self.fail(array, position, failures.output_unusable(where, str(error), error))

    def is_reading(self, array: TaskArray, position: int) -> bool:
        """Whether there is an output that could not be read yet."""
        return any(key[:2] == (array, position) for key in self._unreadable)

    def _read_again(self) -> None:
        for (array, position, name), (_, read) in list(self._unreadable.items()):
            if array.futures[position] is None:
                del self._unreadable[array, position, name]
            else:
                self.take(array, position, read, name)

    def _discard(self, array: TaskArray, position: int, name: str) -> None:
        """Outputs that nobody has asked to keep vanish once read."""
        session = self._session
        try:
            again = session.scheduler.may_run_again and not array.on_pilots
            if name:
                session.directory.delete_outcome(array.first + position, name, leave_mark=again)
            if array.keys is not None and not array.kept:
                session.store.delete(array.keys[position])
        except Exception as exc:  # litter, no loss: the run directory is removed as a whole
            _logger.warning("The output of %s stays: %s", array.describe(position), exc)

    def _resolve(
        self, array: TaskArray, position: int, result: Any, exception: BaseException | None
    ) -> None:
        future = array.futures[position]
        where = "" if exception is None else str(self._where(array, position))
        self._close(array, position)
        if future is None:
            return
        was_cancelled = future.is_done()
        end_quietly(partial(future.resolve, result, exception), array.name)
        array.failures.note(None if was_cancelled else exception, where)

    def _where(self, array: TaskArray, position: int) -> Where:
        piece = array.piece_of(position)
        if piece is None or piece.job_id is None:
            return Where(array.describe(position))
        element = piece.element(position)
        return Where(array.describe(position), str(element), self._session.log_path(element))

    # -- endings --

    def element_ended(self, piece: Piece, element: Element, ending: Ending) -> None:
        """The scheduler says that this element has ended and does not run again; no output has come."""
        position = piece.position(element)

        def give_up(error: BaseException) -> None:  # it is not told of this element again
            where = self._where(piece.array, position)
            self.fail(piece.array, position, failures.ending_unknown(where, ending.message, error))

        def settle() -> None:
            try:
                self._settle(piece, position, ending)
            except OSError:
                raise
            except Exception as exc:
                give_up(exc)

        self.patiently(settle, give_up)

    def _settle(self, piece: Piece, position: int, ending: Ending) -> None:
        """Raises: OSError, where the disk or the store does not tell."""
        array = piece.array
        if array.futures[position] is None or array.piece_of(position) is not piece:
            return
        evidence = self._outcomes.evidence(piece, position, ending)
        verdict = decide(evidence, _POLICY)
        if isinstance(verdict, GoesInAgain):
            if self._goes_in_again(piece, position, verdict):
                return
            evidence = self._outcomes.evidence(piece, position, ending)
            verdict = decide(evidence, NEVER_AGAIN)
        if isinstance(verdict, Follow):
            self._follow(piece, position, verdict.element)
        elif isinstance(verdict, TakeInterrupted):
            self._take(array, position, run_files.interrupted_name(array.first + position))
        elif not self.take_kept(array, position):
            assert isinstance(verdict, Fail)
            self._fail_ended(piece, position, evidence, verdict.cause)

    def _goes_in_again(self, piece: Piece, position: int, verdict: GoesInAgain) -> bool:
        """False where it has begun meanwhile."""
        directory = self._session.directory
        if verdict.after_silence:
            directory.beat()  # else the next would leave, too
        if not directory.close_submission(piece.array.first + position, piece.submission):
            return False
        # With others that are lost at the same time.
        self._again.setdefault((piece.array, piece.submission + 1), {})[position] = verdict.why
        return True

    def _fail_ended(self, piece: Piece, position: int, evidence: Evidence, cause: Cause) -> None:
        array = piece.array
        where = self._where(array, position)
        tail = logs.tail(where.log)
        was_refused = evidence.ending.exit_code == EXIT_REFUSED
        log = failures.Log(
            tail,
            is_there=bool(tail) or not own_files.is_gone(where.log),
            is_something_else=was_refused and logs.is_something_else(where.log),
        )
        run_directory = self._session.directory.path
        exception = failures.element_ended(where, cause, evidence, log, run_directory)
        if array.open > 1 and self._session.scheduler.may_run_again and not array.on_pilots:
            self._session.revoke(array, position)  # the array's last needs none: its file goes
        self.fail(array, position, exception)

    def take_kept(self, array: TaskArray, position: int) -> bool:
        """Whether the output is in the store all the same: its job died before it could say so.

        Raises: OSError, where there is no telling.
        """
        key = self._key(array, position)
        if key is None:
            return False
        outcome = self._outcomes.kept(key, self._where(array, position))
        if outcome is None:
            return False
        self._resolve(array, position, *self._result(array, position, outcome))
        return True

    def _submit_lost(self) -> None:
        again, self._again = self._again, {}
        for (array, submission), reasons in again.items():
            positions = sorted(p for p in reasons if array.futures[p] is not None)
            if not positions:
                continue
            first = positions[0]
            if len(positions) == 1:
                text = f"{self._where(array, first)} ended before it began and goes in again"
            else:
                text = (
                    f"{len(positions)} tasks of {array.name}, {array.describe(first)} the first, ended "
                    "before they began and go in again together"
                )
            _logger.warning("%s: %s", text, reasons[first])
            for start in range(0, len(positions), _MAX_PICKED):
                some = positions[start : start + _MAX_PICKED]
                self._session.submitter.put(Span(array, some, submission))

    def _follow(self, piece: Piece, position: int, element: str) -> None:
        """A first submission, thought lost, runs this task: its job is the one to watch."""
        _logger.warning("%s is run by job %s after all", piece.array.describe(position), element)
        self._session.adopt(piece, position, element.partition("_")[0])

    def refuse(self, array: TaskArray, positions: Sequence[int], error: BaseException) -> None:
        """These tasks can't be submitted."""
        for position in positions:
            if array.futures[position] is None:
                continue
            if self._session.aborted:  # which took away what the submission needed
                self.abandon(array)
                return
            self.fail(array, position, failures.refused(array.describe(position), error))

    def cancelled(self, future: ClusterFuture[Any]) -> None:
        """A thread of the user's is cancelling this future."""
        if not future.was_cancelled():
            return  # it was interrupted before that
        array, position = future.array, future.position
        if array is None:  # `expect` will see to it, if it comes to that
            self.end_if_done()
            return
        piece = array.piece_of(position)
        if array.first not in self._arrays or array.futures[position] is None:
            return  # as above, or it is over
        array.failures.note(None, "")
        # It may be on its way to the scheduler, also for another time.
        array.cancelled.add(position)
        if piece is not None and piece.job_id is not None and not array.on_pilots:
            self._to_cancel.append(piece.element(position))
        self._close(array, position)

    def end_cancelled(self, array: TaskArray, position: int) -> None:
        """`cancel` has returned False, as the call might have begun. It has not, and will not."""
        future = array.futures[position]
        assert future is not None
        array.failures.note(None, "")
        self._close(array, position)
        end_quietly(future.abandon, array.name)

    def cancel_pending(self) -> None:
        for array in self.arrays():
            if array.runs_pilots:
                continue
            pending = {p: f for p, f in enumerate(array.futures) if f is not None}
            taken = self._session.withdraw(array, pending)
            for position, future in pending.items():
                end_quietly(
                    future.start if position in taken else future.cancel_waiting, array.name
                )

    def abandon(self, array: TaskArray) -> None:
        """The session ends at once."""
        for position, future in enumerate(array.futures):
            if future is not None:
                self._close(array, position)
                end_quietly(future.abandon, array.name)

    def abandon_all(self) -> None:
        without_job = self._session.gatherer.abandon_rest()
        for array in self.arrays():
            without_job += sum(
                future is not None
                and array.piece_of(position) is None
                and not array.on_pilots
                and not array.runs_pilots
                for position, future in enumerate(array.futures)
            )
            self.abandon(array)
        if without_job and self._session.leaves_jobs:
            _logger.warning("%d calls have no job yet and will get none", without_job)
