"""A pilot: one long-lived element that takes task after task from the run directory.

    client: todo/ARRAY.BEGIN-END
                |  rename: a pilot takes the whole range
                v
            held/ARRAY.BEGIN-NEXT-END.PILOT ----> unlinked after its last task
                |  rename before each task, by its pilot: NEXT + 1
                |  rename by an idle pilot: NEXT to END is its own now. Before it does that it makes
                |     held/ARRAY.BEGIN-NEXT-NEXT.PILOT.IDLE, which says what PILOT has begun
                |  rename by the client, when the pilot has ended: NEXT to END is to do again
    client <--- journals/PILOT,PART: what began, what came of it; the client removes what it has read

A range of tasks is one file at any time, and each change of it is a rename, which one process alone
can win: so no task begins twice, however late or silent a pilot is. Until the journal tells of a
task that has begun, a file names it: as the last one before NEXT in its pilot's range, or in the
file that an idle pilot has made of that.

A cancelled task is revoked: the client first writes so into a file, and then looks whether a pilot
has taken the task; a pilot first takes it, and then looks whether it is revoked. So at least one of
them sees what the other has done.

`cluster_tools.format.pilots` has the names of the files and the format of a journal;
`cluster_tools.cluster.pilots` is the client's side of them. Like the worker it knows no scheduler.
"""

from __future__ import annotations

import faulthandler
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
from typing import Any, BinaryIO, NoReturn, cast

