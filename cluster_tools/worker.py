"""What runs in a job: one element of an array, from its claim to its output.

Imports nothing but the standard library, and little of it, before the call asks for more:

    python cluster/start_worker.py ARRAY_FILE TASKS SUBMISSION INDEX RESTART JOB_ID LOG_FILE

(TASKS are those of all elements, as in "7-9,12": its own is the one at INDEX). It knows no scheduler: the arguments say everything. It reads the array file, takes the claim of its
task, runs the call and writes the output beside the claim. The names and layouts it shares with
`cluster_tools.cluster.run_directory`, the client's side of the same files, are defined here.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from types import GetSetDescriptorType, MemberDescriptorType, ModuleType

TYPE_CHECKING = False  # `typing` costs as much as all the rest
if TYPE_CHECKING:
    import pickle
    import signal
    from collections.abc import Callable, Iterable
    from types import FrameType
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

# -- the format -------------------------------------------------------------------------------------

# Raised with each change of what a manifest has to say.
FORMAT = 5
PICKLE_PROTOCOL = 5
# One directory lists at most this many tasks: a listing must stay cheap, also on NFS.
TASKS_PER_SHARD = 1_000

# An array file: blobs | index, a row of six numbers a task | manifest | footer.
ARRAY_MAGIC = b"CTarray1"
NUMBER_BYTES = 8
ROW_NUMBERS = 6  # offset and length of: function, call, output key
ROW_BYTES = ROW_NUMBERS * NUMBER_BYTES
FOOTER_NUMBERS = 4  # index offset, number of tasks, manifest offset, first task
FOOTER_BYTES = FOOTER_NUMBERS * NUMBER_BYTES + len(ARRAY_MAGIC)

# An output file: output | record | footer.
OUTPUT_MAGIC = b"CToutpt1"
OUTPUT_FOOTER_BYTES = 2 * NUMBER_BYTES + len(OUTPUT_MAGIC)

# Exit codes of a worker that could not do its work, from sysexits.h; a call's own failure is an output
# and exits 0.
EXIT_NO_PACKAGE = 69
EXIT_NO_WORKING_DIRECTORY = 72
EXIT_OUTPUT_NOT_WRITTEN = 74
EXIT_REFUSED = 77
EXIT_NO_ARRAY = 78
# What the worker, or what starts it, ends with when it has something to say.
OWN_EXIT_CODES = (EXIT_NO_PACKAGE, EXIT_OUTPUT_NOT_WRITTEN, EXIT_REFUSED, EXIT_NO_ARRAY)


# So many seconds a process stays at the most whose call has left something behind: enough for what
# programs do at their exit.
LINGER_S = 300

# What a call's child or step ends with that was told to end, as `subprocess` and as shells and srun say it.
_TOLD_TO_END = (-15, 128 + 15)

# In the run directory, where there is one: the pickled initializer and its arguments.
INITIALIZER = "initializer"
# What the text of its failure ends with.
INITIALIZER_NOTE = "The executor's initializer raised this: no call was begun in this process.\n"

# The client's heartbeat, a file of four lines: its host, pid, boot id, and after how many seconds without
# a beat (its modification time) nobody is taken to wait for it any more.
HEARTBEAT = "client"
# One that seems to have stopped is read twice more, so far apart: an NFS client may have an old one.
_REREAD_S = 1.0


def shard_path(run_directory: str, task: int) -> str:
    return os.path.join(run_directory, str(task // TASKS_PER_SHARD))


def claim_name(task: int, submission: int, restart: int) -> str:
    return f"{task}.claim.{submission}.{restart}"


def output_name(task: int) -> str:
    return f"{task}.output"


def interrupted_name(task: int) -> str:
    """A failure that was written after a signal: it counts only if the element does not run again."""
    return f"{task}.interrupted"


def task_of(name: str) -> int | None:
    """The task that an entry of a shard belongs to."""
    number = name.partition(".")[0]
    return int(number) if number.isdigit() else None


def over_path(shard: str) -> str:
    """A file of lines, `<task> <why>`, made by the client: whoever has not begun this task must not begin it."""
    return os.path.join(shard, "over")


def closed_name(task: int, submission: int) -> str:
    """Made by the client: this task goes in again, and whoever has not started it before must not."""
    return f"{task}.closed.{submission}"


def left_name(task: int, submission: int) -> str:
    """Made by a worker: it has not begun this task, since nobody seemed to wait for it."""
    return f"{task}.left.{submission}"


def pack_tasks(tasks: Iterable[int]) -> str:
    """Task numbers, ascending, as a worker is told them: "7-9,12"."""
    if isinstance(tasks, range):
        return f"{tasks[0]}-{tasks[-1]}"
    ranges: list[tuple[int, int]] = []
    for task in tasks:
        if ranges and task == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], task)
        else:
            ranges.append((task, task))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def task_at(packed: str, index: int) -> int:
    """The task of the element with this index. Raises: ValueError."""
    for part in packed.split(","):
        first, _, last = part.partition("-")
        task = int(first) + index
        if task <= int(last or first):
            return task
        index = task - int(last or first) - 1
    raise ValueError(f"there are fewer tasks than elements: {packed}")


def pack_numbers(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in numbers)


def unpack_numbers(data: bytes) -> list[int]:
    return [
        int.from_bytes(data[i : i + NUMBER_BYTES], "little")
        for i in range(0, len(data), NUMBER_BYTES)
    ]


HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE, Include/object.h: not one of the interpreter's own types


def exception_state(exc: BaseException) -> dict[str, Any]:
    """The attributes of `exc`: its own, those in slots and those that C types keep (`OSError.errno`)."""
    state: dict[str, Any] = {}
    for cls in type(exc).__mro__:
        for name, member in vars(cls).items():
            if (
                isinstance(member, (MemberDescriptorType, GetSetDescriptorType))
                and not name.startswith("__")
                # `obj` of an AttributeError is the whole object; it may be anything and of any size.
                and name not in ("args", "obj")
            ):
                try:  # not by getattr: the class may have its own idea of attributes
                    value = member.__get__(exc)
                except AttributeError:  # not set
                    continue
                # What C types have not set reads as None, and is something else to them: an OSError
                # whose `filename` is set to None prints "[Errno None] None: None".
                if value is not None or cls.__flags__ & HEAP_TYPE:
                    state[name] = value
    state.update(BaseException.__getattribute__(exc, "__dict__"))
    return state


def fingerprint(output: bytes) -> tuple[int, int]:
    """Tells a call's kept output from another's that was written under the same key."""
    import zlib

    return len(output), zlib.crc32(output)


# -- the worker -------------------------------------------------------------------------------------


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
        self.main: Main | None = None


running = Running()


# An attribute of the exceptions that signals raise.
_IS_SIGNAL = "_cluster_tools_signal"


class _Interruption:
    """Turns the scheduler's signals into exceptions, so that `finally` and `with` of the call run.

    A pipe hears of them too, whatever handlers the call has set instead of ours.
    """

    def __init__(self) -> None:
        self._raised: int | None = None
        self._pipe, write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        # What the call forks has signals of its own.
        os.register_at_fork(after_in_child=_forget_wakeup_fd)
        signal.signal(signal.SIGINT, self._raise)
        signal.signal(signal.SIGTERM, self._raise)
        # A warning that the time is nearly over kills nobody who does not care.
        signal.signal(signal.SIGUSR1, _hear)

    def _raise(self, signum: int, frame: FrameType | None) -> None:
        # A shell around the worker passes on what the scheduler has sent to both: once is enough.
        if self._raised == signum:
            return
        self._raised = signum
        interrupt = signum == signal.SIGINT
        exception = KeyboardInterrupt() if interrupt else SystemExit("terminated by SIGTERM")
        vars(exception)[_IS_SIGNAL] = True
        raise exception

    @staticmethod
    def has_raised(exc: BaseException) -> bool:
        """Whether this is a signal itself, rather than something that the call made of it."""
        return _IS_SIGNAL in BaseException.__getattribute__(exc, "__dict__")

    def received(self) -> int | None:
        """The signal that has come, if one has."""
        if self._raised is not None:
            return self._raised
        try:
            heard = os.read(self._pipe, 4096)
        except OSError:  # nothing in it
            return None
        return next((n for n in heard if n in (signal.SIGINT, signal.SIGTERM)), None)

    def await_signal(self, seconds: float) -> int | None:
        """The same, once it has come or the time is over."""
        from select import select

        deadline = time.monotonic() + seconds
        while (came := self.received()) is None and (left := deadline - time.monotonic()) > 0:
            select([self._pipe], [], [], left)
        return came

    def restore(self) -> None:
        """The output is written; a signal ends what may be left, threads of the call's, say."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def ignore(self) -> None:
        """From here on the output is being written; the kill that follows a signal is soon enough.

        The pipe still hears of one.
        """
        signal.signal(signal.SIGINT, _hear)
        signal.signal(signal.SIGTERM, _hear)


