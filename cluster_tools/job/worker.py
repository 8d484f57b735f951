"""The worker: the program that runs one element of an array in a job, from its claim to its output.

    python job/start_worker.py ARRAY_FILE TASKS SUBMISSION INDEX RESTART JOB_ID LOG_FILE

TASKS are the task numbers of all elements of the array, as in "7-9,12"; this element runs the task
at INDEX. The worker reads the array file, takes the claim of its task, runs the call and writes the
output beside the claim.

It knows no scheduler: the arguments say everything. It imports the standard library alone, and of
that little before the call needs more, because its start is part of the time of every job.
`cluster_tools.format` defines the names and layouts of all files, and
`cluster_tools.cluster.run_directory` is the client's side of them.
"""

from __future__ import annotations

import _thread
import errno
import os
import sys
import time
from types import ModuleType

# Not `from cluster_tools import`: that would ask the package's
# `__getattr__`, which imports importlib.
import cluster_tools.own_files as own_files
from cluster_tools.by_reference import by_value_marks, dump_by_reference
from cluster_tools.format import FORMAT, PICKLE_PROTOCOL, arrays, numbers, outputs, run_files
from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_OUTPUT_NOT_WRITTEN, EXIT_REFUSED
from cluster_tools.usage import Meter

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    import pickle
    import signal
    from collections.abc import Callable, Iterable
    from types import CodeType, FrameType
    from typing import Any, BinaryIO

    from cluster_tools.usage import Used
else:
    # The C parts of pickle and signal need no `re` and no `enum`, whose imports take half of the
    # time that the worker needs to start.
    try:
        import _pickle as pickle
        import _signal as signal
    except ImportError:  # another implementation of Python
        import pickle
        import signal

# How long threads of a call may go on after its executor has ended: time for exit functions.
_LINGER_AFTER_EXECUTOR_S = 1.0
# How often to check whether threads of a call still run.
_LINGER_INTERVAL_S = 0.1
# How much later the watchdog ends an interpreter that runs no Python any more (it hangs in C).
_WATCHDOG_DELAY_S = 1.0

# Return codes of a process that SIGTERM has ended, as `subprocess` and
# as shells and srun give them.
_SIGTERM_RETURN_CODES = (-15, 128 + 15)

# Ends the text of a failure of the initializer.
INITIALIZER_NOTE = "The executor's initializer raised this: no call was begun in this process.\n"

# A heartbeat that seems to have stopped is read again after this time:
# NFS may have shown an old one.
_HEARTBEAT_REREAD_S = 1.0
_HEARTBEAT_READS = 3


class Stop(Exception):
    """Ends the element without running its call.

    `message` goes to the log; `code` is the exit code.
    """

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class Running:
    """State of the element that runs in this process, for its call or its pilot."""

    def __init__(self) -> None:
        self.run_directory = ""
        self.job_id = ""
        # How often the scheduler has started this element again.
        self.restart = 0
        # The uid that files in the run directory must belong to.
        self.owner: int | None = None
        # How long the process may stay, after its call has ended, for threads of that call.
        self.linger_s = 10.0
        self.interruption: Interruption | None = None
        self.main: Main | None = None
        # `sys.path` before the client's was added.
        self.own_path: list[str] = []
        # The module that started the worker. Kept alive here: it is no longer `__main__`.
        self.start_module: ModuleType | None = None


running = Running()


# Marks the exceptions that our signal handlers raise: an attribute of theirs.
_SIGNAL_MARK = "_cluster_tools_signal"


# How long `Interruption.wait` sleeps where a call has closed what it waits for.
_BLIND_WAIT_S = 0.5


