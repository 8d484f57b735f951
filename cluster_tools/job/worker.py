"""What runs in a job: one element of an array, from its claim to its output.

Imports nothing but the standard library, and little of it, before the call asks for more:

    python job/start_worker.py ARRAY_FILE TASKS SUBMISSION INDEX RESTART JOB_ID LOG_FILE

(TASKS are those of all elements, as in "7-9,12": its own is the one at INDEX). It knows no scheduler: the
arguments say everything. It reads the array file, takes the claim of its task, runs the call and writes the
output beside the claim. `cluster_tools.format` has the names and layouts of all files, and
`cluster_tools.cluster.run_directory` is the client's side of them.
"""

from __future__ import annotations

import _thread
import errno
import os
import sys
import time
from types import ModuleType

# Not `from cluster_tools import`: that would ask the package's `__getattr__`, which imports importlib.
import cluster_tools.own_files as own_files
from cluster_tools.by_reference import by_value_marks, dump_by_reference
from cluster_tools.format import FORMAT, PICKLE_PROTOCOL, arrays, numbers, outputs, run_files
from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_OUTPUT_NOT_WRITTEN, EXIT_REFUSED

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    import pickle
    import signal
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any, BinaryIO
else:
    # The parts of pickle and signal that are written in C do without `re` and `enum`, which take half
    # of the time to start.
    try:
        import _pickle as pickle
        import _signal as signal
    except ImportError:  # another implementation of Python
        import pickle
        import signal

# The job's executor has been left: what a call has left behind has so long for what programs do at their exit.
_LEFT_S = 1.0
# Between looks at what a call has left behind.
_LINGER_INTERVAL_S = 0.1
# An interpreter that runs no Python any more is ended from outside of it so much later.
_DEAF_S = 1.0

# What a call's child or step ends with that was told to end, as `subprocess` and as shells and srun say it.
_TOLD_TO_END = (-15, 128 + 15)

# What the text of its failure ends with.
INITIALIZER_NOTE = "The executor's initializer raised this: no call was begun in this process.\n"

# One that seems to have stopped is read twice more, so far apart: an NFS client may have an old one.
_REREAD_S = 1.0