def is_signal(exc: BaseException) -> bool:
    """Whether this is what the worker makes of a signal, and not the call's own."""
    return _Interruption.has_raised(exc)


def _hear(signum: int, frame: FrameType | None) -> None:
    """Nothing is to be done at once."""


def _forget_wakeup_fd() -> None:
    signal.set_wakeup_fd(-1)


def _was_told_to_end(exc: BaseException | None) -> bool:
    """Whether a call has failed because a child or a job step of its was ended by SIGTERM."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        state: dict[str, Any] = BaseException.__getattribute__(exc, "__dict__")
        if state.get("returncode") in _TOLD_TO_END:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


class ArrayFile:
    """An open array file: its manifest, and what there is of the task that was chosen."""

    def __init__(self, path: str):
        try:
            self.fd = os.open(path, os.O_RDONLY)
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
        footer = os.pread(self.fd, FOOTER_BYTES, max(0, size - FOOTER_BYTES))
        if not footer.endswith(ARRAY_MAGIC):
            raise Stop(EXIT_NO_ARRAY, f"{path} is cut short or no array file of format {FORMAT}")
        self._path = path
        self._index, self._count, manifest, self._first = unpack_numbers(
            footer[: -len(ARRAY_MAGIC)]
        )
        self._manifest = (manifest, size - FOOTER_BYTES - manifest)
        self._row: list[int] = []

    def choose(self, task: int) -> None:
        self._row = unpack_numbers(self.rows(task, 1))

    def rows(self, task: int, count: int) -> bytes:
        """Of so many tasks. Raises: Stop."""
        number = task - self._first
        if not 0 <= number <= number + count <= self._count:
            raise Stop(EXIT_NO_ARRAY, f"{self._path} has no task {task}")
        return self.read(self._index + number * ROW_BYTES, count * ROW_BYTES)

    def close(self) -> None:
        os.close(self.fd)

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
        return self.read(*self._row[4:6]).decode() if self._row[5] else None


def node_name() -> str:
    return os.uname().nodename


def _leave_if_nobody_waits(run_directory: str, task: int, submission: int, job_id: str) -> None:
    """Leaves without a claim, and says so to a client that may come back."""
    why = why_nobody_waits(run_directory)
    if not why:
        return
    shard = shard_path(run_directory, task)
    mark = os.path.join(shard, left_name(task, submission))
    try:
        make_shard(shard)
        with open(os.open(mark, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(f"{job_id}\n{node_name()}\n{time.time()}\n")
    except OSError:  # the client could not tell why: the claim will say what is wrong
        return
    raise Stop(0, f"{why}: task {task} is not begun")


def why_nobody_waits(run_directory: str) -> str:
    """Empty where the client's heart beats, or where there is no telling."""
    path = os.path.join(run_directory, HEARTBEAT)
    why = ""
    for attempt in range(3):
        try:
            if attempt:
                time.sleep(_REREAD_S)
            now = _time_of_the_file_server(f"{path}.seen") if attempt else time.time()
            with open(path) as file:
                silence = now - os.fstat(file.fileno()).st_mtime
                host, pid, _, limit = file.read().splitlines()
            if silence <= float(limit):
                return ""
        except (OSError, ValueError):  # it wants none, or it can't be read
            return ""
        why = (
            f"nothing was heard of the client (process {pid} on {host}) for {silence:.0f} s, longer than "
            f"client_timeout_s = {float(limit):g} s"
        )
    return why