from cluster_tools import own_files
from cluster_tools.file_system import shows_files_at_once
from cluster_tools.format import arrays, outputs, run_files
from cluster_tools.format.exit_codes import EXIT_REFUSED
from cluster_tools.format.pilots import (
    ALIVE,
    HELD,
    HERE,
    IN_FILE,
    IN_STORE,
    JOURNALS,
    NO_LOG,
    REVOKED,
    STOP,
    TODO,
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

# A larger output is a file of its own.
_MAX_RECORD_BYTES = 1 << 20
# A journal's part is not written to any more once it has so much.
_PART_BYTES = 1 << 20

# All idle pilots of an executor together look at the disk so often a second.
_LOOKS_PER_S = 42.0
# While nobody holds what has not begun, the held ranges are looked at with one look of so many.
_HELD_PART = 6
# Ranges that were just read are tried one after the other; after so many that others had taken already,
# it is better to read again.
_MAX_MISSES = 8
# A holder that has not begun its next task for so long does not need it as much as an idle pilot.
_STEAL_AFTER_S = 0.1
# A disk that fails may answer later; after so long without an answer the pilot leaves.
_DISK_PATIENCE_S = 60.0
_DISK_INTERVAL_S = 0.5
# Between looks whether anybody waits.
_CLIENT_INTERVAL_S = 30.0
# The end of a task that took less is written with the beginning of the next.
_QUICK_S = 0.01
# What is read of an array file at a time.
_WINDOW_BYTES = 1 << 16
# What SIGUSR1 says: so many seconds are left (Slurm: --signal=B:USR1@120).
WARNING_S = 120.0


class _Leave(Exception):
    """The pilot ends here, and holds nothing."""


def _over() -> worker.Stop:
    return worker.Stop(0, "its executor has ended")


def run_pilot(
    idle_timeout_s: float, time_limit_s: float | None, *, initializes: bool = False
) -> str | bytes:
    """Runs tasks until there have been none for `idle_timeout_s`; returns why it has left.

    `time_limit_s`: the element's, where it is known. `initializes`: the executor's initializer comes
    first; where that fails, its failure is returned, as the output of a call would have it.
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
    """Runs the initializer. Raises: what a signal raises."""
    assert worker.running.main is not None
    try:
        worker.load_initializer(worker.running, worker.running.main)()
    except BaseException as exc:
        if worker.is_signal(exc):
            raise
        return worker.failure_bytes(exc, frames_to_hide=1, note=worker.INITIALIZER_NOTE)
    return None


class Claimer:
    """Takes ranges of tasks for the pilot of this name.

    Every change is a rename, so that it happens once whoever tries. An NFS server may have made one whose
    answer was lost: then its target is there.
    """

    def __init__(self, todo: str, held: str, name: str):
        self._todo = todo
        self._held = held
        self._name = name
        self._known: deque[Range] = deque()
        # Of others, what has not begun: since when its name is the same.
        self._seen_held: dict[str, float] = {}
        # How many pilots there are.
        self.alive = 1

    def take(self) -> Range | None:
        """What nobody holds, the oldest first. Raises: worker.Stop, where the executor has ended."""
        misses = 0
        while self._known and misses < _MAX_MISSES:
            held = self._claim(self._known.popleft())
            if held is not None:
                return held
            misses += 1
        names = _names(self._todo)
        if STOP in names:
            raise _over()
        self.alive = max(
            [int(name[len(ALIVE) :]) for name in names if name.startswith(ALIVE)],
            default=self.alive,
        )
        self._known = deque(sorted(r for name in names if (r := read_range(name)) is not None))
        while self._known:
            held = self._claim(self._known.popleft())
            if held is not None:
                return held
        return None

    def steal(self, after_s: float) -> Range | None:
        """What another pilot holds and has not got round to for so long. Raises: worker.Stop."""
        now = time.monotonic()
        seen: dict[str, float] = {}
        for name in _names(self._held):
            held = read_range(name)
            if held is not None and held.next < held.end and held.pilot != self._name:
                seen[name] = self._seen_held.get(name, now)
        self._seen_held = seen
        for name, since in sorted(seen.items(), key=lambda item: item[1]):
            held = read_range(name)
            if held is not None and now - since >= after_s:
                ours = self._take_over(held)
                if ours is not None:
                    return ours
        return None

    def _take_over(self, held: Range) -> Range | None:
        """Takes what its pilot has not begun; None where another was faster.

        A file names what that pilot has begun, as its journal may not tell of it yet.
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
        """Removes the files on what we had begun of ranges that others took: the journal has it."""
        for name in _names(self._held):
            begun = read_range(name)
            if begun is not None and begun.taker and begun.pilot == self._name:
                os.unlink(self._path(begun))

    @property
    def sees_more(self) -> bool:
        """Whether others held what had not begun at the last look."""
        return bool(self._seen_held)

    def _claim(self, tasks: Range) -> Range | None:
        ours = tasks._replace(begin=tasks.next, pilot=self._name)
        source = self._path(tasks) if tasks.pilot else os.path.join(self._todo, tasks.todo_name())
        return ours if self._rename(source, ours) else None

    def _path(self, held: Range) -> str:
        return f"{self._held}/{held.held_name()}"

    def _rename(self, source: str, target: Range) -> bool:
        """Raises: OSError, where the disk does not tell."""
        path = self._path(target)
        try:
            os.rename(source, path)
            return True
        except OSError:
            return _patiently(partial(_rename_again, source, path))

    def advance(self, held: Range) -> Range | None:
        """The same with its next task begun; None where another pilot has it now."""
        begun = Range(held.array, held.begin, held.next + 1, held.end, held.pilot)
        return begun if self._rename(self._path(held), begun) else None

    def forget(self, held: Range) -> None:
        """All of it has been done, or is not to be."""
        try:
            os.unlink(self._path(held))
        except FileNotFoundError:
            pass

    def give_back(self, held: Range) -> None:
        try:
            os.rename(self._path(held), os.path.join(self._todo, held.todo_name()))
        except FileNotFoundError:
            pass


def _rename_again(source: str, path: str) -> bool:
    """Renames again where it has failed; it may have been done all the same, as on NFS."""
    try:
        os.rename(source, path)
    except FileNotFoundError:
        return own_files.is_there(path)
    return True


def _patiently(ask: Callable[[], bool]) -> bool:
    """Asks the disk again while it fails. Raises: its OSError, after `_DISK_PATIENCE_S`."""
    deadline = time.monotonic() + _DISK_PATIENCE_S
    while True:
        try:
            return ask()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_DISK_INTERVAL_S)


