"""The life of one executor: makes its parts, and ends them.

    executor --calls--> Submitter --jobs--> scheduler --> worker
                           |                                |
                           v Written, Submitted             v outputs
       futures <------- Resolver <--Seen--- watcher <-- run directory
                           ^-ElementEnded-- prober

Only the executor knows this class. The parts know each other by what they are given when they are
made. `_state_lock` guards whether calls are taken; nothing that takes time happens under it. Open
calls are not counted: each is in the gatherer's queue or in an array of the ledger, and these two
are asked.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from cluster_tools import pickling
from cluster_tools.call_stats import ExecutorStats
from cluster_tools.cluster import logs, process_wide
from cluster_tools.cluster.arrays import Arrays
from cluster_tools.cluster.calls import Call, CallArray
from cluster_tools.cluster.cancellation import Cancellation
from cluster_tools.cluster.events import (
    Aborted,
    CancelPending,
    Event,
    LessToDo,
    Observer,
    Observers,
    Replaced,
    Seen,
)
from cluster_tools.cluster.future import ClusterFuture, Owner
from cluster_tools.cluster.gathering import Submitter
from cluster_tools.cluster.heartbeat import HeartbeatThread
from cluster_tools.cluster.jobs import Jobs, element_of
from cluster_tools.cluster.kept_logs import KeptLogs
from cluster_tools.cluster.ledger import Ledger
from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.pilot_queue import PilotQueue
from cluster_tools.cluster.pilots import PilotPool, log_section
from cluster_tools.cluster.probing import Probe
from cluster_tools.cluster.resolving import Resolver
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.settings import Settings
from cluster_tools.cluster.submission import Submission
from cluster_tools.cluster.tasks import Selection, State
from cluster_tools.cluster.watching import Watched
from cluster_tools.file_system import shows_files_at_once
from cluster_tools.schedulers.base import Scheduler
from cluster_tools.tally import Tally

# How late a file of another machine may be seen: an NFS client may show an old listing for 60 s.
_LATE_FILES_LOCALLY_S = 1.0
_LATE_FILES_REMOTELY_S = 120.0
# The last lines of a log are not worth the two minutes that a result is.
_LATE_LOG_S = 3.0
# From an abort on nobody waits longer than this, in all, for threads that may hang in a command.
_ABORT_PATIENCE_S = 10.0
# How soon `shutdown`, which waits for all calls, notices an abort.
_ABORT_INTERVAL_S = 1.0


class Session:
    """Raises: OSError, PermissionError, where `cfut_dir` can't be used."""

    def __init__(
        self, scheduler: Scheduler, settings: Settings, observers: Sequence[Observer] = ()
    ):
        self.scheduler = scheduler
        self.settings = settings
        self.lifecycle = Lifecycle()
        self.directory = RunDirectory(
            settings.cfut_dir, settings.client_timeout_s, trust_group=settings.trust_group
        )
        try:
            if settings.initializer is not None:
                self.directory.write_initializer(settings.initializer)
            # Captured now: `__main__.__file__` may be gone at the end of a script.
            pickling.main_module()
            self._pid = os.getpid()
            # Until when threads are waited for, once it is aborted.
            self._patient_until = 0.0
            # Reentrant: the end of an executor that is garbage may come in the middle of anything.
            self._state_lock = threading.RLock()
            self._tally = Tally()
            self._failed_before = 0
            self._make_parts(observers)
            self._make_submitters()
            self._make_probe()
        except OSError:
            self.directory.remove()
            raise
        process_wide.register(self, self._watched, self._probe)
        self._resolver.begin(
            self.jobs,
            self._logs,
            self._cancellation,
            self._submitter,
            self._gatherer,
            self._pool,
        )
        for submitter in self._submitters:
            submitter.start()
        if self._heartbeat is not None:
            self._heartbeat.start()

    def _make_parts(self, observers: Sequence[Observer]) -> None:
        """Each part is given those that it asks, or tells what to do. None does anything yet.

        Raises: OSError.
        """
        scheduler, settings, directory = self.scheduler, self.settings, self.directory
        self._observers = Observers(observers)
        self._ledger = Ledger(self._observers.on_change)
        outputs = Watched(directory.path, lambda names: self._post(Seen(names)), self._on_replaced)
        self._watched = [outputs]
        self._resolver = Resolver(
            directory,
            settings,
            self._ledger,
            self.lifecycle,
            self._observers,
            may_run_again=scheduler.may_run_again,
            open_tasks=outputs.open_tasks,
            expect_outputs=self._expect_outputs,
            on_done=self._begin_end,
            on_last=self._on_submitter_end,
            count_ends=self._count_ends,
        )
        self.jobs = Jobs(
            scheduler,
            directory.token,
            settings.cfut_dir,
            self.lifecycle,
            post=self._post,
            expect=self._expect,
            log_level=logging.INFO if settings.debug else logging.DEBUG,
        )
        self._logs = KeptLogs(self.jobs.log_path, keep=settings.keep_logs)
        self.arrays = Arrays(directory, settings, scheduler)
        count = settings.pilot_jobs
        self._queue = None if count is None else PilotQueue(directory, count)
        self._cancellation = Cancellation(directory, self._queue, self._post)
        self.owner = Owner(self.jobs, self._cancellation)

    def _make_submitters(self) -> None:
        """And the pool of pilots, where there are any. Raises: OSError."""
        scheduler, settings, directory = self.scheduler, self.settings, self.directory
        self._submitter = self._new_submitter(
            on_pilots=False, max_gathering_s=lambda: scheduler.max_gathering_s
        )
        self._pool = None
        # Gathers calls. Of its own for pilots: while some wait for room in the queue, calls reach
        # the others.
        self._gatherer = self._submitter
        if self._queue is not None and settings.pilot_jobs is not None:
            self._pool = PilotPool(
                directory,
                self._queue,
                self.arrays,
                self.jobs,
                self._ledger,
                self.lifecycle,
                settings,
                ends=self._resolver,
                count=settings.pilot_jobs,
                time_limit_s=scheduler.time_limit_s,
                post=self._post,
                on_replaced=self._on_replaced,
                submit=lambda array: self._submitter.put(Selection(array, range(array.count))),
            )
            self._watched.append(self._pool.watched)
            self._gatherer = self._new_submitter(
                on_pilots=True, max_gathering_s=self._pool.gathering_s
            )
        self._submitters = {self._submitter, self._gatherer}
        self._ended_submitters = 0

    def _make_probe(self) -> None:
        """And the heartbeat."""
        settings, directory = self.settings, self.directory
        self._late_files_s = (
            0.0
            if self.scheduler.on_this_machine
            else _LATE_FILES_LOCALLY_S
            if shows_files_at_once(directory.path)
            else _LATE_FILES_REMOTELY_S
        )
        self._probe = Probe(
            self.scheduler,
            self.jobs,
            directory,
            late_files_s=self._late_files_s,
            pending_timeout_s=settings.pending_timeout_s,
            post=self._post,
        )
        self._heartbeat = (
            None
            if settings.client_timeout_s is None
            else HeartbeatThread(directory.beat, settings.client_timeout_s)
        )

    def _new_submitter(self, *, on_pilots: bool, max_gathering_s: Callable[[], float]) -> Submitter:
        submission = Submission(
            self.scheduler,
            self.directory,
            self.arrays,
            self.jobs,
            self._cancellation,
            self.lifecycle,
            max_workers=self.settings.max_workers,
        )
        return Submitter(
            self.arrays,
            submission,
            self.lifecycle,
            post=self._post,
            on_pilots=on_pilots,
            max_gathering_s=max_gathering_s,
        )

    def _post(self, event: Event) -> None:
        self._resolver.post(event)

    def _expect_outputs(self) -> None:
        process_wide.expect_outputs(self._watched)

    def _expect(self) -> None:
        self._expect_outputs()
        process_wide.expect_states(self._probe)

    def _on_replaced(self) -> None:
        """Another directory lies where the run directory was."""
        self._post(Replaced(self.directory.replaced()))

    # -- calls --

    @property
    def is_of_parent(self) -> bool:
        """In a forked child, whose copy of an executor has nothing to do."""
        return self._pid != os.getpid()

    def check_open(self) -> None:
        """Raises: RuntimeError, where it takes no more calls."""
        if self.is_of_parent:
            raise RuntimeError(
                "this executor belongs to the process that this one was forked from; make another"
            )
        if self.lifecycle.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def take(self, item: Call | CallArray) -> None:
        """Takes over these calls, in one step: after an interrupt they are taken, or they are not.

        Raises: RuntimeError, where it takes no more calls.
        """
        self.check_open()  # in a forked child the lock may never be free
        with self._state_lock:
            self.check_open()
            self._tally.note_submitted(item.count if isinstance(item, CallArray) else 1)
            self._gatherer.put(item)

    def count_failed(self, count: int) -> None:
        """So many calls were submitted and have failed before they could be taken."""
        self._tally.note_submitted(count)
        with self._state_lock:
            self._failed_before += count

    def stats(self) -> ExecutorStats:
        """Counts by state, rate, time left."""
        self._count_ends()
        return self._tally.stats(self._ledger.counts[State.RUNNING])

    def _count_ends(self) -> None:
        counts, never_written = self._ledger.counts, self._gatherer.never_written()
        self._tally.set_ended(
            done=counts[State.DONE],
            failed=counts[State.FAILED] + never_written["failed"] + self._failed_before,
            cancelled=counts[State.CANCELLED]
            + counts[State.ABANDONED]
            + never_written["cancelled"],
        )

    def has_open_calls(self) -> bool:
        """Takes no lock."""
        return self._gatherer.has_open_calls() or self._resolver.has_open_calls()

    # -- logs --

    def follow_log(self, future: ClusterFuture[Any]) -> None:
        """Writes the call's log to stdout until it is done; nothing where it gets no job."""
        try:
            job_id = future.cluster_jobid
        except Exception:
            return
        element = element_of(future)
        assert element is not None
        late_s = min(_LATE_LOG_S, self._late_files_s)
        with self._logs.reading():
            logs.follow(
                self.jobs.log_path(element),
                f"(jid={job_id}) ",
                future.done,
                late_s,
                None if self._pool is None else lambda: log_section(future),
            )

    # -- the end --

    def refuse_calls(self) -> None:
        with self._state_lock:
            self.lifecycle.closed = True
        self._gatherer.wake()  # a thread that was interrupted may not have told it of a call
        self._post(LessToDo())

    def cancel_pending(self) -> None:
        """Cancels all futures that are not known to run."""
        self.lifecycle.cancelling = True
        self._post(CancelPending())

    def close(self, *, wait: bool) -> None:
        """Takes no more calls; ends when those that were taken are done."""
        if self.is_of_parent:
            return
        self.refuse_calls()
        if not wait or self._is_in_own_thread():
            return
        while self._resolver.is_alive() and not self.lifecycle.aborted:
            self._resolver.join(_ABORT_INTERVAL_S)
        if self.lifecycle.aborted:
            self.join()

    def _is_in_own_thread(self) -> bool:
        """A callback can't wait for the thread that runs it."""
        return threading.current_thread() in (self._resolver, *self._submitters)

    def abort(self) -> None:
        """Cancels all that is queued or running, if it is not to be kept.

        Takes no lock: may be called after a signal. Not in the main thread, where an exception of a
        signal's handler would end it in the middle: see `process_wide`.
        """
        lifecycle = self.lifecycle
        if lifecycle.aborted:
            return
        lifecycle.closed = True
        lifecycle.leaves_jobs = self.settings.keep_jobs_on_exit and self.has_open_calls()
        self._patient_until = time.monotonic() + _ABORT_PATIENCE_S
        lifecycle.aborted = True
        # Before the resolver forgets them; whatever job comes later is stopped where it is told.
        job_ids: Collection[str] = self.jobs.ids()
        self._post(Aborted())
        try:
            if not lifecycle.leaves_jobs:
                self.directory.stop()
            self.jobs.stop(job_ids)
        finally:
            lifecycle.stop_begun = True
            self._begin_end()

    def join(self) -> None:
        """After `abort`: waits for the threads, but not for a command that hangs."""
        if self._is_in_own_thread():
            return
        self._resolver.join(max(0.0, self._patient_until - time.monotonic()))

    def _begin_end(self) -> None:
        if not self.lifecycle.ending:
            self.lifecycle.ending = True
            for submitter in self._submitters:
                submitter.stop()

    def _on_submitter_end(self) -> None:
        self._ended_submitters += 1
        if self._ended_submitters == len(self._submitters):
            self._finish()

    def _finish(self) -> None:
        """In the resolver's thread, after everything else."""
        try:
            self._resolver.flush_cancellations()
            self._resolver.end_all_at_once()
            if self._heartbeat is not None:
                self._heartbeat.stop()
            self._logs.remove()
            if not self.lifecycle.leaves_jobs:
                self.directory.remove()  # what lingers ends by this
            self.scheduler.close()
        finally:  # whatever could not be tidied, nobody waits for this thread for ever
            # Last: a signal's handler waits for it before it lets the process die.
            process_wide.unregister(self, self._watched, self._probe)
            self._resolver.end()