def _time_of_the_file_server(prefix: str) -> float:
    """The modification time of a file that is made there: clocks of nodes may be wrong."""
    path = f"{prefix}.{node_name()}.{os.getpid()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
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
    shard = shard_path(run_directory, task)
    path = os.path.join(shard, claim_name(task, submission, restart))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            make_shard(shard)
            fd = os.open(path, flags, 0o600)
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
            os.unlink(os.path.join(shard, interrupted_name(task)))
        except OSError:
            pass
    for name, why in (
        # Before the next: the client notes that an output was taken before it deletes that.
        (output_name(task), "already has its output"),
        (closed_name(task, submission), "was given to another job"),
    ):
        if os.path.exists(os.path.join(shard, name)):
            raise Stop(0, f"task {task} {why}")
    why = _why_over(shard, task)
    if why:
        raise Stop(0, f"task {task} {why}")
    return owner


def _why_over(shard: str, task: int) -> str:
    """What the client has noted of a task that is over; empty where it has not."""
    try:
        with open(over_path(shard)) as file:
            lines = file.readlines()
    except FileNotFoundError:
        return ""
    return next((line.partition(" ")[2] for line in lines if line.startswith(f"{task} ")), "").strip()


def _check_array_is_there(array_file: str, claim: str) -> None:
    """After the claim: when an array is done its file goes first, then all that the claim is checked against.

    By opening: what `stat` says of a file on NFS may be seconds old.
    """
    try:
        os.close(os.open(array_file, os.O_RDONLY))
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
    set_path(manifest)