class Interruption:
    """Turns the scheduler's signals into exceptions, so that `finally` and `with` of the call run.

    The first SIGTERM tells the job to end. SIGINT is the call's own, as often as it comes, until
    its executor has ended. Both are also written into a pipe (`signal.set_wakeup_fd`), so that the
    worker learns of them where the call has replaced our handlers.
    """

    def __init__(self) -> None:
        # SIGTERM has come.
        self.told_to_end = False
        # SIGINT has come.
        self.was_interrupted = False
        # The client makes this file when it stops the executor.
        self.stop_mark = ""
        # The client deletes this file when all calls of the array are over.
        self.array_file = ""
        # Returns what the client has noted of this task if it cancelled it, else "".
        self.why_over: Callable[[], str] = str
        # Our handlers raise nothing now; they only note the signal.
        self.is_quiet = False
        # Now: a call may take these names away, as eventlet does.
        from select import POLLIN, poll

        self._poll, self._readable = poll, POLLIN
        self._open_pipe()
        _reset_ignored_signals()
        # For each thread that is forking: its signal mask before the fork.
        self._masks: dict[int, Any] = {}
        os.register_at_fork(
            before=self._hold_signals,
            after_in_parent=self._release_signals,
            after_in_child=self._leave_child_alone,
        )
        self._listen()

    def _open_pipe(self) -> None:
        self._pipe, self._write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._write_end, False)

    def _listen(self) -> None:
        """Installs our handlers and our pipe, and unblocks all signals, whatever a call has set."""
        try:
            signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        except (OSError, ValueError):  # a call has closed all file descriptors
            self._open_pipe()
            signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _hold_signals(self) -> None:
        """Blocks them across a fork: the child must not run our handlers before it has its own."""
        held = (signal.SIGINT, signal.SIGTERM)
        self._masks[_thread.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, held)

    def _release_signals(self) -> None:
        mask = self._masks.pop(_thread.get_ident(), ())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _leave_child_alone(self) -> None:
        """Gives a process that the call forks the default handlers in place of ours."""
        signal.set_wakeup_fd(-1)
        for signum, default in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        ):
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, default)
        self._release_signals()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM:
            first, self.told_to_end = not self.told_to_end, True
            if first and not self.is_quiet:
                raise self.sigterm_exception()
            return
        first, self.was_interrupted = not self.was_interrupted, True
        # The second SIGINT of a cancellation is the same one, passed on
        # by a shell around the worker.
        if not self.is_quiet and (first or not self.is_cancelled()):
            raise KeyboardInterrupt

    @staticmethod
    def sigterm_exception() -> SystemExit:
        """The exception that SIGTERM raises in a call."""
        exception = SystemExit("terminated by SIGTERM")
        vars(exception)[_SIGNAL_MARK] = True
        return exception

    def exception(self) -> BaseException:
        """The exception for the signal that was received."""
        return self.sigterm_exception() if self.told_to_end else KeyboardInterrupt()

    def has_raised(self, exc: BaseException) -> bool:
        """Whether our handlers raised this very exception, rather than the call in answer to it."""
        if type(exc) is KeyboardInterrupt:
            return self.was_interrupted
        # Past `__getattribute__` of the class, which may do anything.
        return _SIGNAL_MARK in vars(BaseException)["__dict__"].__get__(exc)

    def is_cancelled(self) -> bool:
        """Whether the executor has ended, or has cancelled this task."""
        return (
            os.path.exists(self.stop_mark)
            or own_files.is_gone(self.array_file)
            or bool(self.why_over())
        )

    def read_pipe(self) -> None:
        """Notes the signals that have come, also those that the call's own handlers took."""
        try:
            numbers = os.read(self._pipe, 4096)
        except OSError:  # nothing in it
            return
        self.told_to_end = self.told_to_end or signal.SIGTERM in numbers
        self.was_interrupted = self.was_interrupted or signal.SIGINT in numbers

    def received(self) -> int | None:
        """The signal that has come and ends the job; None where there is none."""
        self.read_pipe()
        if self.told_to_end:
            return signal.SIGTERM
        return signal.SIGINT if self.was_interrupted and self.is_cancelled() else None

    def wait(self, seconds: float, *fds: int) -> None:
        """Waits for so long, until a signal comes, or until one of these is readable."""
        waiting = self._poll()
        for fd in (self._pipe, *fds):
            waiting.register(fd, self._readable)
        if any(event & ~self._readable for _, event in waiting.poll(1000 * seconds)):
            time.sleep(min(seconds, _BLIND_WAIT_S))  # a call has closed a descriptor

    def await_signal(self, seconds: float) -> int | None:
        """Waits at most so long for a signal that ends the job; returns it, or None."""
        deadline = time.monotonic() + seconds
        while (came := self.received()) is None and (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        return came

    def ignore(self) -> None:
        """Lets signals raise nothing while the output is written; they are still noted.

        The kill that follows a signal ends a job that takes too long. A timer that the
        call has left running is stopped.
        """
        self.is_quiet = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._listen()

    def restore(self) -> None:
        """Lets signals end the process again, once the output is written."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(signum, signal.SIG_DFL)
        process_wide = sys.modules.get("cluster_tools.cluster.process_wide")
        if process_wide is not None and process_wide.has_executors():
            # The call has executors of its own, whose jobs end with this one.
            process_wide.install_signal_handlers()


def _reset_ignored_signals() -> None:
    """Undoes what this process inherits: shells start background commands with signals ignored."""
    for signum in (signal.SIGCHLD, signal.SIGQUIT, signal.SIGALRM):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def is_signal(exc: BaseException) -> bool:
    """Whether the worker's signal handlers raised this exception, and not the call."""
    return running.interruption is not None and running.interruption.has_raised(exc)


def dump_stack_on_sigusr1() -> None:
    """Lets SIGUSR1 write the stack to the log, and otherwise leaves this signal to the call.

    Slurm sends it where users ask for a warning before the time limit (`--signal=USR1@120`), and by
    default it would end the process.
    """
    import faulthandler

    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1, file=2)


