"""The life of one executor: its run directory, scheduler and threads, from the first call to the last.

    executor --calls--> submitter --jobs--> scheduler --> worker
                           |                                |
                           v pieces                         v outputs
       futures <------- resolver <---names--- watcher <-- run directory
                           ^----endings---- prober

The threads know each other through this class. `state_lock` guards whether it is open; nothing that
takes time happens under it. Open calls are not counted: each is in the gatherer's queue or in an
array of the resolver, and these two are asked.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cluster_tools import pickling
from cluster_tools.cluster import process_wide, run_directory
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.heartbeat import Heart
from cluster_tools.cluster.pilots import PilotPool
from cluster_tools.cluster.resolving import Resolver
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.submission import Call, Span, Submitter
from cluster_tools.cluster.tasks import Piece, TaskArray
from cluster_tools.cluster.watching import Watched
from cluster_tools.file_system import shows_files_at_once
from cluster_tools.format import run_files
from cluster_tools.output_store import OutputStore
from cluster_tools.own_files import NotOurs
from cluster_tools.schedulers.base import Element, Ending, Scheduler, SchedulerError

# How late a file of another machine may be seen: an NFS client may show an old listing for 60 s.
_LATE_FILES_LOCALLY_S = 1.0
_LATE_FILES_REMOTELY_S = 120.0
# From an abort on nobody waits longer than this, in all, for threads that may hang in a command.
_ABORT_PATIENCE_S = 10.0
# How soon `shutdown`, which waits for all calls, notices an abort.
_ABORT_INTERVAL_S = 1.0
# Returned by `dict.pop` for a key that is missing.
_IS_GONE = object()

_logger = logging.getLogger("cluster_tools")


@dataclass(frozen=True)
class Settings:
    """What the user has set for the calls of one executor; `schedulers.base.Options` has the jobs' part."""

    cfut_dir: str
    # Tell what is submitted at level info, not debug.
    debug: bool = False
    keep_logs: bool = True
    # The group of `cfut_dir` may write to it.
    trust_group: bool = False
    # The words that start the worker in a job.
    worker: Sequence[str] = ()
    # (arguments of basicConfig, function that sets it up instead)
    logging: tuple[dict[str, Any], Callable[[str], object] | None] | None = None
    # Seconds after which a pending element is given up; None: never.
    pending_timeout_s: float | None = None
    # Seconds without a sign of this client after which its tasks are not begun any more; None: never.
    client_timeout_s: float | None = None
    # Seconds that a job may stay for what its call has left behind.
    linger_s: float = 10.0
    # A client that ends before its futures are done does not cancel them.
    keep_jobs_on_exit: bool = False
    # Calls run on so many pilots; None: each is an element of its own.
    pilot_jobs: int | None = None
    pilot_idle_timeout_s: float = 60.0
    # At most so many elements run at a time, where the scheduler does not see to it; None: no limit.
    max_workers: int | None = None
    # The pickled initializer and its arguments.
    initializer: bytes | None = None
    # What pilots are called in the queue.
    pilot_name: str = "pilot"
    # Outputs go into the run directory unless the caller names a key.
    own_outputs: bool = True
    store: OutputStore = field(kw_only=True)