def _names(directory: str) -> list[str]:
    """Raises: worker.Stop, where the executor has ended; OSError, where the disk does not tell."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        raise _over() from None


class _Pilot:
    def __init__(self, running: worker.Running, time_limit_s: float | None):
        directory = self._directory = running.run_directory
        self._name = os.urandom(6).hex()
        self._job_id = running.job_id
        self._claimer = Claimer(
            os.path.join(directory, TODO), os.path.join(directory, HELD), self._name
        )
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._longest_s = 0.0
        self._looks = 0
        self._arrays: dict[int, _Tasks] = {}
        self._disk_fails_since: float | None = None
        self._revoked = _Revoked(os.path.join(directory, REVOKED))
        self._client_look = 0.0
        self._log_fd = _log_fd()
        # Both as they were when the last task ended.
        self._log_end = NO_LOG
        self._oom_kills: int | None = None
        # Between calls signals are only heard: an exception would lose what is being done.
        self._interruption = running.interruption or worker.Interruption()
        self._heard_at = 0.0
        self._listen()
        # Elsewhere what is written shows up when it is synced, here at once.
        self._syncs = not shows_files_at_once(directory)
        self._part = Journal(self._name, 0, running.restart, worker.node_name(), self._job_id)
        try:
            self._journal = self._open_journal(self._part)
        except FileNotFoundError:
            raise _over() from None
        # Written with what follows, or when nothing does.
        self._unwritten = b""

    def _listen(self) -> None:
        """Puts back what is ours: a call may do with signals what it likes."""
        self._interruption.ignore()
        faulthandler.unregister(signal.SIGUSR1)
        worker.signal.signal(signal.SIGUSR1, self._warn)  # quicker than the one with enums

    def _warn(self, number: int, frame: FrameType | None) -> None:
        left = time.monotonic() + WARNING_S
        self._deadline = left if self._deadline is None else min(left, self._deadline)

    def close(self) -> None:
        self._journal.close()

    def _open_journal(self, part: Journal) -> _OwnFile:
        """Makes a part. Raises: OSError."""
        path = os.path.join(self._directory, JOURNALS, part.name())
        sync = os.O_DSYNC if self._syncs else 0
        return _OwnFile(path, os.O_WRONLY | os.O_APPEND | sync)

    def _write(self) -> None:
        """Raises: OSError; what was written of it then is cut off by the next reader. _Leave."""
        data, self._unwritten = self._unwritten, b""
        self._append(data)
        if self._journal.size > _PART_BYTES:
            self._begin_part()

    def _append(self, data: bytes) -> None:
        while data:
            written = os.write(self._journal.fd(), data)
            self._journal.size += written
            data = data[written:]

    def _begin_part(self) -> None:
        """What the client has read goes: the journal goes on in another file. Raises: OSError, _Leave."""
        if not self._journal.is_there():
            raise _Leave("its executor has taken it for dead")
        part = self._part._replace(part=self._part.part + 1)
        try:
            following = self._open_journal(part)
        except OSError:  # there is no room for it: then this one grows
            return
        self._append(continued_record())  # now there is what follows
        self._journal.close()
        self._journal, self._part = following, part

    def work(self, idle_timeout_s: float) -> NoReturn:
        """Raises: _Leave; whatever a signal raises."""
        idle_since = time.monotonic()
        # Not all at the same time.
        time.sleep(random.uniform(0, 0.01))
        while True:
            why = self._why_to_leave()
            if why:
                raise _Leave(why)
            held = self._find()
            if held is not None:
                self._log_end = self._log_size()
                self._oom_kills = worker.oom_kills()
                self._run_all(held)
                idle_since = time.monotonic()
                self._heard_at = 0.0
                continue
            self._forget_done()
            if time.monotonic() - idle_since > idle_timeout_s:
                raise _Leave("there was nothing to do")
            self._wait(self._claimer.alive / _LOOKS_PER_S * random.uniform(0.8, 1.2))

    def _find(self) -> Range | None:
        """Something to do. Raises: OSError, after `_DISK_PATIENCE_S` of failures; _Leave."""
        try:
            held = self._claimer.take() or self._steal()
        except OSError:
            now = time.monotonic()
            if self._disk_fails_since is None:
                self._disk_fails_since = now
            if now - self._disk_fails_since > _DISK_PATIENCE_S:
                raise
            self._wait(_DISK_INTERVAL_S)
            return None
        self._disk_fails_since = None
        return held

    def _forget_done(self) -> None:
        """Closes the array files that were deleted, and forgets what was read of them."""
        for number, tasks in list(self._arrays.items()):
            if own_files.is_gone(tasks.path):
                tasks.close()
                del self._arrays[number]

    def _wait(self, seconds: float) -> None:
        """Raises: _Leave; what SIGTERM is in a call."""
        interruption = self._interruption
        interruption.wait(seconds)
        interruption.look()
        if interruption.told_to_end:
            raise interruption.told()
        if interruption.was_interrupted:
            raise _Leave("it was interrupted")

    def _steal(self) -> Range | None:
        self._looks += 1
        if self._claimer.sees_more or self._looks % _HELD_PART == 0:
            return self._claimer.steal(_STEAL_AFTER_S)
        return None

    def _why_to_leave(self) -> str:
        """Empty where another task may begin."""
        now = time.monotonic()
        interruption = self._interruption
        if now - self._heard_at > _QUICK_S:
            self._heard_at = now
            interruption.look()
        if interruption.told_to_end:  # and a call has made nothing of it
            return "it was told to end"
        if interruption.was_interrupted:  # which was a call's
            interruption.was_interrupted = False
            if interruption.is_left():
                return "its executor has ended"
        # One may take twice as long as any before.
        if self._deadline is not None and self._deadline - now <= 2 * self._longest_s:
            return "its time is nearly over"
        if now - self._client_look > _CLIENT_INTERVAL_S:
            self._client_look = now
            return worker.why_nobody_waits(self._directory)
        return ""

    # -- running --

    def _run_all(self, held: Range) -> None:
        """Raises: _Leave, where the next is not to begin; whatever a signal raises."""
        try:
            tasks = self._tasks_of(held.array)
            tasks.choose(held.next, held.end)
        except worker.Stop:
            if own_files.is_gone(self._array_path(held.array)):
                self._claimer.forget(held)  # all its calls are done: what was left is cancelled
                return
            self._claimer.give_back(held)
            raise
        try:
            while held.next < held.end:
                why = self._why_to_leave()
                if why:
                    self._write()
                    self._claimer.give_back(held)
                    raise _Leave(why)
                begun = self._claimer.advance(held)
                if begun is None:
                    self._write()
                    self._claimer.forget_begun()
                    return
                task, held = held.next, begun
                if not self._is_revoked(task, tasks):
                    self._run(tasks, task)
                elif not tasks.is_done:
                    self._unwritten += skipped_record(task)
        finally:
            self._write()
        self._claimer.forget(held)

    def _array_path(self, array: int) -> str:
        return os.path.join(self._directory, f"array.{array}")

    def _tasks_of(self, array: int) -> _Tasks:
        """Raises: worker.Stop, where the array is gone."""
        tasks = self._arrays.get(array)
        if tasks is None:
            tasks = _Tasks(self._array_path(array))
            for old in self._arrays.values():  # most often there is one at a time
                old.close()
            self._arrays = {array: tasks}
        return tasks

    def _is_revoked(self, task: int, tasks: _Tasks) -> bool:
        try:
            return self._revoked.has(task, tasks)
        except OSError:
            return _patiently(partial(self._revoked.has, task, tasks))

    def _run(self, tasks: _Tasks, task: int) -> None:
        offset = self._log_end
        self._unwritten += began_record(task, offset)
        self._write()
        began = time.monotonic()
        output, place = self._output_of(tasks, task)
        worker.flush()
        took = time.monotonic() - began
        if place == HERE and len(output) > _MAX_RECORD_BYTES:
            output, place = self._write_file(task, lambda file: file.write(output))
        end_offset = self._log_end = self._log_size()
        if end_offset > offset:
            self._delimit(task, offset)
            self._log_end = self._log_size()
        self._longest_s = max(self._longest_s, took)
        self._unwritten += ended_record(task, (offset, end_offset), place, output)
        if took > _QUICK_S:
            self._write()
            self._oom_kills = worker.oom_kills()

    def _output_of(self, tasks: _Tasks, task: int) -> tuple[bytes, bytes]:
        """The output, and where it is. Raises: what a signal raises."""
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
                return self._write_file(task, lambda file: worker.dump_result(result, file))
            output = worker.pickled_result(result)
            if keep is not None:
                keep(output, success=True)
                return outputs.digest(output), IN_STORE
        except BaseException as exc:
            self._listen()  # another signal may have come in the middle of it
            worker.end_forked_copy(pid, 1)
            if interruption.received() is not None:  # what the task raises is not its own
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
                    worker.say_store_refused(error)
        return output, HERE

    def _write_file(self, task: int, dump: Callable[[BinaryIO], object]) -> tuple[bytes, bytes]:
        shard = run_files.shard_path(self._directory, task)
        try:
            worker.make_shard(shard)
            record = {"node": worker.node_name(), "job_id": self._job_id}
            file = worker.OutputFile(shard, record, sync=self._syncs)
            file.write(run_files.output_name(task), dump)
        except OSError as exc:  # there is no room for it
            return worker.failure_bytes(exc), HERE
        return b"", IN_FILE

    # -- the log --

    def _log_size(self) -> int:
        try:
            return NO_LOG if self._log_fd is None else os.fstat(self._log_fd).st_size
        except OSError:  # a call has closed all that it found open
            self._log_fd = None
            return NO_LOG

    def _delimit(self, task: int, offset: int) -> None:
        assert self._log_fd is not None
        os.write(self._log_fd, end_of_part(task, offset))


class _Revoked:
    """The cancelled tasks, as the client notes them in a file, which it begins anew from time to time."""

    def __init__(self, path: str):
        self._path = path
        self._status: tuple[int, int, int] | None = None
        self._first_line = b""
        # How far it was read.
        self._offset = 0
        self._tasks: set[int] = set()

    def has(self, task: int, array: _Tasks) -> bool:
        """Raises: OSError, where there is no telling; worker.Stop, where it is not our user's."""
        try:
            found = os.stat(self._path)
            status = found.st_ino, found.st_size, found.st_mtime_ns
            if status != self._status:
                self._read()
                self._status = status
                # Tasks of one that is done are not noted any more. Its file goes before they do.
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