def _was_told_to_end(exc: BaseException | None) -> bool:
    """Whether a call has failed because SIGTERM ended a child process or a job step of the call."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        # Past `__getattribute__` of the class, which may do anything.
        own = vars(BaseException)
        code = own["__dict__"].__get__(exc).get("returncode")
        if type(code) is int and code in _SIGTERM_RETURN_CODES:
            return True
        cause = own["__cause__"].__get__(exc)
        exc = own["__context__"].__get__(exc) if cause is None else cause
    return False


class ArrayFile:
    """An open array file: its manifest, and the function, arguments and key of the chosen task.

    `owner`: the uid that the file must belong to; None where the caller checks that later
    (`check_owner`). Methods that read raise Stop where the file is cut short.
    """

    def __init__(self, path: str, owner: int | None):
        """Raises: Stop."""
        try:
            self.fd = own_files.open_own(path, owner=owner)
        except own_files.NotOurs as exc:
            raise Stop(EXIT_REFUSED, f"{exc}: not unpickled") from exc
        except PermissionError as exc:
            raise Stop(
                EXIT_REFUSED, f"{path} belongs to another user than the one this job runs as"
            ) from exc
        except OSError as exc:
            raise Stop(
                EXIT_NO_ARRAY,
                f"cannot open {path} on node {node_name()}: {exc.strerror}. Either its executor "
                "has gone, or the run directory is not on a disk that this node shares with the "
                "client.",
            ) from exc
        size = os.fstat(self.fd).st_size
        footer = os.pread(self.fd, arrays.FOOTER_BYTES, max(0, size - arrays.FOOTER_BYTES))
        places = arrays.decode_footer(footer)
        if places is None:
            raise Stop(EXIT_NO_ARRAY, f"{path} is cut short or no array file of format {FORMAT}")
        self._path = path
        self._index, self._count, manifest, self._first = places
        self._manifest = (manifest, size - arrays.FOOTER_BYTES - manifest)
        self._row: list[int] = []

    def check_owner(self, owner: int) -> None:
        """Raises: Stop, where the file belongs to another user and so must not be unpickled."""
        try:
            own_files.check_own(self.fd, self._path, owner)
        except own_files.NotOurs as exc:
            raise Stop(EXIT_REFUSED, f"{exc}, as whom this job runs: not unpickled") from exc

    def choose(self, task: int) -> None:
        """Makes this task the one that `function`, `call` and `key` are of. Raises: Stop."""
        self._row = numbers.unpack_numbers(self.rows(task, 1))

    def rows(self, task: int, count: int) -> bytes:
        """The rows of the index of `count` tasks from `task` on. Raises: Stop."""
        number = task - self._first
        if not 0 <= number <= number + count <= self._count:
            raise Stop(EXIT_NO_ARRAY, f"{self._path} has no task {task}")
        return self.read(self._index + number * arrays.ROW_BYTES, count * arrays.ROW_BYTES)

    def close(self) -> None:
        """Closes the file, if the call has not."""
        try:
            os.close(self.fd)
        except OSError:  # a call has closed all file descriptors
            pass

    def open_at(self, offset: int) -> BinaryIO:
        """The file from this byte on, to unpickle from without its bytes in memory as well."""
        file = os.fdopen(self.fd, "rb", closefd=False)
        file.seek(offset)
        return file

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on. Raises: Stop."""
        parts: list[bytes] = []
        while length:  # one read returns at most 2 GiB on Linux
            part = os.pread(self.fd, length, offset)
            if not part:
                raise Stop(EXIT_NO_ARRAY, "the array file is cut short")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def manifest(self) -> dict[str, Any]:
        """What all tasks of the array share. Raises: Stop; whatever unpickling does."""
        return pickle.loads(self.read(*self._manifest))

    def function(self) -> bytes:
        """The pickled function of the chosen task."""
        return self.read(*self._row[0:2])

    def call(self) -> BinaryIO:
        """The chosen task's pickled arguments, `(args, kwargs)`, as a file."""
        return self.open_at(self._row[2])

    def key(self) -> str | None:
        """The chosen task's key in the output store; None where its output is not kept there."""
        return arrays.decode_key(self.read(*self._row[4:6])) if self._row[5] else None


def node_name() -> str:
    """The name of this machine, without importing `socket` or `platform`."""
    return os.uname().nodename


def _leave_if_nobody_waits(run_directory: str, task: int, submission: int, job_id: str) -> None:
    """Raises: Stop, without a claim, where the client is gone; a file says so if it comes back."""
    why = why_nobody_waits(run_directory)
    if not why:
        return
    shard = run_files.shard_path(run_directory, task)
    mark = os.path.join(shard, run_files.left_name(task, submission))
    try:
        make_shard(shard)
        with open(own_files.open_own(mark, os.O_WRONLY | os.O_CREAT, owner=None), "w") as file:
            file.write(f"{job_id}\n{node_name()}\n{time.time()}\n")
    except OSError:  # without the file the client could not know; taking the claim will fail too
        return
    raise Stop(0, f"{why}: task {task} is not begun")


def why_nobody_waits(run_directory: str) -> str:
    """Why no client waits for this run's calls; "" where its heartbeat is recent or unreadable."""
    path = os.path.join(run_directory, run_files.HEARTBEAT)
    why = ""
    for reads_before in range(_HEARTBEAT_READS):
        try:
            if reads_before:
                time.sleep(_HEARTBEAT_REREAD_S)
            now = _time_of_the_file_server(f"{path}.seen") if reads_before else time.time()
            with open(own_files.open_own(path, owner=None)) as file:
                silence = now - os.fstat(file.fileno()).st_mtime
                host, pid, limit = run_files.read_heartbeat(file.read())
            if silence <= limit:
                return ""
        except (OSError, ValueError, own_files.NotOurs):  # unreadable, or the client set no timeout
            return ""
        why = (
            f"nothing was heard of the client (process {pid} on {host}) for {silence:.0f} s, "
            f"longer than client_timeout_s = {limit:g} s"
        )
    return why


def _time_of_the_file_server(prefix: str) -> float:
    """The modification time of a file that is made now: clocks of nodes may be wrong."""
    path = f"{prefix}.{node_name()}.{os.getpid()}"
    fd = own_files.open_own(path, os.O_WRONLY | os.O_CREAT, owner=None)
    try:
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)
        os.unlink(path)


