"""The run directory of one executor, as the client writes and reads it.

    <cfut_dir>/run.<token>/          of one executor, mode 0700
        array.<n>                    functions, calls and output keys of an array's tasks, packed
        initializer                  the executor's pickled initializer, if it has one
        <shard>/<task>.claim.*       made by the worker before it begins an attempt
        <shard>/<task>.output        made by the worker when the call has ended
        <shard>/<task>.interrupted   a failure after a signal: counts only if it does not run again
        <shard>/over                 made by the client: tasks that are over and must not begin
        <shard>/<task>.closed.*      made by the client: the task must not begin in that submission
        <shard>/<task>.left.*        made by a worker that found the client silent and did not begin
        client                       the client's heartbeat: workers look at its modification time
        stopped                      made by the client before it cancels all jobs
        shared/<n>                   values of `executor.share`: see `cluster_tools.sharing`
        pilots.*                     the queue and the journals of pilots: see `job.pilot`

A scheduler may put files of its own there. `cluster_tools.format` has the names and layouts, and
`cluster_tools.job.worker` is the jobs' side. This module knows bytes and files, no futures and no
jobs.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
import socket
import sys
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from cluster_tools import __version__, own_files, pickling
from cluster_tools.cluster import cfut_directory
from cluster_tools.file_system import drop_cached_entries
from cluster_tools.format import FORMAT, PICKLE_PROTOCOL, arrays, outputs, run_files
from cluster_tools.packed_exceptions import rows_of
from cluster_tools.sharing import SharedFiles

_WRITE_BUFFER_BYTES = 1 << 20
# How often to try to remove the directory. It may fail while a cancelled job still writes, or while
# this process has too many open files.
_REMOVALS = 8
_REMOVAL_INTERVAL_S = 0.2  # before the second try; each next pause is longer by that

_logger = logging.getLogger("cluster_tools")


class OutputNotReadable(Exception):
    """An output can't be read now. It may be readable later."""


class OutputCutShort(Exception):
    """An output file is incomplete or damaged."""


@dataclass(frozen=True)
class Outcome:
    """The result or the failure of a call, as its output has it.

    Attributes:
        success: Whether the call has returned.
        value: The result of the call; if it failed, the text of its traceback.
        exception: If it failed, its exception as rows (see `cluster_tools.packed_exceptions`).
        record: What the worker has noted about the run: an `OutputRecord` as a dict. All keys but
            `stored` may be missing.
    """

    success: bool
    value: Any
    exception: Any
    record: dict[str, Any]


def manifest(
    cwd: str,
    logging: tuple[dict[str, Any], Callable[[str], object] | None] | None,
    store: object,
    *,
    notice_s: float = 0.0,
    own_cgroup: bool = False,
    linger_s: float = 10.0,
    initializer: bool = False,
) -> dict[str, Any]:
    """Makes the manifest of an array: what its workers have to know.

    Arguments:
        cwd: The working directory of the calls.
        logging: (arguments of basicConfig, function to call instead); None: not set up.
        store: The output store; None if outputs go into the run directory.
        notice_s: How many seconds before an element its child processes may get SIGTERM.
        own_cgroup: Whether an element may have a cgroup of its own.
        linger_s: How many seconds a job may stay for what its call has left behind.
        initializer: Whether the worker runs the executor's initializer before the call.
    """
    main = pickling.main_module()
    return {
        "format": FORMAT,
        "version": __version__,
        "python": tuple(sys.version_info[:2]),
        "argv": list(getattr(sys, "argv", [])),
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        # Paths are bytes, so that they name the same files if a job has another locale.
        "sys_path": list(_module_path(cwd)),
        "main": None if main is None else tuple(main._replace(path=os.fsencode(main.path))),
        "logging": None if logging is None else pickling.dumps(logging),
        "notice_s": notice_s,
        "own_cgroup": own_cgroup,
        "linger_s": linger_s,
        "initializer": initializer,
        "working_directory": os.fsencode(cwd),
        "output_store": None if store is None else pickling.dumps(store),
    }


