"""A pilot: one long-lived element that runs task after task, which it takes from the run directory.

    client: todo/ARRAY.BEGIN-END
                |  rename: a pilot takes the whole range
                v
            held/ARRAY.BEGIN-NEXT-END.PILOT ----> unlinked after its last task
                |  rename before each task, by its pilot: NEXT + 1
                |  rename by an idle pilot: it takes NEXT to END over. Before that it makes the file
                |     held/ARRAY.BEGIN-NEXT-NEXT.PILOT.IDLE, which names the tasks that PILOT began
                |  rename by the client, when the pilot has ended: NEXT to END goes back to todo/
    client <--- journals/PILOT,PART: tasks that began, and their outputs; the client deletes the
                parts that it has read
    client <--> wake/: named pipes, by which the processes of one machine tell each other to look
                at these directories at once. All others look from time to time.

A range of tasks is one file at any time, and each change of it is a rename, which one process alone
can win: so no task begins twice, however late or silent a pilot is. Until the journal has a record
of a task that has begun, a file's name shows it: as the last one before NEXT in its pilot's range,
or in the file that an idle pilot has made of that.

A cancelled task is revoked: the client first writes its number into a file, then checks whether a
pilot has taken the task. A pilot first takes a task, then checks whether it is revoked. So at least
one of them sees what the other has done.

`cluster_tools.format.pilots` has the names of the files and the format of a journal;
`cluster_tools.cluster.pilots` is the client's side of them. Like the worker it knows no scheduler.
"""

from __future__ import annotations

import faulthandler
import math
import os
import pickle
import random
import signal
import stat
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast

from cluster_tools import own_files
from cluster_tools.file_system import shows_files_at_once
from cluster_tools.format import arrays, outputs, run_files
from cluster_tools.format.exit_codes import EXIT_REFUSED
from cluster_tools.format.measured import NS_PER_S
from cluster_tools.format.pilots import (
    CLIENT,
    HELD,
    HERE,
    IDLE,
    IN_FILE,
    IN_STORE,
    JOURNALS,
    NO_LOG,
    REVOKED,
    STOP,
    TODO,
    WAKE,
    Journal,
    Range,
    began_record,
    continued_record,
    end_of_part,
    ended_record,
    read_range,
    read_revoked,
    skipped_record,
)
from cluster_tools.job import worker
from cluster_tools.named_pipes import MAX_MESSAGE_BYTES, NamedPipe, send
from cluster_tools.usage import Meter

if TYPE_CHECKING:
    from cluster_tools.usage import Beginning

# A larger output gets a file of its own, so that journals can be read at once.
_MAX_RECORD_BYTES = 1 << 20
# After so many bytes a pilot begins the next part of its journal, so that the client can delete the
# parts that it has read.
_MAX_PART_BYTES = 1 << 20

# How often all idle pilots of an executor together list `todo/`: a limit to the file server's load.
# The second is for pilots that the client tells to look.
_SEARCHES_PER_S = 16.0
_SEARCHES_PER_S_IF_TOLD = 4.0
# In the first second after its last call, a pilot looks more often: the interval is this part of
# the time for which it has been idle.
_INTERVAL_PART = 0.5
_OFTEN_FOR_S = 1.0
_MIN_INTERVAL_S = 0.002
_MIN_INTERVAL_IF_TOLD_S = 0.05
# The least interval at which it then lists `held/`.
_MIN_HELD_INTERVAL_S = 0.05
# The largest part of the time that the searches of an idle pilot may take; but it waits no longer
# than this for that reason, as one search may take long by chance.
_MAX_LOAD = 0.05
_MAX_REST_S = 2.0
# The client is told about the ends of short tasks at this interval.
_TELL_INTERVAL_S = 0.005
# While no other pilot held tasks that it had not begun, `held/` is listed so much more rarely.
_SEARCHES_PER_HELD_SEARCH = 6
# After so many ranges that other pilots took first, list `todo/` again: the list is out of date.
_MAX_LOST_RENAMES = 8
# A pilot that has not begun its next task for so long is busy; an idle pilot takes that task over.
_STEAL_AFTER_S = 0.1
# How long the disk may fail before the pilot ends. A file server may need so long to start again.
_DISK_PATIENCE_S = 60.0
_DISK_RETRY_INTERVAL_S = 0.5
# How often to check that the client still waits.
_CLIENT_CHECK_INTERVAL_S = 30.0
# The end of a shorter task is written together with the beginning of the next: half the writes.
_SHORT_TASK_S = 0.01
# How much of an array file is read at a time.
_WINDOW_BYTES = 1 << 16
# How long before the time limit SIGUSR1 comes (Slurm: --signal=B:USR1@120).
WARNING_S = 120.0