def make_shard(shard: str) -> None:
    """Makes the directory of these tasks' files. Raises: Stop, where the run directory is gone."""
    try:
        os.mkdir(shard, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise Stop(
            EXIT_NO_ARRAY, f"{os.path.dirname(shard)} is gone: its executor has ended"
        ) from None


def _claim(run_directory: str, task: int, submission: int, restart: int, job_id: str) -> int:
    """Takes the claim of this attempt; returns the uid that owns it, as the file server sees us.

    Raises: Stop, where the task must not begin.
    """
    shard = run_files.shard_path(run_directory, task)
    path = os.path.join(shard, run_files.claim_name(task, submission, restart))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        try:
            fd = own_files.open_own(path, flags, owner=None)
        except FileNotFoundError:
            make_shard(shard)
            fd = own_files.open_own(path, flags, owner=None)
    except FileExistsError:
        raise Stop(0, f"task {task} was claimed by another copy of this element") from None
    except OSError as exc:
        raise Stop(
            EXIT_OUTPUT_NOT_WRITTEN,
            f"cannot write {path} on node {node_name()}: {exc.strerror}",
        ) from exc
    try:
        owner = os.fstat(fd).st_uid
        os.write(fd, f"{job_id}\n{node_name()}\n{os.getpid()}\n{time.time()}\n".encode())
    except OSError as exc:
        raise Stop(EXIT_OUTPUT_NOT_WRITTEN, f"cannot write {path}: {exc.strerror}") from exc
    finally:
        os.close(fd)
    if restart or submission:  # the failure of an earlier attempt does not explain this one's end
        try:
            os.unlink(os.path.join(shard, run_files.interrupted_name(task)))
        except OSError:
            pass
    try:
        for name, why in (
            # First the output, then the note: the client writes the note
            # before it deletes the output.
            (run_files.output_name(task), "already has its output"),
            (run_files.closed_name(task, submission), "was given to another job"),
        ):
            if own_files.is_there(os.path.join(shard, name)):
                raise Stop(0, f"task {task} {why}")
    except OSError as exc:
        raise _stop_for_disk(task, exc) from exc
    _check_not_over(shard, task)
    return owner


def _stop_for_disk(task: int, exc: OSError) -> Stop:
    return Stop(
        EXIT_REFUSED, f"task {task} is not begun, as the disk does not tell if it is over: {exc}"
    )


def _check_not_over(shard: str, task: int) -> None:
    """Raises: Stop, where the client has noted that this task is over."""
    try:
        why = _why_over(shard, task)
    except OSError as exc:
        raise _stop_for_disk(task, exc) from exc
    if why:
        raise Stop(0, f"task {task} {why}")


def _why_over(shard: str, task: int) -> str:
    """What the client has noted of a task that is over; "" where it has noted nothing."""
    try:
        with open(own_files.open_own(run_files.over_path(shard), owner=None)) as file:
            return run_files.why_over(file, task)
    except (FileNotFoundError, own_files.NotOurs):
        return ""


def _check_array_is_there(array_file: str, claim: str) -> None:
    """Raises: Stop, where all calls of the array are over.

    Called after the claim: when an array is done, the client first deletes its array file, then the
    outputs and notes that the claim was checked against. Opens the file, since on NFS the answer of
    `stat` may be seconds old.
    """
    try:
        os.close(own_files.open_own(array_file, owner=None))
    except own_files.NotOurs as exc:
        raise Stop(EXIT_REFUSED, f"{exc}: not unpickled") from exc
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ESTALE):
            os.unlink(claim)
            raise Stop(EXIT_NO_ARRAY, f"{array_file} is gone: all its calls are over") from exc
        raise Stop(EXIT_NO_ARRAY, f"cannot open {array_file}: {exc.strerror}") from exc


def _set_up_imports(manifest: dict[str, Any]) -> None:
    """Makes imports in the job find what they find in the client.

    Raises: Stop, where Python or cluster_tools is another version than the client's.
    """
    here, there = sys.version_info[:2], tuple(manifest["python"])
    if here != there:
        raise Stop(
            EXIT_REFUSED,
            f"the job runs Python {here[0]}.{here[1]} ({sys.executable}), the client Python "
            f"{there[0]}.{there[1]}: a pickle is good for one minor version only. "
            "Set python_executable (on Kubernetes also the image) to the client's version.",
        )
    if manifest["format"] != FORMAT:
        raise Stop(
            EXIT_REFUSED,
            "the job's cluster_tools is another version than the client's, "
            f"{manifest.get('version', 'unknown')}: install that one for the job, "
            "or start the client again if it was changed meanwhile",
        )
    sys.argv[:] = manifest["argv"]
    del sys.path[0]  # added by `start_worker.py`
    running.own_path = list(sys.path)
    set_path(manifest)
    # Processes that a call starts by spawn or forkserver run the file of the main module again.
    # That must not be the file that started the worker.
    running.start_module = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")