def _module_path(cwd: str) -> Iterator[bytes]:
    """The entries of sys.path as absolute paths."""
    for entry in sys.path:
        try:
            yield os.fsencode(os.path.abspath(os.path.join(cwd, entry)))
        except UnicodeEncodeError:  # no directory can have this name in the client's locale
            continue


class RunDirectory:
    """The run directory of one executor, which is created here.

    Arguments:
        cfut_dir: An absolute path. Created if it is missing.
        client_timeout_s: Workers that start more than so many seconds after the last `beat` do not
            begin their task; None: there is no such limit.
        trust_group: Whether the group of `cfut_dir` may write to it.

    Raises: OSError, if the directory can't be written; UnsafeDirectory, if other users could
    replace files in `cfut_dir`.
    """

    def __init__(
        self, cfut_dir: str, client_timeout_s: float | None = None, *, trust_group: bool = False
    ):
        cfut_directory.make(cfut_dir)
        self.token = os.urandom(4).hex()
        self.path = os.path.join(cfut_dir, f"run.{self.token}")
        os.mkdir(self.path, 0o700)
        os.chmod(self.path, 0o700)
        # The uid that all files in it must have. A file server may map users, so getuid() may
        # differ.
        self.owner = os.lstat(self.path).st_uid
        self._identity = own_files.identity(self.path)
        # What `executor.share` writes, and the calls' handles of it.
        self.shared = _SharedFilesOfRun(self)
        try:
            cfut_directory.check(cfut_dir, self.owner, trust_group=trust_group)
        except BaseException:
            self.remove()
            raise
        self._heartbeat = run_files.heartbeat(
            socket.gethostname(), os.getpid(), _boot_id(), client_timeout_s
        ).encode()
        if client_timeout_s is not None:
            try:
                self.beat()
            except OSError:
                self.remove()
                raise
        self._numbers_lock = threading.Lock()
        self._next_array = 0
        self._next_task = 0

    def is_replaced(self) -> bool:
        """Whether something else is certainly in the place of this directory."""
        return own_files.identity(self.path) not in (self._identity, None)

    def replaced(self) -> own_files.NotOurs:
        """The exception for a directory that `is_replaced`."""
        return own_files.NotOurs(
            f"somebody has put something else in the place of the run directory {self.path}: "
            "nothing in it is read. Whoever may write to cfut_dir can do that: see who may, with "
            "ls -ld"
        )

    def beat(self) -> None:
        """Writes the heartbeat, which shows workers that the client still waits.

        It writes the file instead of setting its modification time, so that the time is by the file
        server's clock.
        Raises: OSError; NotOurs.
        """
        path = os.path.join(self.path, run_files.HEARTBEAT)
        fd = own_files.open_own(path, os.O_WRONLY | os.O_CREAT, owner=self.owner)
        try:
            os.pwrite(fd, self._heartbeat, 0)
        finally:
            os.close(fd)

    def write_initializer(self, pickled: bytes) -> None:
        """Writes the initializer, which each worker runs before its first call.

        Raises: OSError; NotOurs.
        """
        path = os.path.join(self.path, run_files.INITIALIZER)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(own_files.open_own(path, flags, owner=self.owner), "wb") as file:
            file.write(pickled)

    def has_left(self, task: int, submission: int, job_id: str) -> bool:
        """Whether the element `job_id` has left without beginning the task in this submission.

        A worker leaves if it finds that its client is silent.
        Raises: OSError; NotOurs.
        """
        path = os.path.join(self.shard(task), run_files.left_name(task, submission))
        try:
            return self._first_line(path) == job_id
        except FileNotFoundError:
            return False

    def _first_line(self, path: str) -> str:
        """The first line of a file, without its end. Raises: OSError; NotOurs."""
        with open(own_files.open_own(path, owner=self.owner)) as file:
            return file.readline().strip()

    def begin_array(self) -> ArrayWriter:
        """Creates the file of a new array. Raises: OSError; NotOurs."""
        if self.is_replaced():
            raise self.replaced()
        with self._numbers_lock:
            number = self._next_array
            self._next_array += 1
        return ArrayWriter(self, number)

    def take_tasks(self, count: int) -> int:
        """Reserves `count` task numbers. Returns: the first of them."""
        with self._numbers_lock:
            first = self._next_task
            self._next_task += count
            return first

    def shard(self, task: int) -> str:
        """The path of the task's shard."""
        return run_files.shard_path(self.path, task)

    def outcome(self, task: int, name: str) -> Outcome:
        """Reads and unpickles the output file `name` of a task.

        Raises: OutputNotReadable; OutputCutShort; NotOurs; any exception that unpickling raises.
        """
        with ExitStack() as stack:
            try:
                path = os.path.join(self.shard(task), name)
                fd = own_files.open_own(path, owner=self.owner)
                file = stack.enter_context(open(fd, "rb"))
                length, record = _ending(file, path)
            except OSError as exc:
                raise OutputNotReadable(str(exc)) from exc
            if record["stored"]:
                return Outcome(True, None, None, record)
            return _outcome(file, length, record)

    def delete_outcome(self, task: int, name: str, *, leave_mark: bool) -> None:
        """Deletes the output file `name` of a task.

        `leave_mark`: whether to leave a note that there was an output, until the task is cleared. A
        worker that begins later must not run the task again.
        Raises: OSError; NotOurs.
        """
        shard = self.shard(task)
        if not leave_mark:
            with _opened_directory(shard) as fd:
                os.unlink(name, dir_fd=fd)
        elif name == run_files.output_name(task):
            path = os.path.join(shard, name)
            fd = own_files.open_own(path, os.O_WRONLY, owner=self.owner)  # follows no links
            try:
                os.ftruncate(fd, 0)
            finally:
                os.close(fd)
        else:
            self._note_over([task], "already had its output")

    def clear(self, tasks: Collection[int], *, leave_marks: bool) -> None:
        """Removes the files of tasks that are over. All tasks are of one shard.

        `leave_marks`: whether to leave a note that they are over. A worker that begins later must
        not run them again.
        Raises: OSError; NotOurs.
        """
        shard = self.shard(next(iter(tasks)))
        if leave_marks:
            self._note_over(tasks, "is over")
            self.probe(shard)
        with suppress(FileNotFoundError), _opened_directory(shard) as fd:
            for name in os.listdir(fd):
                if run_files.task_of(name) in tasks:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=fd)

    def remove_shard(self, number: int) -> None:
        """Removes a shard, once the arrays of all its tasks have ended."""
        shutil.rmtree(self.shard(number * run_files.TASKS_PER_SHARD), ignore_errors=True)

    def claims(self, task: int) -> list[str]:
        """The elements that have claimed this task, the latest last.

        An element is `<jobid>` or `<jobid>_<index>`; "" if it is not yet written into its claim.
        Leaves out claims in closed submissions: such a worker does not begin the task.
        Raises: OSError; NotOurs.
        """
        names = self._names_of(task)
        owners: list[str] = []
        for number, name in self._claims_among(task, names):
            if run_files.closed_name(task, number[0]) not in names:
                owners.append(self._first_line(os.path.join(self.shard(task), name)))
        return owners

    def _names_of(self, task: int) -> set[str]:
        names = own_files.listed(self.shard(task))
        return {name for name in names if name.startswith(f"{task}.")}

    @staticmethod
    def _claims_among(task: int, names: Iterable[str]) -> list[tuple[list[int], str]]:
        """([submission, restart], name) of each claim, in order."""
        numbered = ((run_files.claim_numbers(name, task), name) for name in names)
        return sorted((number, name) for number, name in numbered if number is not None)

    def revoke(self, task: int) -> None:
        """Forbids workers to begin this task. Raises: OSError; NotOurs."""
        self._note_over([task], "was cancelled before it started")

    def _note_over(self, tasks: Collection[int], why: str) -> None:
        """Adds tasks of one shard to its file `over`. Raises: OSError; NotOurs."""
        shard = self.shard(next(iter(tasks)))
        self._make_shard(shard)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        fd = own_files.open_own(run_files.over_path(shard), flags, owner=self.owner)
        with open(fd, "w") as file:
            file.write(run_files.over_lines(tasks, why))

    def stop(self) -> None:
        """Tells workers that a signal from now on means that they are cancelled. Takes no lock."""
        path = os.path.join(self.path, run_files.STOPPED)
        try:
            self.make(path)
        except (OSError, own_files.NotOurs):  # workers also notice that the directory is removed
            pass

    def close_submission(self, task: int, submission: int) -> bool:
        """Forbids workers to begin the task in this submission.

        Returns: False if a worker has claimed it before. Raises: OSError; NotOurs.
        """
        self._mark(task, run_files.closed_name(task, submission))
        # A worker claims first, then looks for the mark. So at least one side sees the other's
        # file.
        claims = self._claims_among(task, self._names_of(task))
        return all(number[0] != submission for number, _ in claims)

    def _mark(self, task: int, name: str) -> None:
        shard = self.shard(task)
        self._make_shard(shard)
        self.make(os.path.join(shard, name))

    def make(self, path: str) -> None:
        """Creates an empty file, unless it exists. Raises: OSError; NotOurs."""
        os.close(own_files.open_own(path, os.O_WRONLY | os.O_CREAT, owner=self.owner))

    @staticmethod
    def _make_shard(shard: str) -> None:
        try:
            os.mkdir(shard, 0o700)
        except FileExistsError:
            pass

    def look_again(self, tasks: Iterable[int]) -> tuple[dict[int, list[str]], dict[int, OSError]]:
        """Looks for outputs of these tasks on the file server, not in an NFS client's cache.

        Returns: task -> the names of its outputs; task -> the error, if it could not be looked for.
        """
        found: dict[int, list[str]] = {}
        unknown: dict[int, OSError] = {}
        probed: set[str] = set()
        for task in tasks:
            shard = self.shard(task)
            if shard not in probed:
                probed.add(shard)
                if not os.path.isdir(shard):  # made by a worker, so it may not be visible yet
                    self.probe(self.path)
                self.probe(shard)
            for name in (run_files.output_name(task), run_files.interrupted_name(task)):
                try:
                    os.close(own_files.open_own(os.path.join(shard, name), owner=None))
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    unknown[task] = exc
                    continue
                except own_files.NotOurs:  # the reader of the output reports it
                    pass
                found.setdefault(task, []).append(name)
        return found, unknown

    @staticmethod
    def probe(directory: str) -> None:
        """Changes the directory, so that an NFS client drops its cache of the entries."""
        drop_cached_entries(directory)

    def remove(self) -> None:
        """Removes the directory. Tries several times, because cancelled jobs may still write."""
        self.shared.close()
        for attempt in range(_REMOVALS):
            if self.is_replaced():
                return
            time.sleep(attempt * _REMOVAL_INTERVAL_S)
            shutil.rmtree(self.path, ignore_errors=True)
            if own_files.is_gone(self.path):
                return
        _logger.warning("%s could not be removed: delete it yourself", self.path)