class _Leave(Exception):
    """The pilot ends, for the reason that this exception's text gives. It holds no tasks."""


def _executor_has_ended() -> worker.Stop:
    return worker.Stop(0, "its executor has ended")


def run_pilot(
    idle_timeout_s: float, time_limit_s: float | None, *, initializes: bool = False
) -> str | bytes:
    """Runs tasks until there have been none for `idle_timeout_s` seconds; returns why it ended.

    `time_limit_s`: the element's time limit in seconds, None where it is not known. `initializes`:
    run the executor's initializer first. If that fails, its failure is returned, in the form of a
    failed call's output.
    """
    if initializes and (failure := _initializer_failure()) is not None:
        return failure
    pilot = _Pilot(worker.running, time_limit_s)
    try:
        pilot.work(idle_timeout_s)
    except _Leave as why:
        return str(why)
    finally:
        pilot.close()


def _initializer_failure() -> bytes | None:
    """Runs the initializer; returns its failure, if it fails. Raises: what a signal raises."""
    assert worker.running.main is not None
    try:
        worker.load_initializer(worker.running, worker.running.main)()
    except BaseException as exc:
        if worker.is_signal(exc):
            raise
        return worker.failure_bytes(exc, frames_to_hide=1, note=worker.INITIALIZER_NOTE)
    return None


class Claimer:
    """Takes ranges of tasks for one pilot.

    Every change is a rename, so that one process alone can make it. An NFS server may have done a
    rename whose answer was lost: then the file has its new name.
    """

    def __init__(self, todo: str, held: str, name: str):
        """`todo`, `held`: paths of these directories; `name`: the pilot's."""
        self._todo = todo
        self._held = held
        self._name = name
        # Ranges of the last listing of `todo/`, the oldest first.
        self._known: deque[Range] = deque()
        # Files of other pilots with tasks that have not begun -> since when we have seen each.
        self._seen_since: dict[str, float] = {}
        # How many idle pilots there are.
        self.idle = 1

    def take(self) -> Range | None:
        """Takes the oldest range that no pilot holds; None where there is none.

        Raises: worker.Stop, where the executor has ended; OSError.
        """
        lost_renames = 0
        while self._known and lost_renames < _MAX_LOST_RENAMES:
            held = self._claim(self._known.popleft())
            if held is not None:
                return held
            lost_renames += 1
        names = _list_names(self._todo)
        if STOP in names:
            raise _executor_has_ended()
        self.idle = max(
            [int(name[len(IDLE) :]) for name in names if name.startswith(IDLE)],
            default=self.idle,
        )
        self._known = deque(sorted(r for name in names if (r := read_range(name)) is not None))
        while self._known:
            held = self._claim(self._known.popleft())
            if held is not None:
                return held
        return None

    def steal(self, after_s: float) -> Range | None:
        """Takes over tasks of another pilot that has begun none of them for `after_s` seconds.

        Raises: worker.Stop, where the executor has ended; OSError.
        """
        now = time.monotonic()
        seen: dict[str, float] = {}
        for name in _list_names(self._held):
            held = read_range(name)
            if held is not None and held.next < held.end and held.pilot != self._name:
                seen[name] = self._seen_since.get(name, now)
        self._seen_since = seen
        for name, since in sorted(seen.items(), key=lambda item: item[1]):
            held = read_range(name)
            if held is not None and now - since >= after_s:
                ours = self._take_over(held)
                if ours is not None:
                    return ours
        return None

    def _take_over(self, held: Range) -> Range | None:
        """Takes the tasks of this range that have not begun; None where another pilot was faster.

        First makes a file that names the tasks that have begun: the journal may not have them yet.
        """
        if held.next == held.begin:
            return self._claim(held)
        begun = self._path(held._replace(end=held.next, taker=self._name))
        os.close(own_files.open_own(begun, os.O_WRONLY | os.O_CREAT, owner=None))
        ours = self._claim(held)
        if ours is None:
            os.unlink(begun)
        return ours

    def forget_begun(self) -> None:
        """Deletes the files that name tasks we began of ranges that others took over.

        To be called once the journal has these tasks.
        """
        for name in _list_names(self._held):
            begun = read_range(name)
            if begun is not None and begun.taker and begun.pilot == self._name:
                os.unlink(self._path(begun))

    @property
    def others_hold_tasks(self) -> bool:
        """Whether other pilots held tasks that had not begun, when `steal` last listed them."""
        return bool(self._seen_since)

    def _claim(self, tasks: Range) -> Range | None:
        ours = tasks._replace(begin=tasks.next, pilot=self._name)
        source = self._path(tasks) if tasks.pilot else os.path.join(self._todo, tasks.todo_name())
        return ours if self._rename(source, ours) else None

    def _path(self, held: Range) -> str:
        return f"{self._held}/{held.held_name()}"

    def _rename(self, source: str, target: Range) -> bool:
        """Whether we, and no other, have renamed it. Raises: OSError, where the disk fails."""
        path = self._path(target)
        try:
            os.rename(source, path)
            return True
        except OSError:
            return _retry(partial(_rename_again, source, path))

    def advance(self, held: Range) -> Range | None:
        """Begins the next task; returns the changed range, or None where another pilot has it."""
        begun = Range(held.array, held.begin, held.next + 1, held.end, held.pilot)
        return begun if self._rename(self._path(held), begun) else None

    def forget(self, held: Range) -> None:
        """Deletes the file of a range whose tasks have all ended."""
        try:
            os.unlink(self._path(held))
        except FileNotFoundError:
            pass

    def give_back(self, held: Range) -> None:
        """Puts the tasks that have not begun back into `todo/`."""
        try:
            os.rename(self._path(held), os.path.join(self._todo, held.todo_name()))
        except FileNotFoundError:
            pass