def set_path(manifest: dict[str, Any]) -> None:
    """Joins the client's `sys.path` and this process's own.

    Directories that only this job's PYTHONPATH names (set by a set-up
    line, for example) come first.
    """
    clients = [os.fsdecode(entry) for entry in manifest["sys_path"]]
    own = running.own_path
    if sys.prefix == manifest["prefix"]:
        path = clients + [entry for entry in own if entry not in clients]
    else:  # another environment: keeps its packages, and gets what the user added to the client's
        theirs = tuple(os.path.join(p, "") for p in (manifest["prefix"], manifest["base_prefix"]))
        path = [
            entry
            for entry in clients
            if entry not in own and not os.path.join(entry, "").startswith(theirs)
        ] + own
    first = [entry for entry in _python_path() if entry not in clients]
    sys.path[:] = first + [entry for entry in path if entry not in first]


def _python_path() -> list[str]:
    """The directories that this process's PYTHONPATH names."""
    if sys.flags.ignore_environment:
        return []
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # `PYTHONPATH=lib:$PYTHONPATH` leaves an empty entry where PYTHONPATH was not set.
    return [os.path.abspath(entry) for entry in entries if entry]


class Main:
    """The client's main module (the script), imported here once, when a pickle first names it.

    Until then, and where the script has no file, `__main__` is an empty module.
    """

    def __init__(self, manifest: dict[str, Any]):
        self._description: tuple[str, bytes, bool, bool] | None = manifest["main"]
        self._error: BaseException | None = None
        if self._description is not None and self._description[3]:
            self.load()

    def load(self) -> None:
        """Imports the script; `__main__` and `__mp_main__` name it from here on.

        Raises: what the script raises, each time; it is run only once.
        """
        if self._error is not None:
            raise self._error.with_traceback(self._traceback)
        if self._description is None:
            return
        name, path, has_spec, _ = self._description
        self._description = None
        before = {alias: sys.modules.get(alias) for alias in (name, "__main__", "__mp_main__")}
        try:
            self._import(name, os.fsdecode(path), has_spec)
        except BaseException as exc:
            # Nobody is to find a module of which only a part has run.
            for alias, module in before.items():
                if module is None:
                    sys.modules.pop(alias, None)
                else:
                    sys.modules[alias] = module
            self._error, self._traceback = exc, exc.__traceback__
            raise

    @staticmethod
    def _import(name: str, path: str, has_spec: bool) -> None:
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == path:
            module = sys.modules[name]
            sys.modules["__main__"] = sys.modules["__mp_main__"] = module
            return
        if name in sys.modules:
            name, has_spec = "__mp_main__", False
        from importlib.machinery import ModuleSpec, SourceFileLoader, SourcelessFileLoader

        loader = (SourcelessFileLoader if path.endswith(".pyc") else SourceFileLoader)(name, path)
        module = ModuleType(name)
        # As in the client: processes started by spawn find the script by the name of its spec, or
        # by its path where it has no spec.
        if has_spec:
            module.__spec__ = ModuleSpec(name, loader, origin=path)
            module.__spec__.has_location = True
        module.__loader__ = loader
        module.__file__ = path
        module.__package__ = package = name.rpartition(".")[0]
        if package:
            __import__(package)
        for alias in (name, "__main__", "__mp_main__"):
            sys.modules[alias] = module
        # Read by ClusterExecutor: a script without the __main__ guard must not submit itself again.
        vars(module)["__cluster_tools_bootstrapping__"] = True
        try:
            loader.exec_module(module)
        finally:
            del vars(module)["__cluster_tools_bootstrapping__"]

    def unpickle(self, pickled: bytes) -> Any:
        """Raises: whatever unpickling does, and what the script raises when it is imported."""
        from io import BytesIO

        return self.unpickle_from(BytesIO(pickled))

    def unpickle_from(self, file: BinaryIO, buffers: Iterable[memoryview] | None = None) -> Any:
        """The same, from a file. `buffers`: those that are beside the pickle, if there are any."""
        main = self

        class Unpickler(pickle.Unpickler):
            def find_class(self, module_name: str, global_name: str, /) -> Any:
                if module_name in ("__main__", "__mp_main__"):
                    main.load()
                    try:
                        return super().find_class(module_name, global_name)
                    except AttributeError as exc:
                        raise AttributeError(
                            f"{exc}: a job imports the script, so what it is to find there must be "
                            "defined outside of `if __name__ == '__main__'`"
                        ) from None
                return super().find_class(module_name, global_name)

        return Unpickler(file, buffers=buffers).load()


def load_initializer(running: Running, main: Main) -> Callable[[], object]:
    """The executor's initializer with its arguments. Raises: whatever unpickling does."""
    from functools import partial

    path = os.path.join(running.run_directory, run_files.INITIALIZER)
    with open(own_files.open_own(path, owner=running.owner), "rb") as file:
        function, arguments = main.unpickle_from(file)
    return partial(function, *arguments)


def _set_up_logging(pickled: bytes | None, main: Main, log_file: str) -> None:
    if pickled is None:
        return
    config, set_up = main.unpickle(pickled)
    if set_up is not None:
        set_up(log_file.removesuffix(".stdout"))
        return
    import logging

    logging.basicConfig(**config)
    if "level" in config:  # basicConfig does nothing where an import has configured logging before
        logging.getLogger().setLevel(config["level"])


def _dumps(value: object) -> bytes:
    """Pickles by reference, or with cloudpickle where that fails or modules are to go by value."""
    from io import BytesIO

    file = BytesIO()
    error = None
    try:
        dump_by_reference(value, file)
        pickled = file.getvalue()
        if not any(mark in pickled for mark in by_value_marks()):
            return pickled
    except Exception as plain_error:
        error = plain_error
    try:
        import cloudpickle
    except ImportError as no_cloudpickle:
        raise error or no_cloudpickle from None
    by_value: Any = cloudpickle
    return by_value.dumps(value, PICKLE_PROTOCOL)