class _SharedFilesOfRun(SharedFiles):
    """The shared values of an executor, in its run directory."""

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__()
        self._run_directory = directory

    def _make_directory(self) -> str:
        """Raises: OSError; NotOurs."""
        if self._run_directory.is_replaced():
            raise self._run_directory.replaced()
        path = os.path.join(self._run_directory.path, run_files.SHARED)
        with suppress(FileExistsError):  # from a try that failed
            os.mkdir(path, 0o700)
        return path


def _boot_id() -> str:
    """A name of the present boot of this machine; "" if there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:  # not Linux
        return ""


_open_writers: weakref.WeakSet[ArrayWriter] = weakref.WeakSet()


def _leave_files_to_the_parent() -> None:
    """Keeps a forked child from writing its copies of file buffers into its parent's files."""
    for writer in list(_open_writers):
        writer.leave_to_parent()


@contextmanager
def _opened_directory(path: str) -> Generator[int]:
    """Opens a directory, for functions with `dir_fd`. Raises: OSError, also if it is a link.

    So no file is removed in another directory to which a link leads.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_files_to_the_parent)


class ArrayWriter:
    """Writes the file of one array, task by task. Not thread-safe.

    The file has a temporary name until `finish`.
    """

    def __init__(self, directory: RunDirectory, number: int):
        self._directory = directory
        self.number = number
        self.path = os.path.join(directory.path, f"array.{number}")
        self._temporary = f"{self.path}.tmp"
        # One call of `open`: Ctrl-C between os.open and open would lose the descriptor.
        self._file = open(  # noqa: SIM115
            self._temporary,
            "xb",
            buffering=_WRITE_BUFFER_BYTES,
            opener=partial(os.open, mode=0o600),
        )
        self._is_parents = False
        _open_writers.add(self)
        self._offset = 0
        self._rows = array("Q")
        self._function = b""
        self._function_place = (0, 0)

    def _blob(self, data: bytes) -> tuple[int, int]:
        """Writes `data`. Returns: its offset and its length, in bytes."""
        place = (self._offset, len(data))
        self._file.write(data)
        self._offset += len(data)
        return place

    def add(self, function: bytes, call: Iterable[bytes], key: str | None) -> None:
        """Adds a task. Raises: OSError.

        `function`: pickled. `call`: the pickled (args, kwargs), in fragments. `key`: the key in the
        output store; None if the output goes into the run directory.
        """
        if function != self._function:
            self._function, self._function_place = function, self._blob(function)
        offset = self._offset
        for piece in call:
            self._file.write(piece)
            self._offset += len(piece)
        row = (*self._function_place, offset, self._offset - offset)
        self._rows.extend(row + ((0, 0) if key is None else self._blob(arrays.encode_key(key))))

    def finish(self, manifest: dict[str, Any]) -> int:
        """Completes the file and gives it its final name. Returns: the number of its first task.

        Raises: OSError; RuntimeError, in a forked child.
        """
        if self._is_parents:
            raise RuntimeError("this process was forked while the array was being written")
        count = len(self._rows) // arrays.ROW_NUMBERS
        first = self._directory.take_tasks(count)
        if sys.byteorder != "little":
            self._rows.byteswap()
        index, _ = self._blob(self._rows.tobytes())
        packed, _ = self._blob(pickle.dumps(manifest, PICKLE_PROTOCOL))
        self._file.write(arrays.encode_footer(index, count, packed, first))
        self._file.close()
        _open_writers.discard(self)
        os.rename(self._temporary, self.path)
        return first

    def leave_to_parent(self) -> None:
        """Called in a forked child: makes further writes go to /dev/null, not the parent's file."""
        self._is_parents = True
        if not self._file.closed:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno(), inheritable=False)
            os.close(nowhere)

    def discard(self) -> None:
        """Deletes the unfinished file."""
        try:
            self._file.close()
        except OSError:
            pass  # the data is not needed any more
        _open_writers.discard(self)
        if self._is_parents:
            return
        try:
            os.unlink(self._temporary)
        except OSError:
            pass


def _ending(file: BinaryIO, path: str) -> tuple[int, dict[str, Any]]:
    """The length of an output file before its record, in bytes, and the record.

    Leaves the file's position at 0. Raises: OutputCutShort; OSError.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - outputs.FOOTER_BYTES))
    try:
        length, record_length = outputs.decode_footer(file.read(), size)
        file.seek(length)
        record = outputs.decode_record(file.read(record_length))
    except ValueError as exc:
        raise OutputCutShort(f"{path} {exc}") from None
    file.seek(0)
    return length, record._asdict()


def _outcome(file: BinaryIO, length: int, record: dict[str, Any]) -> Outcome:
    success, value = pickling.load(file)
    exception = None if success else rows_of(file.read(length - file.tell()))
    return Outcome(success, value, exception, record)


def stored_outcome(data: bytes, record: dict[str, Any]) -> Outcome:
    """Unpickles `data` of an output store or of a journal.

    Raises: any exception that unpickling raises.
    """
    return _outcome(io.BytesIO(data), len(data), record)