def _rename_again(source: str, path: str) -> bool:
    """Tries a rename that has failed once more. The first may have been done, as happens on NFS."""
    try:
        os.rename(source, path)
    except FileNotFoundError:
        return own_files.is_there(path)
    return True


def _retry(use_disk: Callable[[], bool]) -> bool:
    """Calls this again while the disk fails. Raises: OSError, after `_DISK_PATIENCE_S`."""
    deadline = time.monotonic() + _DISK_PATIENCE_S
    while True:
        try:
            return use_disk()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_DISK_RETRY_INTERVAL_S)


def _list_names(directory: str) -> list[str]:
    """Raises: worker.Stop, where the executor has ended; OSError, where the disk fails."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        raise _executor_has_ended() from None


class _Pilot:
    """Takes ranges of tasks, runs their calls, and writes its journal. One for each process."""

    def __init__(self, running: worker.Running, time_limit_s: float | None):
        directory = self._directory = running.run_directory
        self._name = os.urandom(6).hex()
        self._job_id = running.job_id
        self._claimer = Claimer(
            os.path.join(directory, TODO), os.path.join(directory, HELD), self._name
        )
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._longest_s = 0.0
        self._meter = Meter()
        self._held_listed_at = 0.0
        self._arrays: dict[int, _ArrayTasks] = {}
        self._disk_fails_since: float | None = None
        self._revoked = _Revoked(os.path.join(directory, REVOKED))
        self._client_checked_at = 0.0
        self._log_fd = _log_fd()
        # Size of the log and number of processes killed for memory, when the last task ended.
        self._log_end = NO_LOG
        self._oom_kills: int | None = None
        # Between calls our handlers only note signals: an exception could lose a task.
        self._interruption = running.interruption or worker.Interruption()
        self._signals_read_at = 0.0
        self._listen()
        # Where other nodes see a write only after it is synced.
        self._syncs = not shows_files_at_once(directory)
        self._part = Journal(self._name, 0, running.restart, worker.node_name(), self._job_id)
        # Before the journal, by which the client learns of this pilot. Tells it to look for work;
        # None where the file system has no named pipes.
        self._pipe = self._make_pipe()
        try:
            self._journal = self._open_journal(self._part)
        except FileNotFoundError:
            raise _executor_has_ended() from None
        # Records for the journal that the next write takes along.
        self._unwritten = b""
        self._client_pipe = os.path.join(directory, WAKE, CLIENT)
        # Whether the client is on this machine; it was told about all records at `_told_at`.
        self._is_heard = False
        self._told_at = 0.0
        self._tell_client()
        self._idle_since = time.monotonic()
        # How many seconds a search takes.
        self._search_s = 0.0

    def _listen(self) -> None:
        """Installs our signal handlers, since a call may have replaced them. They raise nothing."""
        self._interruption.ignore()
        faulthandler.unregister(signal.SIGUSR1)
        worker.signal.signal(signal.SIGUSR1, self._on_warning)  # faster than `signal`, with enums

    def _on_warning(self, number: int, frame: FrameType | None) -> None:
        deadline = time.monotonic() + WARNING_S
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)

    def close(self) -> None:
        self._journal.close()
        if self._pipe is not None:
            self._pipe.close()

    def _make_pipe(self) -> NamedPipe | None:
        try:
            return NamedPipe(os.path.join(self._directory, WAKE, self._name))
        except OSError:
            return None

    def _tell_client(self) -> None:
        """Tells the client, if it is on this machine, that the journal has grown."""
        self._told_at = time.monotonic()
        message = f"{self._part.name()}\n".encode()
        self._is_heard = len(message) <= MAX_MESSAGE_BYTES and send(
            self._client_pipe, message, owner=worker.running.owner
        )

    def _open_journal(self, part: Journal) -> _SharedProcessFile:
        """Makes the file of this part. Raises: OSError."""
        path = os.path.join(self._directory, JOURNALS, part.name())
        sync = os.O_DSYNC if self._syncs else 0
        return _SharedProcessFile(path, os.O_WRONLY | os.O_APPEND | sync)

    def _write_journal(self) -> None:
        """Writes the records that are due.

        Raises: OSError (readers skip a record of which only a part was written); _Leave.
        """
        records, self._unwritten = self._unwritten, b""
        self._append(records)
        if self._journal.size > _MAX_PART_BYTES:
            self._begin_part()

    def _append(self, records: bytes) -> None:
        while records:
            written = os.write(self._journal.fd(), records)
            self._journal.size += written
            records = records[written:]

    def _begin_part(self) -> None:
        """Continues the journal in another file: the client deletes parts that it has read.

        Raises: OSError; _Leave, where the client has deleted this part before its end.
        """
        if not self._journal.is_there():
            raise _Leave("its executor has taken it for dead")
        part = self._part._replace(part=self._part.part + 1)
        try:
            following = self._open_journal(part)
        except OSError:  # the disk is full: this part grows instead
            return
        self._append(continued_record())  # after `following` was made, which readers now expect
        self._journal.close()
        self._journal, self._part = following, part

    def work(self, idle_timeout_s: float) -> NoReturn:
        """Runs tasks until there is a reason to end. Raises: _Leave; whatever a signal raises."""
        # Pilots that start together must not all list the directory at the same time.
        time.sleep(random.uniform(0, 0.01))
        while True:
            why = self._why_to_leave()
            if why:
                raise _Leave(why)
            began = time.monotonic()
            held = self._find()
            if held is not None:
                self._log_end = self._log_size()
                self._oom_kills = worker.oom_kills()
                self._run_all(held)
                self._idle_since = time.monotonic()
                self._signals_read_at = 0.0
                continue
            now = time.monotonic()
            idle_left_s = self._idle_since + idle_timeout_s - now
            if idle_left_s < 0:
                raise _Leave("there was nothing to do")
            if self._disk_fails_since is not None:
                self._wait(_DISK_RETRY_INTERVAL_S)
                continue
            self._search_s = now - began
            self._close_finished_arrays()
            self._wait(min(self._interval_s(), self._left_s(), idle_left_s + _MIN_INTERVAL_S))

    def _left_s(self) -> float:
        """How long until this pilot leaves because its time is nearly over."""
        if self._deadline is None:
            return math.inf
        return max(_MIN_INTERVAL_S, self._deadline - 2 * self._longest_s - time.monotonic())

    def _interval_s(self) -> float:
        """How long to wait until the next search, if nobody tells this pilot to search earlier."""
        is_told = self._is_heard and self._pipe is not None
        waits = is_told and not self._claimer.others_hold_tasks
        per_s = _SEARCHES_PER_S_IF_TOLD if waits else _SEARCHES_PER_S
        interval = self._claimer.idle / per_s * random.uniform(0.8, 1.2)
        idle_s = time.monotonic() - self._idle_since
        if idle_s < _OFTEN_FOR_S:
            least = _MIN_INTERVAL_IF_TOLD_S if is_told else _MIN_INTERVAL_S
            interval = min(interval, max(least, idle_s * _INTERVAL_PART))
        return max(interval, min(_MAX_REST_S, self._search_s * (1 / _MAX_LOAD - 1)))

    def _find(self) -> Range | None:
        """Takes a range; None where there is none, or the disk fails.

        Raises: OSError, after `_DISK_PATIENCE_S` of failures; _Leave.
        """
        try:
            held = self._claimer.take() or self._steal()
        except OSError:
            now = time.monotonic()
            if self._disk_fails_since is None:
                self._disk_fails_since = now
            if now - self._disk_fails_since > _DISK_PATIENCE_S:
                raise
            return None
        self._disk_fails_since = None
        return held

    def _close_finished_arrays(self) -> None:
        """Closes array files that the client has deleted, as all their calls are over."""
        for number, tasks in list(self._arrays.items()):
            if own_files.is_gone(tasks.path):
                tasks.close()
                del self._arrays[number]

    def _wait(self, seconds: float) -> None:
        """Waits, at most until a signal comes. Raises: _Leave; what SIGTERM raises in a call."""
        interruption, pipe = self._interruption, None
        if self._pipe is not None:
            try:
                pipe = self._pipe.fd()
            except OSError:  # the run directory goes
                self._pipe = None
        interruption.wait(seconds, *(() if pipe is None else (pipe,)))
        if self._pipe is not None:
            self._pipe.read()
        interruption.read_pipe()
        if interruption.told_to_end:
            raise interruption.sigterm_exception()
        if interruption.was_interrupted:
            raise _Leave("it was interrupted")

    def _steal(self) -> Range | None:
        """Takes tasks of another pilot; most of the time looks for none while there were none."""
        now = time.monotonic()
        idle_s = now - self._idle_since
        interval = _SEARCHES_PER_HELD_SEARCH * self._claimer.idle / _SEARCHES_PER_S
        if idle_s < _OFTEN_FOR_S:
            interval = min(interval, max(_MIN_HELD_INTERVAL_S, idle_s * _INTERVAL_PART))
        if not self._claimer.others_hold_tasks and now - self._held_listed_at < interval:
            return None
        self._held_listed_at = now
        return self._claimer.steal(_STEAL_AFTER_S)

    def _why_to_leave(self, *, between_calls: bool = False) -> str:
        """Why no other task may begin; "" where one may.

        `between_calls`: a SIGINT is that of the call before.
        """
        now = time.monotonic()
        interruption = self._interruption
        if now - self._signals_read_at > _SHORT_TASK_S:
            self._signals_read_at = now
            interruption.read_pipe()
        if interruption.told_to_end:  # and the call caught the exception
            return "it was told to end"
        if interruption.was_interrupted:
            if interruption.is_cancelled():
                return "its executor has ended"
            if not between_calls:
                return "it was interrupted"
            interruption.was_interrupted = False
        # The next task may take twice as long as any before.
        if self._deadline is not None and self._deadline - now <= 2 * self._longest_s:
            return "its time is nearly over"
        if now - self._client_checked_at > _CLIENT_CHECK_INTERVAL_S:
            self._client_checked_at = now
            return worker.why_nobody_waits(self._directory)
        return ""

    # -- running --

    def _run_all(self, held: Range) -> None:
        """Runs the tasks of this range that have not begun.

        Raises: _Leave, where the next must not begin; whatever a signal raises.
        """
        try:
            tasks = self._tasks_of(held.array)
            tasks.choose(held.next, held.end)
        except worker.Stop:
            if own_files.is_gone(self._array_path(held.array)):
                self._claimer.forget(held)  # all calls of the array are over
                return
            self._claimer.give_back(held)
            raise
        try:
            while held.next < held.end:
                why = self._why_to_leave(between_calls=True)
                if why:
                    self._write_journal()
                    self._claimer.give_back(held)
                    raise _Leave(why)
                begun = self._claimer.advance(held)
                if begun is None:
                    self._write_journal()
                    self._claimer.forget_begun()
                    return
                task, held = held.next, begun
                if not self._is_revoked(task, tasks):
                    self._run(tasks, task)
                elif not tasks.is_done:
                    self._unwritten += skipped_record(task)
        finally:
            if self._unwritten:
                self._forget_interrupts()
                self._write_journal()
            self._tell_client()
        self._claimer.forget(held)

    def _forget_interrupts(self) -> None:
        """A SIGINT that has come was the call's: the client does not know yet that it has ended."""
        interruption = self._interruption
        interruption.read_pipe()
        if interruption.was_interrupted and not interruption.is_cancelled():
            interruption.was_interrupted = False

    def _array_path(self, array: int) -> str:
        return os.path.join(self._directory, f"array.{array}")

    def _tasks_of(self, array: int) -> _ArrayTasks:
        """The calls of this array, opened if need be. Raises: worker.Stop, where it is gone."""
        tasks = self._arrays.get(array)
        if tasks is None:
            tasks = _ArrayTasks(self._array_path(array))
            for old in self._arrays.values():  # tasks of one array mostly come one after another
                old.close()
            self._arrays = {array: tasks}
        return tasks

    def _is_revoked(self, task: int, tasks: _ArrayTasks) -> bool:
        try:
            return self._revoked.has(task, tasks)
        except OSError:
            return _retry(partial(self._revoked.has, task, tasks))

    def _run(self, tasks: _ArrayTasks, task: int) -> None:
        """Runs one call, between the records of its beginning and its end in the journal."""
        offset = self._log_end
        has_ends = bool(self._unwritten)
        self._unwritten += began_record(task, offset, time.time_ns())
        self._write_journal()
        if has_ends and time.monotonic() - self._told_at > _TELL_INTERVAL_S:
            self._tell_client()
        began = self._meter.begin()
        output, place = self._output_of(tasks, task, began)
        worker.flush()
        used = self._meter.end(began)
        took = (used[1] - used[0]) / NS_PER_S
        if place == HERE and len(output) > _MAX_RECORD_BYTES:
            output, place = self._write_file(task, began, lambda file: file.write(output))
        end_offset = self._log_end = self._log_size()
        if end_offset > offset:
            self._mark_end_in_log(task, offset)
            self._log_end = self._log_size()
        self._longest_s = max(self._longest_s, took)
        self._unwritten += ended_record(task, (offset, end_offset), place, used, output)
        if took > _SHORT_TASK_S:
            self._forget_interrupts()
            self._write_journal()
            self._tell_client()
            self._oom_kills = worker.oom_kills()

    def _output_of(self, tasks: _ArrayTasks, task: int, began: Beginning) -> tuple[bytes, bytes]:
        """Runs the call; returns what its journal record says: output or digest, and its place.

        Raises: what a signal raises.
        """
        pid = os.getpid()
        keep = None
        interruption = self._interruption
        try:
            os.chdir(tasks.working_directory)
            try:
                interruption.is_quiet = False
                call, keep = tasks.call(task)
                result = call()
            finally:
                self._listen()
            worker.end_forked_copy(pid, 0)
            if keep is None and _is_large(result):
                return self._write_file(task, began, lambda file: worker.dump_result(result, file))
            output = worker.pickled_result(result)
            if keep is not None:
                keep(output, success=True)
                return outputs.digest(output), IN_STORE
        except BaseException as exc:
            self._listen()  # again: another signal may have cut the first call short
            worker.end_forked_copy(pid, 1)
            if interruption.received() is not None:  # the signal is to blame, not the call
                raise
            note = ""
            if tasks.own_cgroup:
                kills_before, self._oom_kills = self._oom_kills, worker.oom_kills()
                note = worker.memory_note(kills_before, self._oom_kills)
            kept = keep is not None
            output = worker.failure_bytes(exc, frames_to_hide=1, note=note, kept=kept)
            if keep is not None:
                try:
                    keep(output, success=False)
                except BaseException as error:  # the failure itself still reaches the client
                    worker.log_store_error(error)
        return output, HERE

    def _write_file(
        self, task: int, began: Beginning, dump: Callable[[BinaryIO], object]
    ) -> tuple[bytes, bytes]:
        """Writes an output to a file of its own. Returns what the journal's record says."""
        shard = run_files.shard_path(self._directory, task)
        try:
            worker.make_shard(shard)
            measure = partial(self._meter.end, began)
            file = worker.OutputFile(shard, measure, sync=self._syncs)
            file.write(run_files.output_name(task), dump)
        except OSError as exc:  # the disk is full
            return worker.failure_bytes(exc), HERE
        return b"", IN_FILE

    # -- the log --

    def _log_size(self) -> int:
        try:
            return NO_LOG if self._log_fd is None else os.fstat(self._log_fd).st_size
        except OSError:  # a call has closed all file descriptors
            self._log_fd = None
            return NO_LOG

    def _mark_end_in_log(self, task: int, offset: int) -> None:
        assert self._log_fd is not None
        os.write(self._log_fd, end_of_part(task, offset))