def failure_bytes(
    exc: BaseException, frames_to_hide: int = 0, note: str = "", *, kept: bool = False
) -> bytes:
    """The output of a failed call; see `cluster_tools.packed_exceptions`."""
    from cluster_tools import packed_exceptions

    return packed_exceptions.failure_bytes(exc, frames_to_hide, note, kept=kept)


class OutputFile:
    """Writes a task's output file: under a temporary name, synced if `sync`, then renamed.

    The record behind the output says when and where the call ran and how much it used: `measure`
    tells that.
    """

    def __init__(
        self, shard: str, measure: Callable[[], Used], *, attempt: int = 1, sync: bool = True
    ):
        self._shard = shard
        self._measure = measure
        self._attempt = attempt
        self._sync = sync

    def write(
        self,
        name: str,
        dump: Callable[[BinaryIO], object],
        *,
        stored: bytes | None = None,
    ) -> None:
        """Writes file `name`, whose output `dump` writes. Raises: OSError; what `dump` raises.

        `stored`: the `outputs.digest` of an output that is in the output store; this
        file then holds the record alone.
        """
        path = os.path.join(self._shard, name)
        temporary = f"{path}.{node_name()}.{os.getpid()}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        fd = own_files.open_own(temporary, flags, owner=running.owner)
        try:
            with open(fd, "wb") as file:
                dump(file)
                size = file.tell()
                used = self._measure()
                record = outputs.encode_record(node_name(), used, self._attempt, stored)
                file.write(record + outputs.encode_footer(size, len(record)))
                file.flush()
                if self._sync:
                    os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            raise


def dump_result(result: object, file: BinaryIO) -> None:
    """Pickles into the file, so that a large result is not also in memory as a pickle."""
    if by_value_marks():  # the whole pickle is searched for the names of these modules
        file.write(pickled_result(result))
        return
    try:
        dump_by_reference((True, result), file)
    except OSError:
        raise
    except Exception:
        file.seek(0)
        file.truncate()
        file.write(pickled_result(result))


def pickled_result(result: object) -> bytes:
    """The output of a call that returned this. Raises: pickle.PicklingError, with the reason."""
    try:
        return _dumps((True, result))
    except Exception as exc:
        from cluster_tools.function_name import exception_text, type_name

        raise pickle.PicklingError(
            f"the result, of type {type_name(result)}, can't be pickled: {exception_text(exc)}"
        ) from None


def _deliver_result(
    result: object, output: OutputFile, name: str, keep: Callable[..., None] | None
) -> None:
    if keep is None:
        output.write(name, lambda file: dump_result(result, file))
    else:
        pickled = pickled_result(result)
        keep(pickled, success=True)
        output.write(name, lambda file: None, stored=outputs.digest(pickled))


def _deliver_failure(
    failure: bytes, output: OutputFile, name: str, keep: Callable[..., None] | None
) -> None:
    if keep is not None:
        try:
            keep(failure, success=False)
        except BaseException as exc:  # the failure itself still reaches the client below
            log_store_error(exc)
    output.write(name, lambda file: file.write(failure))


def log_store_error(exc: BaseException) -> None:
    """Says in the log that the output store raised this when it was given a failure."""
    from cluster_tools.function_name import exception_text

    log(f"cluster_tools: the store did not take the failure: {exception_text(exc)}\n")


_oom_counter: str | None = None