class Stop(Exception):
    """The element ends here without running its call; says so in the log and exits with `code`."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class Running:
    """What the call that runs here may know of its element."""

    def __init__(self) -> None:
        self.run_directory = ""
        self.job_id = ""
        # How often the scheduler has started it again.
        self.restart = 0
        # The uid that files in the run directory have to have.
        self.owner: int | None = None
        # How long it may stay for what its call has left behind.
        self.linger_s = 10.0
        self.interruption: Interruption | None = None
        self.main: Main | None = None
        # Where modules were looked for before the client's path was known.
        self.own_path: list[str] = []
        # What has started the worker; from then on it is no longer `__main__`.
        self.start_module: ModuleType | None = None


running = Running()


# An attribute of the exceptions that signals raise.
_IS_SIGNAL = "_cluster_tools_signal"


class Interruption:
    """Turns the scheduler's signals into exceptions, so that `finally` and `with` of the call run.

    SIGTERM tells the job to end, once. SIGINT is the call's own, as often as it comes, until its executor has
    been left. A pipe hears of both too, whatever handlers the call has set instead of ours.
    """

    def __init__(self) -> None:
        self.told_to_end = False
        # SIGINT has come.
        self.was_interrupted = False
        # Made where the executor was left; gone with it or with the array.
        self.stop_mark = ""
        self.array_file = ""
        # What the executor says of this task where it has cancelled it.
        self.why_over: Callable[[], str] = str
        # Signals raise nothing, or not any more.
        self.is_quiet = False
        self._open_pipe()
        _expect_usual_signals()
        # By thread: the signals that were blocked before it forks.
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
        """In place of what a call may have put there."""
        try:
            signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        except (OSError, ValueError):  # it has closed all that it found open
            self._open_pipe()
            signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._hear)
        signal.signal(signal.SIGTERM, self._hear)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _hold_signals(self) -> None:
        """One that comes to a child at once must not be lost between our handlers and its own."""
        held = (signal.SIGINT, signal.SIGTERM)
        self._masks[_thread.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, held)

    def _release_signals(self) -> None:
        mask = self._masks.pop(_thread.get_ident(), ())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _leave_child_alone(self) -> None:
        """What the call forks has signals of its own."""
        signal.set_wakeup_fd(-1)
        for signum, default in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        ):
            if signal.getsignal(signum) == self._hear:
                signal.signal(signum, default)
        self._release_signals()

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM:
            first, self.told_to_end = not self.told_to_end, True
            if first and not self.is_quiet:
                raise self.told()
            return
        first, self.was_interrupted = not self.was_interrupted, True
        # A shell around the worker passes on what the scheduler has sent to both.
        if not self.is_quiet and (first or not self.is_left()):
            raise KeyboardInterrupt

    @staticmethod
    def told() -> SystemExit:
        """What SIGTERM is in a call."""
        exception = SystemExit("terminated by SIGTERM")
        vars(exception)[_IS_SIGNAL] = True
        return exception

    def has_raised(self, exc: BaseException) -> bool:
        """Whether this is a signal itself, rather than something that the call made of it."""
        if type(exc) is KeyboardInterrupt:
            return self.was_interrupted
        return _IS_SIGNAL in vars(BaseException)["__dict__"].__get__(exc)

    def is_left(self) -> bool:
        """Whether the executor was left, or has cancelled this task."""
        return (
            os.path.exists(self.stop_mark)
            or own_files.is_gone(self.array_file)
            or bool(self.why_over())
        )

    def look(self) -> None:
        """Takes note of what the pipe has heard."""
        try:
            heard = os.read(self._pipe, 4096)
        except OSError:  # nothing in it
            return
        self.told_to_end = self.told_to_end or signal.SIGTERM in heard
        self.was_interrupted = self.was_interrupted or signal.SIGINT in heard

    def received(self) -> int | None:
        """The signal that has come and ends the job, if one has."""
        self.look()
        if self.told_to_end:
            return signal.SIGTERM
        return signal.SIGINT if self.was_interrupted and self.is_left() else None

    def wait(self, seconds: float) -> None:
        """Until then, or until a signal comes."""
        from select import select

        try:
            select([self._pipe], [], [], seconds)
        except (OSError, ValueError):  # a call has closed all that it found open
            time.sleep(seconds)

    def await_signal(self, seconds: float) -> int | None:
        """What is received, once it has come or the time is over."""
        deadline = time.monotonic() + seconds
        while (came := self.received()) is None and (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        return came

    def ignore(self) -> None:
        """From here on the output is being written; the kill that follows a signal is soon enough.

        Signals are heard, and raise nothing. Nor does a timer that the call has left behind.
        """
        self.is_quiet = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._listen()

    def restore(self) -> None:
        """The output is written; a signal ends what may be left, threads of the call's, say."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(signum, signal.SIG_DFL)
        process_wide = sys.modules.get("cluster_tools.cluster.process_wide")
        if process_wide is not None and process_wide.has_executors():
            process_wide.install_signal_handlers()  # their jobs end with this one


def _expect_usual_signals() -> None:
    """Whatever has started this process ignored: a shell in the background, a client without children."""
    for signum in (signal.SIGCHLD, signal.SIGQUIT, signal.SIGALRM):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def is_signal(exc: BaseException) -> bool:
    """Whether this is what the worker makes of a signal, and not the call's own."""
    return running.interruption is not None and running.interruption.has_raised(exc)


def free_warning() -> None:
    """SIGUSR1 is the call's, and no handler of Python's stands on it.

    A warning that the time is nearly over kills nobody who does not care: it leaves a stack in the log.
    """
    import faulthandler

    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1, file=2)