class _Revoked:
    """The cancelled tasks: reads the file in which the client lists them.

    The client appends to it, and now and then writes a new one, with another first line.
    """

    def __init__(self, path: str):
        self._path = path
        # Inode, size and modification time, when it was last read.
        self._status: tuple[int, int, int] | None = None
        self._first_line = b""
        # Up to which byte it was read.
        self._offset = 0
        self._tasks: set[int] = set()

    def has(self, task: int, array: _ArrayTasks) -> bool:
        """Whether this task must not begin.

        Raises: OSError, where the disk fails; worker.Stop, where the file belongs to another user.
        """
        try:
            found = os.stat(self._path)
            status = found.st_ino, found.st_size, found.st_mtime_ns
            if status != self._status:
                self._read()
                self._status = status
                # A new file lacks the tasks of arrays that are done, whose own files went before.
                array.is_done = not own_files.is_there(array.path)
        except FileNotFoundError:  # the run directory is gone
            array.is_done = True
        except own_files.NotOurs as exc:
            raise worker.Stop(EXIT_REFUSED, f"{exc}: no task is begun") from exc
        return array.is_done or task in self._tasks

    def _read(self) -> None:
        with open(own_files.open_own(self._path, owner=worker.running.owner), "rb") as file:
            first_line = file.readline()
            if first_line != self._first_line:
                self._first_line, self._offset, self._tasks = first_line, len(first_line), set()
            file.seek(self._offset)
            tasks, length = read_revoked(file.read())
        self._offset += length
        self._tasks.update(tasks)