def set_path(manifest: dict[str, Any]) -> None:
    """Looks for modules where the client does."""
    if sys.prefix == manifest["prefix"]:
        sys.path[:] = manifest["sys_path"]
    else:  # another environment keeps its own packages; it gets what the user added to the client's
        theirs = tuple(os.path.join(p, "") for p in (manifest["prefix"], manifest["base_prefix"]))
        sys.path[:0] = [
            entry
            for entry in manifest["sys_path"]
            if entry not in sys.path and not os.path.join(entry, "").startswith(theirs)
        ]


class Main:
    """The client's main module, imported here once under its import name."""

    def __init__(self, manifest: dict[str, Any]):
        self._description: tuple[str, str, bool] | None = manifest["main"]
        if self._description is not None and self._description[2]:
            self.load()

    def load(self) -> None:
        """Imports the script; `__main__` and `__mp_main__` name it from here on."""
        if self._description is None:
            return
        name, path, _ = self._description
        self._description = None
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == path:
            module = sys.modules[name]
            sys.modules["__main__"] = sys.modules["__mp_main__"] = module
            return
        if name in sys.modules:
            name = "__mp_main__"
        from importlib.machinery import ModuleSpec, SourceFileLoader

        loader = SourceFileLoader(name, path)
        module = ModuleType(name)
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


def load_initializer(run_directory: str, main: Main) -> Callable[[], object]:
    """What is to be called once in a process, before its first call. Raises: whatever unpickling does."""
    from functools import partial

    with open(os.path.join(run_directory, INITIALIZER), "rb") as file:
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
    try:
        return pickle.dumps(value, PICKLE_PROTOCOL)
    except Exception as plain_error:
        try:
            import cloudpickle
        except ImportError:
            raise plain_error from None
        by_value: Any = cloudpickle
        return by_value.dumps(value, PICKLE_PROTOCOL)