def _was_told_to_end(exc: BaseException | None) -> bool:
    """Whether a call has failed because a child or a job step of its was ended by SIGTERM."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        # Not as attributes: the class may have its own idea of those.
        own = vars(BaseException)
        code = own["__dict__"].__get__(exc).get("returncode")
        if type(code) is int and code in _TOLD_TO_END:
            return True
        cause = own["__cause__"].__get__(exc)
        exc = own["__context__"].__get__(exc) if cause is None else cause
    return False


class ArrayFile:
    """An open array file: its manifest, and what there is of the task that was chosen.

    `owner`: the uid that it has to have; None where the caller checks that later (`check_owner`).
    """

    def __init__(self, path: str, owner: int | None):
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
                f"cannot open {path} on node {node_name()}: {exc.strerror}. Either its executor has gone, "
                "or the run directory is not on a disk that this node shares with the client.",
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
        """Raises: Stop, where nothing of it may be unpickled."""
        try:
            own_files.check_own(self.fd, self._path, owner)
        except own_files.NotOurs as exc:
            raise Stop(EXIT_REFUSED, f"{exc}, as whom this job runs: not unpickled") from exc

    def choose(self, task: int) -> None:
        self._row = numbers.unpack_numbers(self.rows(task, 1))

    def rows(self, task: int, count: int) -> bytes:
        """Of so many tasks. Raises: Stop."""
        number = task - self._first
        if not 0 <= number <= number + count <= self._count:
            raise Stop(EXIT_NO_ARRAY, f"{self._path} has no task {task}")
        return self.read(self._index + number * arrays.ROW_BYTES, count * arrays.ROW_BYTES)

    def close(self) -> None:
        try:
            os.close(self.fd)
        except OSError:  # a call has closed all that it found open
            pass

    def open_at(self, offset: int) -> BinaryIO:
        """The file from there on: what is large is not to be held in memory as a pickle as well."""
        file = os.fdopen(self.fd, "rb", closefd=False)
        file.seek(offset)
        return file

    def read(self, offset: int, length: int) -> bytes:
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
        return pickle.loads(self.read(*self._manifest))

    def function(self) -> bytes:
        return self.read(*self._row[0:2])

    def call(self) -> BinaryIO:
        return self.open_at(self._row[2])

    def key(self) -> str | None:
        """The task's key in the output store, or None where its output goes into the run directory."""
        return arrays.decode_key(self.read(*self._row[4:6])) if self._row[5] else None


def node_name() -> str:
    return os.uname().nodename


def _leave_if_nobody_waits(run_directory: str, task: int, submission: int, job_id: str) -> None:
    """Leaves without a claim, and says so to a client that may come back."""
    why = why_nobody_waits(run_directory)
    if not why:
        return
    shard = run_files.shard_path(run_directory, task)
    mark = os.path.join(shard, run_files.left_name(task, submission))
    try:
        make_shard(shard)
        with open(own_files.open_own(mark, os.O_WRONLY | os.O_CREAT, owner=None), "w") as file:
            file.write(f"{job_id}\n{node_name()}\n{time.time()}\n")
    except OSError:  # the client could not tell why: the claim will say what is wrong
        return
    raise Stop(0, f"{why}: task {task} is not begun")


def why_nobody_waits(run_directory: str) -> str:
    """Empty where the client's heart beats, or where there is no telling."""
    path = os.path.join(run_directory, run_files.HEARTBEAT)
    why = ""
    for attempt in range(3):
        try:
            if attempt:
                time.sleep(_REREAD_S)
            now = _time_of_the_file_server(f"{path}.seen") if attempt else time.time()
            with open(own_files.open_own(path, owner=None)) as file:
                silence = now - os.fstat(file.fileno()).st_mtime
                host, pid, limit = run_files.read_heartbeat(file.read())
            if silence <= limit:
                return ""
        except (OSError, ValueError, own_files.NotOurs):  # it wants none, or it can't be read
            return ""
        why = (
            f"nothing was heard of the client (process {pid} on {host}) for {silence:.0f} s, longer than "
            f"client_timeout_s = {limit:g} s"
        )
    return why


def _time_of_the_file_server(prefix: str) -> float:
    """The modification time of a file that is made there: clocks of nodes may be wrong."""
    path = f"{prefix}.{node_name()}.{os.getpid()}"
    fd = own_files.open_own(path, os.O_WRONLY | os.O_CREAT, owner=None)
    try:
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)
        os.unlink(path)