class _SharedProcessFile:
    """An open file that is opened again where a call has closed its descriptor.

    Calls run in this process; some close all descriptors, and then open other files under the same
    numbers. So each use checks that the descriptor is still of this file.
    """

    def __init__(self, path: str, flags: int):
        """Makes the file. Raises: OSError."""
        self._path = path
        self._flags = flags
        # Bytes written; counted by whoever writes.
        self.size = 0
        self._open(os.O_CREAT | os.O_EXCL)

    def _open(self, more_flags: int = 0) -> None:
        self._fd = own_files.open_own(self._path, self._flags | more_flags, owner=None)
        self._identity = self._identity_now()

    def _identity_now(self) -> tuple[int, int] | None:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def fd(self) -> int:
        """The file's descriptor; good until the next call runs. Raises: OSError."""
        if self._identity_now() != self._identity:
            self._open()
        return self._fd

    def is_there(self) -> bool:
        """Whether the file still has its name. Opens it: on NFS, what `stat` says may be old."""
        try:
            os.close(own_files.open_own(self._path, owner=None))
        except FileNotFoundError:
            return False
        except (OSError, own_files.NotOurs):
            pass
        return True

    def close(self) -> None:
        if self._identity_now() == self._identity:
            os.close(self._fd)


def _log_fd() -> int | None:
    """A copy of stdout's descriptor, where that is a regular file: calls may redirect stdout."""
    try:
        return os.dup(1) if stat.S_ISREG(os.fstat(1).st_mode) else None
    except OSError:
        return None