class _OwnFile:
    """A file of ours in a process whose calls may close what they find open, and open others in its place."""

    def __init__(self, path: str, flags: int):
        """Makes it. Raises: OSError."""
        self._path = path
        self._flags = flags
        # What its owner has written to it.
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
        """Raises: OSError."""
        if self._identity_now() != self._identity:
            self._open()
        return self._fd

    def is_there(self) -> bool:
        """By opening: what `stat` says of a file on NFS may be seconds old."""
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
    """Of stdout, where that is a file that grows. Our own: calls may do with theirs what they like."""
    try:
        return os.dup(1) if stat.S_ISREG(os.fstat(1).st_mode) else None
    except OSError:
        return None


def _is_large(result: object) -> bool:
    """Whether its pickle is too large for a record. Of what holds others it shows only once there is one."""
    try:
        return memoryview(cast(Any, result)).nbytes > _MAX_RECORD_BYTES
    except Exception:  # it has no buffer, or none of bytes
        return False


def _is_global(function: object) -> bool:
    """Whether a pickle of this is but the name under which it is imported."""
    if not issubclass(type(function), (type, FunctionType, BuiltinFunctionType)):
        return False  # its attributes may be anything, and it may have a state
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in str(getattr(function, "__qualname__", "")).split("."):
        found = getattr(found, name, None)
    return found is function