def make_shard(shard: str) -> None:
    try:
        os.mkdir(shard, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise Stop(
            EXIT_NO_ARRAY, f"{os.path.dirname(shard)} is gone: its executor has ended"
        ) from None


def _claim(run_directory: str, task: int, submission: int, restart: int, job_id: str) -> int:
    """Takes the claim; returns the uid that owns it, as the file server sees us."""
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
    if restart or submission:  # what an earlier run left is not the cause of this one's end
        try:
            os.unlink(os.path.join(shard, run_files.interrupted_name(task)))
        except OSError:
            pass
    try:
        for name, why in (
            # Before the next: the client notes that an output was taken before it deletes that.
            (run_files.output_name(task), "already has its output"),
            (run_files.closed_name(task, submission), "was given to another job"),
        ):
            if own_files.is_there(os.path.join(shard, name)):
                raise Stop(0, f"task {task} {why}")
    except OSError as exc:
        raise _untold(task, exc) from exc
    _check_not_over(shard, task)
    return owner


def _untold(task: int, exc: OSError) -> Stop:
    return Stop(
        EXIT_REFUSED, f"task {task} is not begun, as the disk does not tell if it is over: {exc}"
    )


def _check_not_over(shard: str, task: int) -> None:
    """Raises: Stop."""
    try:
        why = _why_over(shard, task)
    except OSError as exc:
        raise _untold(task, exc) from exc
    if why:
        raise Stop(0, f"task {task} {why}")


def _why_over(shard: str, task: int) -> str:
    """What the client has noted of a task that is over; empty where it has not."""
    try:
        with open(own_files.open_own(run_files.over_path(shard), owner=None)) as file:
            return run_files.why_over(file, task)
    except (FileNotFoundError, own_files.NotOurs):
        return ""


def _check_array_is_there(array_file: str, claim: str) -> None:
    """After the claim: when an array is done its file goes first, then all that the claim is checked against.

    By opening: what `stat` says of a file on NFS may be seconds old.
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


def _enter(manifest: dict[str, Any]) -> None:
    """Makes imports in the job find what they find in the client."""
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
            f"the job's cluster_tools is another version than the client's, {manifest.get('version', 'unknown')}: "
            "install that one for the job, or start the client again if it was changed meanwhile",
        )
    sys.argv[:] = manifest["argv"]
    del sys.path[0]  # set by what has started the worker
    running.own_path = list(sys.path)
    set_path(manifest)
    # What a call starts by spawn or forkserver runs the file of this process's main module again, and
    # that must not be what has started the worker.
    running.start_module = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")


def set_path(manifest: dict[str, Any]) -> None:
    """Looks for modules where the client does, and where the job's own environment says.

    What its PYTHONPATH has and the client's path lacks (of a set-up line, say) is looked at first.
    """
    clients = [os.fsdecode(entry) for entry in manifest["sys_path"]]
    own = running.own_path
    if sys.prefix == manifest["prefix"]:
        path = clients + [entry for entry in own if entry not in clients]
    else:  # another environment keeps its own packages; it gets what the user added to the client's
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
    # An empty one is what `PYTHONPATH=lib:$PYTHONPATH` leaves where there was none.
    return [os.path.abspath(entry) for entry in entries if entry]


class Main:
    """The client's main module, imported here once under its import name.

    Until then, and where it has no file, `__main__` is an empty module.
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
            # A part of the script is not to be taken for the whole.
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
        # As in the client: what a call starts by spawn finds the script by the spec's name, where
        # there is one, else by its path.
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

    def unpickle(self, data: bytes) -> Any:
        from io import BytesIO

        return self.unpickle_from(BytesIO(data))

    def unpickle_from(self, file: BinaryIO) -> Any:
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

        return Unpickler(file).load()


def load_initializer(running: Running, main: Main) -> Callable[[], object]:
    """What is to be called once in a process, before its first call. Raises: whatever unpickling does."""
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
    """Writes the task's output file: a temporary one, synced where that has a use, and renamed.

    Its record says when and where the call ran and how much it used.
    """

    def __init__(self, shard: str, record: dict[str, Any], *, sync: bool = True):
        self._shard = shard
        self._record = record
        self._sync = sync

    def write(
        self,
        name: str,
        dump: Callable[[BinaryIO], object],
        *,
        stored: bytes | None = None,
    ) -> None:
        """`stored`: the outputs.digest of an output that is in the store; then this file holds none."""
        path = os.path.join(self._shard, name)
        temporary = f"{path}.{node_name()}.{os.getpid()}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        fd = own_files.open_own(temporary, flags, owner=running.owner)
        try:
            with open(fd, "wb") as file:
                dump(file)
                size = file.tell()
                record = pickle.dumps(
                    {**self._record, "end": time.time(), "stored": stored, **_usage()},
                    PICKLE_PROTOCOL,
                )
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
    """Straight into the file: a large result is not held in memory twice where plain pickle will do."""
    if by_value_marks():  # it has to be seen whole
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
            say_store_refused(exc)
    output.write(name, lambda file: file.write(failure))


def say_store_refused(exc: BaseException) -> None:
    from cluster_tools.function_name import exception_text

    say(f"cluster_tools: the store did not take the failure: {exception_text(exc)}\n")


_oom_counter: str | None = None


def oom_kills() -> int | None:
    """How often the kernel has killed for want of memory in this job's cgroup; None where it does not tell."""
    global _oom_counter
    try:
        if _oom_counter is None:
            _oom_counter = _find_oom_counter()
        with open(_oom_counter) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _find_oom_counter() -> str:
    """The file with it. Raises: OSError, StopIteration.

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
        # In a container a part of the hierarchy is mounted.
        if is_ours and f"{path}/".startswith(f"{root}/"):
            name = "memory.events" if unified else "memory.oom_control"
            return f"{point}{path[len(root) :]}/{name}"
    return ""


def memory_note(kills_before: int | None, kills_now: int | None) -> str:
    """What to say of a call that failed while the kernel killed a process that it had started."""
    if kills_before is None or kills_now is None or kills_now <= kills_before:
        return ""
    return (
        "While the call ran, the kernel killed a process in its job's control group for want of memory. "
        "If it was the call's, ask for more.\n"
    )


def _usage() -> dict[str, Any]:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "oom_kills_after": oom_kills(),
    }


def _run(arguments: list[str], interruption: Interruption) -> None:
    array_file, tasks, submission, index, restart, job_id, log_file = arguments
    run_directory = os.path.dirname(array_file)
    task = run_files.task_at(tasks, int(index))
    array = ArrayFile(array_file, None)
    array.choose(task)
    if not int(restart):  # else it may have begun before: that is not left to nobody
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
    record: dict[str, Any] = {
        "start": time.time(),
        "node": node_name(),
        "job_id": job_id,
        "restart": int(restart),
        "oom_kills_before": oom_kills(),
    }
    output = OutputFile(shard, record)
    interruption.array_file = array_file
    interruption.stop_mark = os.path.join(run_directory, run_files.STOPPED)
    interruption.why_over = lambda: _why_over(shard, task)
    running.run_directory, running.job_id, running.restart = run_directory, job_id, int(restart)
    running.owner = owner
    pid = os.getpid()
    note = ""
    keep = None
    result = None
    failure = None
    manifest = None
    notice_s = 0.0
    is_signal = False
    try:
        manifest = array.manifest()
        _enter(manifest)
        running.linger_s = manifest["linger_s"]
        free_warning()
        main = running.main = Main(manifest)
        _set_up_logging(manifest["logging"], main, log_file)
        key = array.key()
        if key is not None:
            from functools import partial

            keep = partial(main.unpickle(manifest["output_store"]).write, key)
        if manifest["initializer"]:
            note = INITIALIZER_NOTE
            load_initializer(running, main)()
            note = ""
        function = main.unpickle(array.function())
        args, kwargs = main.unpickle_from(array.call())
        if interruption.received() is not None:  # and an import has made nothing of it
            raise interruption.told() if interruption.told_to_end else KeyboardInterrupt
        _check_not_over(shard, task)  # again: imports may have taken long
        result = function(*args, **kwargs)
        interruption.ignore()
        end_forked_copy(pid, 0)
    except Stop:
        raise
    except BaseException as exc:
        interruption.ignore()
        end_forked_copy(pid, 1)
        if manifest is not None and manifest["own_cgroup"]:
            note += memory_note(record["oom_kills_before"], oom_kills())
        failure = failure_bytes(exc, frames_to_hide=1, note=note, kept=keep is not None)
        is_signal = interruption.has_raised(exc)
        if manifest is not None and _was_told_to_end(exc):
            notice_s = manifest["notice_s"]
    flush()
    if failure is None:
        try:
            _deliver_result(result, output, run_files.output_name(task), keep)
            return
        except BaseException as exc:  # it can't be pickled, or there is no room for it
            failure = failure_bytes(exc, kept=keep is not None)
    else:
        signum = interruption.received()
        if signum is None and notice_s:
            say(
                "cluster_tools: the call has lost a child to SIGTERM; if the job is next, it is within "
                f"{notice_s:g} s\n"
            )
            signum = interruption.await_signal(notice_s)
        if signum is not None:
            if is_signal:  # no failure of the call's: where it was may still help
                say(pickle.loads(failure)[1])
            else:
                output.write(run_files.interrupted_name(task), lambda file: file.write(failure))
            raise Stop(128 + signum, f"task {task} was ended by a signal")
    _deliver_failure(failure, output, run_files.output_name(task), keep)


def end_forked_copy(pid: int, code: int) -> None:
    """A process that the call has forked and that has come back here has no output to write."""
    if os.getpid() != pid:
        flush()
        os._exit(code)


def _end_soon(code: int) -> None:
    """What the call has left behind (threads, exit functions) does not keep the job: nobody waits for it.

    But executors do that have calls of their own.
    """
    _watch_from_outside(has_work())
    try:
        _thread.start_new_thread(_end_in_time, (code,))
    except RuntimeError:  # no more threads
        pass


def _watch_from_outside(has_work: bool) -> None:
    """Ends a process whose interpreter runs no Python any more: one that hangs in C, say."""
    import faulthandler

    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if has_work:  # which may be what runs so long in C
        return
    patience_s = running.linger_s + _DEAF_S
    try:
        # At the very end of the interpreter there is only the kernel.
        signal.setitimer(signal.ITIMER_REAL, patience_s + _DEAF_S)
        faulthandler.dump_traceback_later(patience_s, exit=True, file=2)
    except (RuntimeError, ValueError, OverflowError, OSError):  # no more threads; years
        pass


def _end_in_time(code: int) -> None:
    """In a thread, which ends with the interpreter."""
    deadline = time.monotonic() + running.linger_s
    is_left = had_work = False
    while True:
        now = time.monotonic()
        works = has_work()
        if works != had_work:
            had_work = works
            _watch_from_outside(works)
        if works:
            deadline = now + running.linger_s
        elif not is_left and own_files.is_gone(running.run_directory):
            is_left = True
            deadline = min(deadline, now + _LEFT_S)
        if now >= deadline and not works:
            break
        time.sleep(min(_LINGER_INTERVAL_S, max(0.001, deadline - now)))
    say("cluster_tools: what the call has left behind still runs; the job ends\n")
    flush()
    os._exit(code)


def has_work() -> bool:
    """Whether an executor of the call's own has calls that are not done: ours, or the standard library's."""
    process_wide = sys.modules.get("cluster_tools.cluster.process_wide")
    if process_wide is not None and process_wide.has_open_calls():
        return True
    threads: Any = sys.modules.get("concurrent.futures.thread")
    processes: Any = sys.modules.get("concurrent.futures.process")
    try:
        if threads is not None and threads._threads_queues:
            codes = _running_code()
            # One that waits for work has nothing above the function of its thread.
            idle = threads._worker.__code__
            for thread, queue in list(threads._threads_queues.items()):
                if not queue.empty() or codes.get(thread.ident, idle) is not idle:
                    return True
        if processes is not None:
            for manager in list(processes._threads_wakeups):
                if manager.is_alive() and manager.pending_work_items:
                    return True
    except Exception:  # they change under our hands, or another Python has them elsewhere
        pass
    return False


def _running_code() -> dict[int, CodeType]:
    """What each thread runs, by its ident.

    No frame outlives this: this function's own is among them, and would keep all of them alive, with what
    is in them, until the collector comes.
    """
    return {ident: frame.f_code for ident, frame in vars(sys)["_current_frames"]().items()}


def say(text: str) -> None:
    """Into the log, where the call has left us one."""
    try:
        sys.stderr.write(text)
    except UnicodeError:  # a stream of the call's own
        try:
            sys.stderr.write(ascii(text)[1:-1].replace("\\n", "\n"))
        except Exception:
            pass
    except Exception:
        pass


def flush() -> None:
    """What the call printed is in the log before its future is done."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def _in_the_log(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands in the log for characters that its encoding lacks."""
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
        except OSError:  # closed: no other file is to be taken for it
            os.open(os.devnull, os.O_RDWR)
    faulthandler.enable(2)  # a segmentation fault leaves its Python stack in the log
    try:
        stdout: Any = sys.stdout
        # A log that lacks a character is no reason for a call to fail.
        errors = stdout.errors
        if errors == "strict":
            errors = "backslashreplace"
        elif errors == "surrogateescape":  # the C locale's: bytes stay what they are
            from codecs import register_error

            errors = "cluster_tools.log"
            register_error(errors, _in_the_log)
        stdout.reconfigure(line_buffering=True, errors=errors)
    except (AttributeError, ValueError, OSError):  # there is none
        pass


def main(arguments: list[str]) -> int:
    _set_up_streams()
    interruption = running.interruption = Interruption()
    code = 1
    try:
        _run(arguments, interruption)
        code = 0
    except Stop as stop:
        say(f"cluster_tools: {stop}\n")
        code = stop.code
    except OSError as exc:
        gone = " (its executor has ended)" if isinstance(exc, FileNotFoundError) else ""
        say(f"cluster_tools: the output could not be written{gone}: {exc}\n")
        code = EXIT_OUTPUT_NOT_WRITTEN
    finally:
        interruption.restore()
        _end_soon(code)
    return code
