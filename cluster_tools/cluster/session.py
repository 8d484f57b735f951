"""The session: makes the parts of one executor, and ends them.

    executor --calls--> Submitter --jobs--> scheduler --> worker
                           |                                |
                           v Written, Submitted             v outputs
       futures <------- Resolver <--FilesAppeared--- watcher <-- run directory
                           ^-ElementEnded-- prober

Only the executor knows this class. A part gets the other parts that it needs as arguments when it
is made. `_state_lock` guards whether the executor takes calls; it is held only for a short time.
There is no counter of open calls: each is in the gatherer's queue or in an array of the ledger.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

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
    FilesAppeared,
    Observer,
    Observers,
    PerhapsDone,
    Replaced,
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
from cluster_tools.file_system import late_files_s
from cluster_tools.schedulers.base import Scheduler
from cluster_tools.tally import Tally

_T = TypeVar("_T")

# How late the last lines of a log may become visible: they are less important than a result, for
# which `late_files_s` says it.
_LATE_LOG_S = 3.0
# How long to wait, in all, after an abort for threads that may hang in a command.
_ABORT_PATIENCE_S = 10.0
# The interval at which `shutdown`, while it waits for all calls, checks for an abort.
_ABORT_INTERVAL_S = 1.0


class Session:
    """The inside of one executor of a cluster.

    Raises: OSError, if `cfut_dir` can't be used. UnsafeDirectory is one.
    """

    def __init__(
        self, scheduler: Scheduler, settings: Settings, observers: Sequence[Observer] = ()
    ):
        self.scheduler = scheduler
        self.settings = settings
        self.lifecycle = Lifecycle()
        self.directory = RunDirectory(
            settings.cfut_dir, settings.client_timeout_s, trust_group=settings.trust_group
        )
        self._watched: list[Watched] = []
        try:
            if settings.initializer is not None:
                self.directory.write_initializer(settings.initializer)
            # Captured now: `__main__.__file__` may be gone at the end of a script.
            pickling.main_module()
            self._pid = os.getpid()
            # After an abort: until when to wait for the threads (time.monotonic).
            self._patient_until = 0.0
            # Reentrant: the garbage collector may end an executor while its thread holds the lock.
            self._state_lock = threading.RLock()
            self._tally = Tally()
            self._failed_before = 0
            self._make_parts(observers)
            self._make_submitters()
            self._make_probe()
        except OSError:
            for watched in self._watched:
                watched.close()
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
        """Makes the parts of the executor, but starts no thread. Raises: OSError."""
        scheduler, settings, directory = self.scheduler, self.settings, self.directory
        self._observers = Observers(observers)
        self._ledger = Ledger(self._observers.on_change)
        outputs = Watched(directory.path, self._on_outputs, self._on_replaced)
        self._watched.append(outputs)
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
        """Makes the submitters and, if the user wants pilots, their pool. Raises: OSError."""
        scheduler, settings, directory = self.scheduler, self.settings, self.directory
        self._submitter = self._new_submitter(
            on_pilots=False, max_gathering_s=lambda: scheduler.max_gathering_s
        )
        self._pool = None
        # The submitter that gathers calls. With pilots it is another one than `_submitter`: while a
        # pilot waits for room in the scheduler's queue, calls still reach the running pilots.
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
        """Makes the probe and the heartbeat."""
        settings, directory = self.settings, self.directory
        self._late_files_s = 0.0 if self.scheduler.on_this_machine else late_files_s(directory.path)
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

    def _on_outputs(self, names: list[str]) -> None:
        self._probe.note_outputs()
        self._post(FilesAppeared(names))

    def _expect_outputs(self) -> None:
        process_wide.expect_outputs(self._watched)

    def _expect(self) -> None:
        self._expect_outputs()
        process_wide.expect_states(self._probe)

    def _on_replaced(self) -> None:
        """Something else is in the place of the run directory."""
        self._post(Replaced(self.directory.replaced()))

    # -- calls --

    @property
    def is_of_parent(self) -> bool:
        """Whether this process is a forked child: then the executor belongs to its parent."""
        return self._pid != os.getpid()

    def check_open(self, message: str = "cannot schedule new futures after shutdown") -> None:
        """Raises: RuntimeError with this message, if the executor takes no more calls."""
        if self.is_of_parent:
            raise RuntimeError(
                "this executor belongs to the process that this one was forked from; make another"
            )
        if self.lifecycle.closed:
            raise RuntimeError(message)

    def take(self, item: Call | CallArray) -> None:
        """Takes over these calls. If an exception interrupts it, all are taken or none.

        Raises: RuntimeError, if the executor takes no more calls.
        """
        self.check_open()  # before the lock, which in a forked child may never be released
        with self._state_lock:
            self.check_open()
            self._tally.note_submitted(item.count if isinstance(item, CallArray) else 1)
            self._gatherer.put(item)

    def share(self, value: _T) -> _T:
        """Writes a value for calls to share. Returns: its handle.

        Raises: as `SharedFiles.share`; RuntimeError, if the executor takes no more calls.
        """
        self.check_open("cannot share a value after shutdown")
        return self.directory.shared.share(value)

    def count_failed(self, count: int) -> None:
        """Counts calls that failed before they could be given to `take`."""
        self._tally.note_submitted(count)
        with self._state_lock:
            self._failed_before += count

    def stats(self) -> ExecutorStats:
        """What has become of the executor's calls until now."""
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
        """Whether a call is not done. Takes no lock."""
        return self._gatherer.has_open_calls() or self._resolver.has_open_calls()

    # -- logs --

    def follow_log(self, future: ClusterFuture[Any]) -> None:
        """Writes the call's log to stdout until the call is done. Does nothing if it has no job."""
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
        """Takes no more calls from now on."""
        with self._state_lock:
            self.lifecycle.closed = True
        self._gatherer.wake()  # an exception may have interrupted `put` before it woke the thread
        self._post(PerhapsDone())

    def cancel_pending(self) -> None:
        """Cancels all futures that are not known to run."""
        self.lifecycle.cancelling = True
        self._post(CancelPending())

    def close(self, *, wait: bool) -> None:
        """Takes no more calls, and ends the executor once all its calls are done.

        `wait`: whether to wait until it has ended.
        """
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
        """Whether the caller is a callback in a thread of this executor: it can't wait for it."""
        return threading.current_thread() in (self._resolver, *self._submitters)

    def abort(self) -> None:
        """Ends the executor without waiting for its calls, and cancels its jobs.

        With `keep_jobs_on_exit` the jobs go on. Takes no lock, so it may be called after a signal.
        Must not be called in the main thread, where an exception of a signal handler could
        interrupt it: see `process_wide`.
        """
        lifecycle = self.lifecycle
        if lifecycle.aborted:
            return
        lifecycle.closed = True
        lifecycle.leaves_jobs = self.settings.keep_jobs_on_exit and self.has_open_calls()
        self.directory.shared.keeps_files = lifecycle.leaves_jobs
        self._patient_until = time.monotonic() + _ABORT_PATIENCE_S
        lifecycle.aborted = True
        # Read before the resolver removes the jobs. `Jobs.add` stops jobs that are added later.
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
        """After `abort`: waits for the resolver's thread, for ten seconds after the abort."""
        if self._is_in_own_thread():
            return
        self._resolver.join(max(0.0, self._patient_until - time.monotonic()))

    def _begin_end(self) -> None:
        """Ends the submitters. The last one that ends has `_finish` called."""
        if not self.lifecycle.ending:
            self.lifecycle.ending = True
            for submitter in self._submitters:
                submitter.stop()

    def _on_submitter_end(self) -> None:
        self._ended_submitters += 1
        if self._ended_submitters == len(self._submitters):
            self._finish()

    def _finish(self) -> None:
        """Ends the other parts. Runs in the resolver's thread, as its last work."""
        try:
            self._resolver.flush_cancellations()
            self._resolver.end_all_at_once()
            if self._heartbeat is not None:
                self._heartbeat.stop()
            self._logs.remove()
            if not self.lifecycle.leaves_jobs:
                self.directory.remove()  # pilots and lingering jobs notice it and end
            self.scheduler.close()
        finally:  # the thread has to end even if some of this fails
            # Last: a signal handler waits for it before it ends the process.
            process_wide.unregister(self, self._watched, self._probe)
            self._resolver.end()