class Session:
    def __init__(self, scheduler: Scheduler, settings: Settings):
        self.scheduler = scheduler
        self.settings = settings
        self.store = settings.store
        self.pending_timeout_s = settings.pending_timeout_s
        self.directory = RunDirectory(
            settings.cfut_dir, settings.client_timeout_s, trust_group=settings.trust_group
        )
        self.late_files_s = (
            0.0
            if scheduler.on_this_machine
            else _LATE_FILES_LOCALLY_S
            if shows_files_at_once(self.directory.path)
            else _LATE_FILES_REMOTELY_S
        )
        if settings.initializer is not None:
            try:
                self.directory.write_initializer(settings.initializer)
            except OSError:
                self.directory.remove()
                raise
        self.pid = os.getpid()
        pickling.main_module()  # looked at now: at the end of a script it is not what it was
        self.aborted = False
        # Until when threads are waited for, once it is aborted.
        self._patient_until = 0.0
        # And its jobs are being cancelled, as far as they are to be.
        self.stop_begun = False
        # It was aborted, and its jobs go on without this client: they need their files.
        self.leaves_jobs = False
        # Calls that are not submitted yet are to be cancelled.
        self.cancelling = False
        self._closed = False
        # Reentrant: the end of an executor that is garbage may come in the middle of anything.
        self.state_lock = threading.RLock()
        self._call_numbers = itertools.count()
        # Notified when a task has got a job, or will get none.
        self._submitted = threading.Condition()
        # What was submitted and is not known to be over: an ordered set, of which only whole-dict
        # operations are used, which need no lock.
        self._pieces: dict[Piece, None] = {}
        # All futures are done, or abandoned.
        self.ending = False
        # Pieces whose logs go as soon as nobody reads any.
        self._unwanted_logs: list[Piece] = []
        # Of cancelled arrays, of which the scheduler may not have heard yet.
        self._late_logs: list[Piece] = []
        self._log_followers = 0
        self.resolver = Resolver(self)
        self.submitter = Submitter(self, self._on_submitter_end)
        self.watched = Watched(self.directory.path, self.on_seen, self.on_replaced)
        self.pool = (
            None
            if settings.pilot_jobs is None
            else PilotPool(self, settings.pilot_jobs, settings.pilot_idle_timeout_s)
        )
        # Gathers calls. Of its own for pilots: while some wait for room in the queue, calls reach the others.
        self.gatherer = (
            self.submitter if self.pool is None else Submitter(self, self._on_submitter_end)
        )
        self._submitters = {self.submitter, self.gatherer}
        self._ended_submitters = 0
        self._heart = (
            None
            if settings.client_timeout_s is None
            else Heart(self.directory.beat, settings.client_timeout_s)
        )
        process_wide.join(self)
        self.resolver.start()
        for submitter in self._submitters:
            submitter.start()
        if self._heart is not None:
            self._heart.start()

    # -- calls --

    def check_open(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                "this executor belongs to the process that this one was forked from; make another"
            )
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def take(self, item: Call | TaskArray) -> None:
        """Takes over these calls, in one step: after an interrupt they are taken, or they are not.

        Raises: RuntimeError, where it takes none any more.
        """
        self.check_open()  # in a forked child the lock may never be free
        with self.state_lock:
            self.check_open()
            self.gatherer.put(item)

    def has_open_calls(self) -> bool:
        """Takes no lock."""
        return self.gatherer.has_open_calls() or self.resolver.has_open_calls()

    @property
    def all_watched(self) -> list[Watched]:
        return [self.watched] if self.pool is None else [self.watched, self.pool.watched]

    def unique_id(self) -> str:
        """Names a call in the default keys of an output store."""
        return f"{self.directory.token}_{next(self._call_numbers)}"

    def make_array(
        self,
        name: str,
        futures: Sequence[ClusterFuture[Any]],
        tasks: Iterable[tuple[bytes, Iterable[bytes], str | None]],
        *,
        working_directory: str,
        kept: bool,
    ) -> TaskArray:
        """Writes the array of some calls of `submit`. Raises: OSError."""
        writer = self.directory.begin_array()
        try:
            keys: list[str] = []
            for function, call, key in tasks:
                writer.add(function, call, key)
                if key is not None:
                    keys.append(key)
            return self.finish_array(
                writer,
                name,
                futures,
                keys or None,
                working_directory=working_directory,
                kept=kept,
                indexed=False,
            )
        except BaseException:
            writer.discard()
            raise

    def finish_array(
        self,
        writer: run_directory.ArrayWriter,
        name: str,
        futures: Sequence[ClusterFuture[Any]],
        keys: list[str] | None,
        *,
        working_directory: str,
        kept: bool,
        indexed: bool,
        numbers: Sequence[int] | None = None,
        total: int | None = None,
        runs_pilots: bool = False,
    ) -> TaskArray:
        manifest = run_directory.manifest(
            working_directory,
            self.settings.logging,
            self.store if keys is not None else None,
            notice_s=self.scheduler.notice_s,
            own_cgroup=not self.scheduler.on_this_machine,
            linger_s=self.settings.linger_s,
            # Pilots run it themselves, before their first call.
            initializer=self.settings.initializer is not None and not runs_pilots,
        )
        first = writer.finish(manifest)
        return TaskArray(
            name=name,
            futures=list(futures),
            indexed=indexed,
            keys=keys,
            kept=kept,
            path=writer.path,
            number=writer.number,
            first=first,
            working_directory=working_directory,
            numbers=range(len(futures)) if numbers is None else numbers,
            total=len(futures) if total is None else total,
            on_pilots=self.pool is not None and not runs_pilots,
            runs_pilots=runs_pilots,
        )

    def hand_over(self, array: TaskArray, submit: Callable[[Span], None]) -> None:
        """An array that was written goes on its way: to pilots, or by `submit` to the scheduler.

        In the gatherer's thread.
        """
        self.resolver.post(self.resolver.expect, array)
        if self.pool is None:
            submit(Span(array, range(array.count)))
        else:
            self.resolver.post(self.pool.publish, array)

    def worker_command(self, piece: Piece) -> list[str]:
        return [
            *self.settings.worker,
            piece.array.path,
            run_files.pack_tasks(piece.tasks()),
            str(piece.submission),
        ]

    def log_path_of(self, future: ClusterFuture[Any]) -> str:
        element = _element(future)
        assert element is not None
        return self.log_path(element)

    def log_path(self, element: Element) -> str:
        return self.scheduler.log_path(self.settings.cfut_dir, element)

    # -- jobs --

    def on_submitted(self, piece: Piece, job_id: str) -> None:
        piece.set_job(job_id)
        self._pieces[piece] = None
        level = logging.INFO if self.settings.debug else logging.DEBUG
        _logger.log(level, "job %s: %d calls of %s", job_id, len(piece.positions), piece.array.name)
        self.announce()
        self.resolver.post(self.resolver.submitted, piece)
        process_wide.look(self)
        process_wide.ask(self)
        if self.aborted:  # while it was on its way
            self._stop([job_id])

    def adopt(self, piece: Piece, position: int, job_id: str) -> None:
        """Another job than the one we know of runs this task of the piece."""
        other = Piece(
            piece.array,
            (position,),
            piece.submission,
            piece.token,
            first_index=piece.index(position),
        )
        other.set_job(job_id)
        self._pieces[other] = None

    def has_jobs(self) -> bool:
        """Whether there may be jobs with tasks that have not come to an end."""
        return bool(self._pieces)

    def open_pieces(self) -> list[Piece]:
        """Those that have tasks which have not come to an end."""
        return [piece for piece in list(self._pieces) if piece.is_open()]

    def elements_in_queue(self) -> int:
        return sum(len(piece.open_positions()) for piece in self.open_pieces())

    def slots_held(self) -> int:
        """How many elements can be running by what was submitted, each array's own limit kept."""
        held = 0
        for piece in self.open_pieces():
            open_count = len(piece.open_positions())
            held += open_count if piece.at_a_time is None else min(open_count, piece.at_a_time)
        return held

    def job_of(self, future: ClusterFuture[Any]) -> tuple[str, int | None]:
        """The job id of the task, and its index where it has one; waits for the submission.

        Raises: the future's own exception, where no job was made.
        """
        with self._submitted:
            self._submitted.wait_for(lambda: _element(future) is not None or future.is_done())
        element = _element(future)
        if element is None:
            future.result()
            raise AttributeError("no job was made for this future")
        if future.array is not None and future.array.indexed:
            return element.job_id, element.index
        return str(element), None

    def cancel_elements(self, elements: Collection[Element]) -> None:
        try:
            self.scheduler.cancel(elements, self.directory.token)
        except (SchedulerError, OSError) as exc:
            some = ", ".join(map(str, list(elements)[:10]))
            _logger.warning("Elements %s could not be cancelled and may run: %s", some, exc)

    def on_cancellations_told(self) -> None:
        """The scheduler knows of all that was cancelled: no more of it starts. In the resolver's thread."""
        late, self._late_logs = self._late_logs, []
        self._unwanted_logs += late

    # -- what has happened --

    def on_replaced(self) -> None:
        """Another directory lies where the run directory was."""
        self.resolver.post(self.resolver.fail_all, self.directory.replaced())

    def on_seen(self, names: Sequence[str]) -> None:
        self.resolver.post(self.resolver.see, names)

    def on_dead(self, piece: Piece, element: Element, ending: Ending) -> None:
        self.resolver.post(self.resolver.element_ended, piece, element, ending)

    def on_cancelled(self, future: ClusterFuture[Any]) -> None:
        """A thread of the user's is about to cancel it."""
        self.resolver.post(self.resolver.cancelled, future)

    def is_taken(self, future: ClusterFuture[Any]) -> bool:
        """Whether a pilot has taken its task, or may have; else none will. In any thread."""
        array = future.array
        return array is not None and bool(self.withdraw(array, [future.position]))

    def withdraw(self, array: TaskArray, positions: Collection[int]) -> set[int]:
        """Keeps pilots from these tasks, in any thread. Returns: those that one may have taken."""
        if self.pool is None or not array.on_pilots or self.pid != os.getpid():
            return set()
        try:
            return self.pool.withdraw(array, positions)
        except (OSError, NotOurs):  # `after_cancelling` tries it again
            return set()

    def after_cancelling(self, future: ClusterFuture[Any]) -> None:
        """Revokes the task, in the thread that cancels: once `cancel` returns, nothing begins it.

        In a forked child it does nothing: the call is the parent's.
        """
        if future.array is not None and self.pid == os.getpid():
            self.revoke(future.array, future.position)

    def revoke(self, array: TaskArray, position: int) -> None:
        """Nobody is to begin this task any more. In any thread."""
        if array.runs_pilots:
            return

        def revoke() -> None:
            if self.pool is not None and array.on_pilots:
                self.pool.revoke(array, [position])
            else:
                self.directory.revoke(array.first + position)

        def give_up(exc: Exception) -> None:
            _logger.warning("%s may still run: %s", array.describe(position), exc)

        try:
            revoke()
        except OSError:  # out of descriptors, say
            self.resolver.post(self.resolver.patiently, revoke, give_up)
        except NotOurs as exc:
            give_up(exc)

    def on_handed_over(self) -> None:
        """The gatherer has less to do."""
        if self._closed:
            self.resolver.post(self.resolver.end_if_done)

    def takes_no_more(self) -> bool:
        return self._closed

    def on_array_done(self, array: TaskArray) -> bool:
        """Lets go of all that is kept for it. Returns: whether its file is gone: then nobody begins its tasks."""
        for piece in (*array.pieces, *array.later_pieces):
            self.let_go(piece)
        if self.leaves_jobs:
            return False
        if not self._log_followers:
            self._remove_logs()
        if array.cancelled and not self.settings.keep_logs:
            # One that starts before its scheduler hears of that makes its log now.
            self._late_logs += [*array.pieces, *array.later_pieces]
        return _unlink(array.path)

    def let_go(self, piece: Piece) -> None:
        """All its tasks have come to an end. In the resolver's thread."""
        if self._pieces.pop(piece, _IS_GONE) is _IS_GONE or self.leaves_jobs:
            return
        if piece.job_id is not None:
            try:
                self.scheduler.forget(piece.job_id)
            except Exception:  # the future that was its last has still to be resolved
                _logger.exception("the job %s may stay for longer than it is needed", piece.job_id)
        if not self.settings.keep_logs:
            self._unwanted_logs.append(piece)

    @contextmanager
    def keeping_logs(self) -> Generator[None]:
        """While somebody reads a log, none is removed."""
        with self.state_lock:
            self._log_followers += 1
        try:
            yield
        finally:
            with self.state_lock:
                self._log_followers -= 1

    def _remove_logs(self) -> None:
        """Those that nobody wants. In the resolver's thread."""
        pieces, self._unwanted_logs = self._unwanted_logs, []
        for piece in pieces:
            if piece.job_id is None:
                continue
            for position in piece.positions:
                _unlink(self.log_path(piece.element(position)))

    def announce(self) -> None:
        with self._submitted:
            self._submitted.notify_all()

    # -- the end --

    def refuse_calls(self) -> None:
        with self.state_lock:
            self._closed = True
        self.gatherer.wake()  # a thread that was interrupted may not have told it of a call
        self.resolver.post(self.resolver.end_if_done)

    def cancel_pending(self) -> None:
        """Cancels all futures that are not known to run."""
        self.cancelling = True
        self.resolver.post(self.resolver.cancel_pending)

    def close(self, *, wait: bool) -> None:
        """Takes no more calls; ends when those that were taken are done."""
        if self.pid != os.getpid():
            return  # the forked child's copy has nothing to end
        self.refuse_calls()
        if not wait or self._is_in_own_thread():
            return
        while self.resolver.is_alive() and not self.aborted:
            self.resolver.join(_ABORT_INTERVAL_S)
        if self.aborted:
            self.join()

    def _is_in_own_thread(self) -> bool:
        """A callback can't wait for the thread that runs it."""
        return threading.current_thread() in (self.resolver, *self._submitters)

    def abort(self) -> None:
        """Cancels all that is queued or running, if it is not to be kept.

        Takes no lock: may be called after a signal. Not in the main thread, where an exception of a signal's
        handler would end it in the middle: see `process_wide`.
        """
        if self.aborted:
            return
        self._closed = True
        self.leaves_jobs = self.settings.keep_jobs_on_exit and self.has_open_calls()
        self._patient_until = time.monotonic() + _ABORT_PATIENCE_S
        self.aborted = True
        # Before the resolver forgets them; whatever job comes later is stopped where it is told.
        job_ids = {piece.job_id for piece in list(self._pieces) if piece.job_id is not None}
        self.resolver.post(self.resolver.abandon_all)
        try:
            if not self.leaves_jobs:
                self.directory.stop()
            self._stop(job_ids)
        finally:
            self.stop_begun = True
            self.begin_end()

    def _stop(self, job_ids: Collection[str]) -> None:
        if self.leaves_jobs:
            return
        try:
            self.scheduler.stop(job_ids, self.directory.token)
        except Exception:
            _logger.exception("the jobs %s could not be cancelled", ", ".join(job_ids))

    def join(self) -> None:
        """After `abort`: waits for the threads, but not for a command that hangs."""
        if self._is_in_own_thread():
            return
        self.resolver.join(max(0.0, self._patient_until - time.monotonic()))

    def begin_end(self) -> None:
        if not self.ending:
            self.ending = True
            for submitter in self._submitters:
                submitter.stop()

    def _on_submitter_end(self) -> None:
        self.resolver.post(self._finish_after_all)

    def _finish_after_all(self) -> None:
        self._ended_submitters += 1
        if self._ended_submitters == len(self._submitters):
            self._finish()

    def _finish(self) -> None:
        """In the resolver's thread, after everything else."""
        try:
            self.resolver.flush_cancellations()
            self.resolver.abandon_all()
            if self._heart is not None:
                self._heart.stop()
            self._remove_logs()
            if not self.leaves_jobs:
                self.directory.remove()  # what lingers ends by this
            self.scheduler.close()
        finally:  # whatever could not be tidied, nobody waits for this thread for ever
            # Last: a signal's handler waits for it before it lets the process die.
            process_wide.leave(self)
            self.resolver.end()


def _element(future: ClusterFuture[Any]) -> Element | None:
    array = future.array
    piece = None if array is None else array.piece_of(future.position)
    return None if piece is None or piece.job_id is None else piece.element(future.position)


def _unlink(path: str) -> bool:
    """False where it stays, for the removal of the run directory."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