def oom_kills() -> int | None:
    """How many processes of this job's cgroup the kernel has killed for lack of memory.

    None where it does not tell.
    """
    global _oom_counter
    try:
        if _oom_counter is None:
            _oom_counter = _find_oom_counter()
        with open(_oom_counter) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _find_oom_counter() -> str:
    """The file with the line `oom_kill`; "" where there is none. Raises: OSError, StopIteration.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    with open("/proc/self/cgroup") as file:
        groups = [line.rstrip("\n").split(":", 2) for line in file]
    unified = len(groups) == 1  # version 2 alone
    path = next(path for _, names, path in groups if unified or "memory" in names.split(","))
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    for mount in mounts:
        root, point, kind, options = mount[3].rstrip("/"), mount[4], mount[-3], mount[-1].split(",")
        is_ours = kind == "cgroup2" if unified else kind == "cgroup" and "memory" in options
        # In a container only a part of the hierarchy is mounted.
        if is_ours and f"{path}/".startswith(f"{root}/"):
            name = "memory.events" if unified else "memory.oom_control"
            return f"{point}{path[len(root) :]}/{name}"
    return ""


def memory_note(kills_before: int | None, kills_now: int | None) -> str:
    """What to add to a call's failure if the kernel killed a process meanwhile; else "".

    The arguments are values of `oom_kills`.
    """
    if kills_before is None or kills_now is None or kills_now <= kills_before:
        return ""
    return (
        "While the call ran, the kernel killed a process in its job's control group for want of "
        "memory. If it was the call's, ask for more.\n"
    )


class _Outcome:
    """What came of the call of this element."""

    def __init__(self) -> None:
        self.result: object = None
        # The output of a call that failed; None of one that returned.
        self.failure: bytes | None = None
        # The failure is the exception that our signal handler raised.
        self.is_signal = False
        # SIGTERM ended a child of the call; the job's own may follow within this time.
        self.notice_s = 0.0
        # Writes the output to the output store; None where it is not kept there.
        self.keep: Callable[..., None] | None = None


def _run(arguments: list[str], interruption: Interruption) -> None:
    """Takes the claim, runs the call and writes its output.

    Raises: Stop, where the call did not run or a signal ended it; OSError,
    where its output can't be written.
    """
    array_file, tasks, submission, index, restart, job_id, log_file = arguments
    run_directory = os.path.dirname(array_file)
    task = run_files.task_at(tasks, int(index))
    array = ArrayFile(array_file, None)
    array.choose(task)
    if not int(restart):  # a restarted element may have begun before, which the client must learn
        _leave_if_nobody_waits(run_directory, task, int(submission), job_id)
    owner = _claim(run_directory, task, int(submission), int(restart), job_id)
    shard = run_files.shard_path(run_directory, task)
    claim = run_files.claim_name(task, int(submission), int(restart))
    _check_array_is_there(array_file, os.path.join(shard, claim))
    array.check_owner(owner)
    if os.stat(run_directory).st_uid != owner:
        raise Stop(
            EXIT_REFUSED,
            f"{run_directory} belongs to another user than the one this job runs as: nothing in it "
            "is unpickled",
        )
    meter = Meter()
    began = meter.begin()
    kills_before = oom_kills()
    attempt = int(submission) + int(restart) + 1
    output = OutputFile(shard, lambda: meter.end(began), attempt=attempt)
    interruption.array_file = array_file
    interruption.stop_mark = os.path.join(run_directory, run_files.STOPPED)
    interruption.why_over = lambda: _why_over(shard, task)
    running.run_directory, running.job_id, running.restart = run_directory, job_id, int(restart)
    running.owner = owner
    outcome = _run_call(array, shard, task, log_file, kills_before, interruption)
    flush()
    name = run_files.output_name(task)
    failure = outcome.failure
    if failure is None:
        try:
            _deliver_result(outcome.result, output, name, outcome.keep)
            return
        except BaseException as exc:  # it can't be pickled, or there is no room for it
            failure = failure_bytes(exc, kept=outcome.keep is not None)
    else:
        _stop_if_signalled(outcome, failure, output, task, interruption)
    _deliver_failure(failure, output, name, outcome.keep)


def _run_call(
    array: ArrayFile,
    shard: str,
    task: int,
    log_file: str,
    oom_kills_before: int | None,
    interruption: Interruption,
) -> _Outcome:
    """Sets up the process as the array's manifest says and runs the call of this task.

    Raises: Stop, where the call must not begin.
    """
    outcome = _Outcome()
    pid = os.getpid()
    note = ""
    manifest = None
    try:
        manifest = array.manifest()
        _set_up_imports(manifest)
        running.linger_s = manifest["linger_s"]
        dump_stack_on_sigusr1()
        main = running.main = Main(manifest)
        _set_up_logging(manifest["logging"], main, log_file)
        key = array.key()
        if key is not None:
            from functools import partial

            outcome.keep = partial(main.unpickle(manifest["output_store"]).write, key)
        if manifest["initializer"]:
            note = INITIALIZER_NOTE
            load_initializer(running, main)()
            note = ""
        function = main.unpickle(array.function())
        args, kwargs = main.unpickle_from(array.call())
        if interruption.received() is not None:  # an import may have caught what it raised
            raise interruption.exception()
        _check_not_over(shard, task)  # again: imports may have taken long
        outcome.result = function(*args, **kwargs)
        interruption.ignore()
        end_forked_copy(pid, 0)
    except Stop:
        raise
    except BaseException as exc:
        interruption.ignore()
        end_forked_copy(pid, 1)
        if manifest is not None and manifest["own_cgroup"]:
            note += memory_note(oom_kills_before, oom_kills())
        is_kept = outcome.keep is not None
        # Hides the frame of this function.
        outcome.failure = failure_bytes(exc, frames_to_hide=1, note=note, kept=is_kept)
        outcome.is_signal = interruption.has_raised(exc)
        if manifest is not None and _was_told_to_end(exc):
            outcome.notice_s = manifest["notice_s"]
    return outcome


def _stop_if_signalled(
    outcome: _Outcome, failure: bytes, output: OutputFile, task: int, interruption: Interruption
) -> None:
    """Raises: Stop, where a signal has ended the job and so the call's failure is not its own."""
    signum = interruption.received()
    if signum is None and outcome.notice_s:
        log(
            "cluster_tools: the call has lost a child to SIGTERM; if the job is next, it is within "
            f"{outcome.notice_s:g} s\n"
        )
        signum = interruption.await_signal(outcome.notice_s)
    if signum is None:
        return
    if outcome.is_signal:  # the traceback shows where the call was
        log(pickle.loads(failure)[1])
    else:
        output.write(run_files.interrupted_name(task), lambda file: file.write(failure))
    raise Stop(128 + signum, f"task {task} was ended by a signal")


def end_forked_copy(pid: int, code: int) -> None:
    """Ends this process if the call forked it: a copy that returns from the call writes no output.

    `pid`: of the process that began the call.
    """
    if os.getpid() != pid:
        flush()
        os._exit(code)