def _exception_pickle(exc: BaseException) -> bytes:
    """The second pickle of a failure; empty where nothing of the exception can be pickled."""
    errors = sys.modules.get("cluster_tools.errors")
    try:
        if errors is not None and isinstance(exc, errors.RemoteException):
            return _dumps(exc)
        args: tuple[Any, ...] = BaseException.__getattribute__(exc, "args")
        state = exception_state(exc)
        try:
            return _dumps((type(exc), args, state))
        except Exception:
            args = tuple(map(_picklable, args))
            state = {name: _picklable(value) for name, value in state.items()}
            return _dumps((type(exc), args, state))
    except Exception:
        return b""


def _picklable(value: Any) -> Any:
    """`value`, or its text where it can't be pickled."""
    try:
        _dumps(value)
        return value
    except Exception:
        try:
            return repr(value)
        except Exception:
            return f"<{type(value).__name__}>"


def failure_bytes(exc: BaseException, frames_to_hide: int = 0, note: str = "") -> bytes:
    """The output of a failed call: the pickled pair (False, traceback text), then the exception.

    `note`: what the text ends with.
    """
    import traceback

    tb = exc.__traceback__
    for _ in range(frames_to_hide):
        tb = tb.tb_next if tb is not None else None
    try:
        text = "".join(traceback.format_exception(type(exc), exc, tb))
    except Exception:  # a __str__ or __getattr__ that raises must not cost the failure
        frames = "".join(traceback.format_tb(tb))
        text = f"{frames}{type(exc).__name__} (its text could not be formatted)\n"
    return pickle.dumps((False, text + note), PICKLE_PROTOCOL) + _exception_pickle(exc)


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
        stored: tuple[int, int] | None = None,
    ) -> None:
        """`stored`: the fingerprint of the output that is in the output store; this file only says so."""
        path = os.path.join(self._shard, name)
        temporary = f"{path}.{node_name()}.{os.getpid()}.tmp"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(fd, "wb") as file:
                dump(file)
                size = file.tell()
                record = pickle.dumps(
                    {**self._record, "end": time.time(), "stored": stored, **_usage()},
                    PICKLE_PROTOCOL,
                )
                file.write(record + pack_numbers(size, len(record)) + OUTPUT_MAGIC)
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
    try:
        pickle.dump((True, result), file, PICKLE_PROTOCOL)
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
        raise pickle.PicklingError(
            f"the result, of type {type(result).__name__}, can't be pickled: "
            f"{type(exc).__name__}: {exc}"
        ) from None


def _deliver_result(
    result: object, output: OutputFile, name: str, keep: Callable[..., None] | None
) -> None:
    if keep is None:
        output.write(name, lambda file: dump_result(result, file))
    else:
        pickled = pickled_result(result)
        keep(pickled, success=True)
        output.write(name, lambda file: None, stored=fingerprint(pickled))


def _deliver_failure(
    failure: bytes, output: OutputFile, name: str, keep: Callable[..., None] | None
) -> None:
    if keep is not None:
        try:
            keep(failure, success=False)
        except Exception as exc:  # the failure itself still reaches the client below
            print(f"cluster_tools: the store did not take the failure: {exc!r}", file=sys.stderr)
    output.write(name, lambda file: file.write(failure))


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