class _Tasks:
    """The calls of an array."""

    def __init__(self, path: str):
        self.path = path
        # All of its tasks are over.
        self.is_done = False
        self._file = worker.ArrayFile(path, worker.running.owner)
        manifest = self._file.manifest()
        worker.set_path(manifest)
        self.working_directory: bytes = manifest["working_directory"]
        self.own_cgroup: bool = manifest["own_cgroup"]
        self._main = worker.Main(manifest)
        self._store: bytes | None = manifest["output_store"]
        self._function_place = (-1, -1)
        self._function: Any = None
        # The rows of the tasks that were chosen, from `_first` on, and a part of the file.
        self._first = 0
        self._rows = array("Q")
        self._window, self._window_at = b"", 0

    def close(self) -> None:
        self._file.close()

    def choose(self, first: int, last: int) -> None:
        """Raises: worker.Stop."""
        self._first = first
        self._rows = array("Q", self._file.rows(first, last - first))
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
        """The call, and what keeps its output where somebody wants that. Raises: whatever unpickling does."""
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
            # What is no more than a name may be used again; what has a state begins anew with each call.
            self._function = function if _is_global(function) else None
            self._function_place = place
        if row[3] > _WINDOW_BYTES:
            args, kwargs = self._main.unpickle_from(self._file.open_at(row[2]))
        else:
            args, kwargs = self._unpickle(self._read(row[2], row[3]))
        return partial(function, *args, **kwargs), keep