def _is_large(result: object) -> bool:
    """Whether this is an array (or other buffer) whose pickle is too large for a record.

    Of lists, dicts and so on the size is known only when they are pickled.
    """
    try:
        return memoryview(cast(Any, result)).nbytes > _MAX_RECORD_BYTES
    except Exception:  # it is no buffer, or one that memoryview does not know
        return False


def _is_global(function: object) -> bool:
    """Whether this is pickled as the name under which it is imported, and so has no state."""
    if not issubclass(type(function), (type, FunctionType, BuiltinFunctionType)):
        return False  # an instance, which may have a state
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in str(getattr(function, "__qualname__", "")).split("."):
        found = getattr(found, name, None)
    return found is function


class _ArrayTasks:
    """The calls of one array, read from its file."""

    def __init__(self, path: str):
        """Raises: worker.Stop, where the file is gone or must not be unpickled."""
        self.path = path
        # All calls of the array are over.
        self.is_done = False
        self._file = worker.ArrayFile(path, worker.running.owner)
        manifest = self._file.manifest()
        worker.set_path(manifest)
        self.working_directory: bytes = manifest["working_directory"]
        self.own_cgroup: bool = manifest["own_cgroup"]
        self._main = worker.Main(manifest)
        self._store: bytes | None = manifest["output_store"]
        # The last function that was unpickled, if it may be used again, and its offset and length.
        self._function: Any = None
        self._function_place = (-1, -1)
        # The index rows of the chosen tasks, from task `_first` on.
        self._first = 0
        self._rows = array("Q")
        # The part of the file that was read last, and its offset.
        self._window, self._window_at = b"", 0

    def close(self) -> None:
        self._file.close()

    def choose(self, begin: int, end: int) -> None:
        """Reads the rows of tasks `begin` to `end - 1`, for `call`. Raises: worker.Stop."""
        self._first = begin
        self._rows = array("Q", self._file.rows(begin, end - begin))
        if sys.byteorder != "little":
            self._rows.byteswap()

    def _read(self, offset: int, length: int) -> bytes:
        at = offset - self._window_at
        if at < 0 or at + length > len(self._window):
            if length > _WINDOW_BYTES:
                return self._file.read(offset, length)
            self._window, self._window_at = os.pread(self._file.fd, _WINDOW_BYTES, offset), offset
            at = 0
        return self._window[at : at + length]

    def _unpickle(self, pickled: bytes) -> Any:
        if b"main__" in pickled:  # it may name the client's main module
            return self._main.unpickle(pickled)
        return pickle.loads(pickled)

    def call(self, task: int) -> tuple[Callable[[], Any], Callable[..., None] | None]:
        """The call, and what writes its output to the output store, if it is kept there.

        Raises: whatever unpickling does.
        """
        at = arrays.ROW_NUMBERS * (task - self._first)
        row = self._rows[at : at + arrays.ROW_NUMBERS]
        keep = None
        if row[5]:
            key = arrays.decode_key(self._read(row[4], row[5]))
            keep = partial(self._unpickle(self._store or b"").write, key)
        place = (row[0], row[1])
        function = self._function
        if function is None or place != self._function_place:
            function = self._unpickle(self._read(*place))
            # Each call gets its own copy of a function that may have a state.
            self._function = function if _is_global(function) else None
            self._function_place = place
        if row[3] > _WINDOW_BYTES:
            args, kwargs = self._main.unpickle_from(self._file.open_at(row[2]))
        else:
            args, kwargs = self._unpickle(self._read(row[2], row[3]))
        return partial(function, *args, **kwargs), keep