def _run(arguments: list[str], interruption: _Interruption) -> None:
    array_file, tasks, submission, index, restart, job_id, log_file = arguments
    run_directory = os.path.dirname(array_file)
    task = task_at(tasks, int(index))
    array = ArrayFile(array_file)
    array.choose(task)
    if not int(restart):  # else it may have begun before: that is not left to nobody
        _leave_if_nobody_waits(run_directory, task, int(submission), job_id)
    owner = _claim(run_directory, task, int(submission), int(restart), job_id)
    shard = shard_path(run_directory, task)
    claim = claim_name(task, int(submission), int(restart))
    _check_array_is_there(array_file, os.path.join(shard, claim))
    if not owner == os.fstat(array.fd).st_uid == os.stat(run_directory).st_uid:
        raise Stop(
            EXIT_REFUSED,
            f"{array_file} belongs to another user than the one this job runs as: not unpickled",
        )
    record: dict[str, Any] = {
        "start": time.time(),
        "node": node_name(),
        "job_id": job_id,
        "restart": int(restart),
        "oom_kills_before": oom_kills(),
    }
    output = OutputFile(shard, record)
    running.run_directory, running.job_id, running.restart = run_directory, job_id, int(restart)
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
        main = running.main = Main(manifest)
        _set_up_logging(manifest["logging"], main, log_file)
        key = array.key()
        if key is not None:
            from functools import partial

            keep = partial(main.unpickle(manifest["output_store"]).write, key)
        if manifest["initializer"]:
            note = INITIALIZER_NOTE
            load_initializer(run_directory, main)()
            note = ""
        function = main.unpickle(array.function())
        args, kwargs = main.unpickle_from(array.call())
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
        failure = failure_bytes(exc, frames_to_hide=1, note=note)
        is_signal = interruption.has_raised(exc)
        if manifest is not None and _was_told_to_end(exc):
            notice_s = manifest["notice_s"]
    flush()
    if failure is None:
        try:
            _deliver_result(result, output, output_name(task), keep)
            return
        except Exception as exc:  # it can't be pickled, or there is no room for it
            failure = failure_bytes(exc)
    else:
        signum = interruption.received()
        if signum is None and notice_s:
            print(
                f"cluster_tools: the call has lost a child to SIGTERM; if the job is next, it is within {notice_s:g} s",
                file=sys.stderr,
            )
            signum = interruption.await_signal(notice_s)
        if signum is not None:
            if is_signal:  # no failure of the call's: where it was may still help
                _say(pickle.loads(failure)[1])
            else:
                output.write(interrupted_name(task), lambda file: file.write(failure))
            raise Stop(128 + signum, f"task {task} was ended by a signal")
    _deliver_failure(failure, output, output_name(task), keep)


def end_forked_copy(pid: int, code: int) -> None:
    """A process that the call has forked and that has come back here has no output to write."""
    if os.getpid() != pid:
        flush()
        os._exit(code)


def _end_soon() -> None:
    """What the call has left behind (threads, exit functions) does not keep the job: nobody waits for it.

    But executors do that wait for their own jobs.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        process_wide = sys.modules.get("cluster_tools.cluster.process_wide")
        if process_wide is not None and process_wide.has_sessions():
            signal.alarm(LINGER_S)
            return
        print(
            "cluster_tools: what the call has left behind still runs; the job ends", file=sys.stderr
        )
        flush()
        os._exit(0)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(LINGER_S)


def _say(text: str) -> None:
    """Into the log, where the call has left us one."""
    try:
        sys.stderr.write(text)
    except Exception:
        pass


def flush() -> None:
    """What the call printed is in the log before its future is done."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def main(arguments: list[str]) -> int:
    import faulthandler

    faulthandler.enable()  # a segmentation fault leaves its Python stack in the log
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    interruption = _Interruption()
    try:
        _run(arguments, interruption)
    except Stop as stop:
        _say(f"cluster_tools: {stop}\n")
        return stop.code
    except OSError as exc:
        gone = " (its executor has ended)" if isinstance(exc, FileNotFoundError) else ""
        print(f"cluster_tools: the output could not be written{gone}: {exc}", file=sys.stderr)
        return EXIT_OUTPUT_NOT_WRITTEN
    finally:
        interruption.restore()
        _end_soon()
    return 0