def _limit_lingering(code: int) -> None:
    """Lets threads and exit functions of the call keep the job no longer than `linger_s`.

    Nobody waits for them. A call's own executor whose calls are not done does keep the job.
    """
    _set_watchdog(has_work())
    try:
        _thread.start_new_thread(_exit_after_linger, (code,))
    except RuntimeError:  # no more threads
        pass


def _set_watchdog(has_work: bool) -> None:
    """Has the process ended from outside of the interpreter, which may hang in C.

    `has_work`: it must not be ended, since the code that runs in C may be that work.
    """
    import faulthandler

    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if has_work:
        return
    delay_s = running.linger_s + _WATCHDOG_DELAY_S
    try:
        # The kernel's timer, for the end of the interpreter, when faulthandler's thread is gone.
        signal.setitimer(signal.ITIMER_REAL, delay_s + _WATCHDOG_DELAY_S)
        faulthandler.dump_traceback_later(delay_s, exit=True, file=2)
    except (RuntimeError, ValueError, OverflowError, OSError):  # no more threads; a delay of years
        pass


def _exit_after_linger(code: int) -> None:
    """Runs in a thread, which ends with the interpreter; ends the process when its time is over."""
    deadline = time.monotonic() + running.linger_s
    executor_has_ended = had_work = False
    while True:
        now = time.monotonic()
        works = has_work()
        if works != had_work:
            had_work = works
            _set_watchdog(works)
        if works:
            deadline = now + running.linger_s
        elif not executor_has_ended and own_files.is_gone(running.run_directory):
            executor_has_ended = True
            deadline = min(deadline, now + _LINGER_AFTER_EXECUTOR_S)
        if now >= deadline and not works:
            break
        time.sleep(min(_LINGER_INTERVAL_S, max(0.001, deadline - now)))
    log("cluster_tools: what the call has left behind still runs; the job ends\n")
    flush()
    os._exit(code)


def has_work() -> bool:
    """Whether an executor that the call has made, of any library we know, has open calls."""
    process_wide = sys.modules.get("cluster_tools.cluster.process_wide")
    if process_wide is not None and process_wide.has_open_calls():
        return True
    threads: Any = sys.modules.get("concurrent.futures.thread")
    processes: Any = sys.modules.get("concurrent.futures.process")
    try:
        if threads is not None and threads._threads_queues:  # noqa: SLF001
            codes = _running_code()
            # A thread that waits for work is in the function of the thread itself.
            idle = threads._worker.__code__  # noqa: SLF001
            for thread, queue in list(threads._threads_queues.items()):  # noqa: SLF001
                if not queue.empty() or codes.get(thread.ident, idle) is not idle:
                    return True
        if processes is not None:
            for manager in list(processes._threads_wakeups):  # noqa: SLF001
                if manager.is_alive() and manager.pending_work_items:
                    return True
    except Exception:  # the lists change while we read, or another Python has other names
        pass
    return False


def _running_code() -> dict[int, CodeType]:
    """The code that each thread runs, by its ident.

    Returns no frames: this function's own is among them, and that cycle would keep all frames and
    their variables alive until the next garbage collection.
    """
    return {ident: frame.f_code for ident, frame in vars(sys)["_current_frames"]().items()}


def log(text: str) -> None:
    """Writes to the job's log, if the call has not closed it."""
    try:
        sys.stderr.write(text)
    except UnicodeError:  # the call has put another stream there
        try:
            sys.stderr.write(ascii(text)[1:-1].replace("\\n", "\n"))
        except Exception:
            pass
    except Exception:
        pass


def flush() -> None:
    """Writes what the call has printed to the log, which must have it before its future is done."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def _replace_for_log(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler for codecs: what to write for characters that the log's encoding lacks."""
    from codecs import lookup_error

    try:
        return lookup_error("surrogateescape")(error)
    except UnicodeError:
        return lookup_error("backslashreplace")(error)


def _set_up_streams() -> None:
    import faulthandler

    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:  # closed: the next file that is opened must not get this number
            os.open(os.devnull, os.O_RDWR)
    faulthandler.enable(2)  # a segmentation fault leaves its Python stack in the log
    try:
        stdout: Any = sys.stdout
        # A call must not fail because the log's encoding lacks a character.
        errors = stdout.errors
        if errors == "strict":
            errors = "backslashreplace"
        elif errors == "surrogateescape":  # in the C locale: bytes are written unchanged
            from codecs import register_error

            errors = "cluster_tools.log"
            register_error(errors, _replace_for_log)
        stdout.reconfigure(line_buffering=True, errors=errors)
    except (AttributeError, ValueError, OSError):  # there is no stdout
        pass


def main(arguments: list[str]) -> int:
    """Runs the element of these arguments (see the module's docstring); returns the exit code."""
    _set_up_streams()
    interruption = running.interruption = Interruption()
    code = 1
    try:
        _run(arguments, interruption)
        code = 0
    except Stop as stop:
        log(f"cluster_tools: {stop}\n")
        code = stop.code
    except OSError as exc:
        gone = " (its executor has ended)" if isinstance(exc, FileNotFoundError) else ""
        log(f"cluster_tools: the output could not be written{gone}: {exc}\n")
        code = EXIT_OUTPUT_NOT_WRITTEN
    finally:
        interruption.restore()
        _limit_lingering(code)
    return code
