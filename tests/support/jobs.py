"""Functions and classes that tests on clusters send to jobs."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.waiting import wait_until


def run(step: Callable[[], Any]) -> Any:
    """What an array of different steps has for a function."""
    return step()


def square(number: int) -> int:
    return number * number


def square_after(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number * number


def reciprocal(number: int) -> float:
    return 1 / number


def node_once_open(paths: tuple[Path, Path]) -> str:
    touch_and_wait(paths)
    return socket.gethostname()


def environment(name: str) -> str | None:
    return os.environ.get(name)


def working_directory() -> str:
    return os.getcwd()


def interpreter() -> str:
    return sys.executable


def imported(module: str, name: str) -> Any:
    """What a function of a module returns."""
    return getattr(importlib.import_module(module), name)()


def module_path() -> list[str]:
    return sys.path


def say(word: str) -> str:
    print(word)
    return word


def log(word: str, level: int = logging.WARNING) -> None:
    logging.getLogger("jobs").log(level, word)


def log_debug(word: str) -> None:
    log(word, logging.DEBUG)


def say_nothing() -> None:
    pass


def say_wait_say(gate: Path) -> int:
    print("before")
    wait_until(gate.exists, str(gate))
    print("after")
    return 17


def say_and_fail(word: str) -> float:
    print(word)
    return 1 / 0


def touch(path: Path) -> str:
    path.touch()
    return path.name


def touch_beside(path: Path, _: Any) -> str:
    return touch(path)


def touch_and_wait(paths: tuple[Path, Path]) -> str:
    """Touches the first, and waits until there is the second, the gate."""
    started, gate = paths
    started.touch()
    wait_until(gate.exists, str(gate))
    return started.name


def wait_for(path: Path) -> str:
    wait_until(path.exists, str(path))
    return path.name


def wait_minutes_for(path: Path) -> str:
    """For faults that take longer than anything a test may wait for."""
    deadline = time.monotonic() + 300
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return path.name


def note_run_and_wait_long(runs: Path) -> None:
    with runs.open("a") as file:
        file.write("run\n")
    threading.Event().wait(600)


def note_run_and_wait(runs: Path, gate: Path) -> int:
    """Adds a line to `runs` and returns how many there are once there is `gate`."""
    with runs.open("a") as file:
        file.write("run\n")
    wait_until(gate.exists, str(gate))
    return len(runs.read_text().splitlines())


def clean_up_when_interrupted(started: Path, cleaned: Path) -> None:
    try:
        started.touch()
        threading.Event().wait(600)
    finally:
        cleaned.touch()


def wait_long(started: Path) -> None:
    started.touch()
    threading.Event().wait(600)


def ignore_interrupts_and_wait(started: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_long(started)


def allocate(megabytes: int) -> int:
    return len(bytearray(os.urandom(1 << 20) * megabytes))


def lose_a_child_to_memory(megabytes: int) -> int:
    """Returns the child's exit status, a negative signal."""
    hog = f"import os; len(bytearray(os.urandom(1 << 20) * {megabytes}))"
    return subprocess.run([sys.executable, "-c", hog], check=False).returncode


def fail_with_a_child_out_of_memory(megabytes: int) -> None:
    raise ValueError(lose_a_child_to_memory(megabytes))


def return_bytes_after(gate: Path, count: int) -> bytes:
    wait_until(gate.exists, str(gate))
    return bytes(count)


def return_bytes(count: int) -> bytes:
    return os.urandom(count)


# -- during faults ---------------------------------------------------------------------------------


def exit_at(path: Path) -> None:
    """Ends its process once there is `path`, which may take minutes."""
    wait_minutes_for(path)
    os._exit(3)


def stay_on_node(directory: Path) -> str:
    """Returns the node's name once there is `gate.<node>`; says `started` and `finished`
    likewise.
    """
    node = socket.gethostname()
    (directory / f"started.{node}").touch()
    wait_minutes_for(directory / f"gate.{node}")
    (directory / f"finished.{node}").touch()
    return node


def note_pid_and_wait_long(pid: Path) -> None:
    pid.with_suffix(".new").write_text(str(os.getpid()))
    pid.with_suffix(".new").rename(pid)
    threading.Event().wait(600)


def fail_with_a_step(runs: Path) -> int:
    """In its first run all that it does is a job step's, whose failure is its own."""
    first = not runs.exists()
    _note_run(runs)
    if first:
        subprocess.run(["srun", "--overlap", "--mem=0", "sleep", "600"], check=True)
    return len(runs.read_text().splitlines())


def check_command(command: list[str]) -> None:
    subprocess.run(command, check=True)


def end_child_at_sigterm(runs: Path) -> int:
    """In its first run it has a child, which it ends when it is told to end, and fails as the child
    does.
    """
    first = not runs.exists()
    with subprocess.Popen(["sleep", "600" if first else "0"]) as child:

        def end_child(signum: int, frame: object) -> None:
            child.terminate()

        signal.signal(signal.SIGTERM, end_child)
        _note_run(runs)
        if child.wait():
            raise RuntimeError(f"the child ended with {child.returncode}")
    return len(runs.read_text().splitlines())


def run_and_note(step: Callable[[], Any], runs: Path, name: str) -> Any:
    """Runs the step. Adds a line first: its name, its job, how often Slurm has restarted that, its
    node and when it began.
    """
    job, restarts = (os.environ.get(f"SLURM_{what}", "0") for what in ("JOB_ID", "RESTART_COUNT"))
    line = f"{name} {job} {restarts} {socket.gethostname()} {time.time():.3f}\n"
    file = os.open(runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
    return step()


def _note_run(runs: Path) -> None:
    with runs.open("a") as file:
        file.write("run\n")


# -- ways to fail ----------------------------------------------------------------------------------


def sys_exit() -> None:
    sys.exit(3)


def exit_at_once(code: int) -> None:
    os._exit(code)


def raise_text(text: str) -> None:
    raise ValueError(text)


def os_exit() -> None:
    os._exit(3)


def os_exit_at_two(number: int) -> int:
    if number == 2:
        os._exit(3)
    return number


def segmentation_fault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell_itself_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(600)


def return_lock() -> Any:
    return threading.Lock()


class OneWay:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


def refuse_to_load() -> None:
    raise ValueError("this pickle does not load")


class SlowToLoad:
    """An argument whose unpickling touches one file and waits for another, as slow imports do."""

    def __init__(self, started: Path, gate: Path) -> None:
        self._paths = started, gate

    def __reduce__(self) -> tuple[Any, ...]:
        return touch_and_wait, (self._paths,)


def return_one_way() -> OneWay:
    return OneWay()


class OneWayError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


class OneWayArgument(Exception):
    """Its only argument can be pickled, and not unpickled."""

    def __init__(self) -> None:
        super().__init__(OneWay())


class LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class OtherArguments(Exception):
    """Its constructor takes other arguments than `args` has."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} with {code}")
        self.code = code


class NeedsKeyword(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__("keyword only")
        self.code = code


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class OwnError(Exception):
    """Has an `error` and a `job_id` that are not ours."""

    def __init__(self) -> None:
        super().__init__("own error")
        self.error = "its own"
        self.job_id = 17


class Final(Exception):
    """Refuses subclassing."""

    def __init_subclass__(cls) -> None:
        raise TypeError("Final has no subclasses")


class OwnText(Exception):
    def __str__(self) -> str:
        return "its own text"


class TextFails(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_one_way() -> None:
    raise OneWayError("lost")


def raise_one_way_argument() -> None:
    raise OneWayArgument


def raise_locked() -> None:
    raise LockedError


def raise_other_arguments() -> None:
    raise OtherArguments(7, reason="refused")


def raise_needs_keyword() -> None:
    raise NeedsKeyword(code=7)


def raise_slotted() -> None:
    raise Slotted(7)


def raise_own_error() -> None:
    raise OwnError


def raise_final() -> None:
    raise Final("final")


def raise_own_text() -> None:
    raise OwnText("ignored")


def raise_text_fails() -> None:
    raise TextFails("ignored")


def raise_os_error() -> None:
    raise PermissionError(13, "denied", "/somewhere")


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def raise_with_cause() -> None:
    try:
        {}["absent"]  # type: ignore[index]
    except KeyError as error:
        raise ValueError("with a cause") from error


def raise_group() -> None:
    raise ValueError("several", [1, 2])


def recurse() -> None:
    recurse()
