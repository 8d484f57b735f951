"""Functions that the tests of the pool send to its workers."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.waiting import wait_until

initialized_with: Any = None


def initialize(value: Any) -> None:
    global initialized_with
    initialized_with = value


def initialized() -> Any:
    return initialized_with


def process_id(_: object = None) -> int:
    return os.getpid()


def start_method(_: object = None) -> str:
    return multiprocessing.get_start_method()


def log(name: str, level: int, message: str) -> None:
    logging.getLogger(name).log(level, message)


def log_exception() -> None:
    try:
        raise KeyError("in a worker")
    except KeyError:
        logging.getLogger().exception("caught")


def wait_for(path: Path) -> str:
    wait_until(path.exists, str(path))
    return path.name


def log_after(path: Path) -> None:
    wait_for(path)
    logging.getLogger().warning("after %s", path.name)


def die(code: int = 3) -> None:
    os._exit(code)


def send(connection: Any, message: str) -> None:
    connection.send(message)


def send_under(lock: Any, connection: Any) -> None:
    with lock:
        connection.send(1)


def modules(_: object = None) -> list[str]:
    return list(sys.modules)


def append_line(path: str, number: int) -> int:
    """Writes a line; each call is one that can be counted."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return number


def append_line_and_fail_at_sevens(path: str, number: int) -> int:
    append_line(path, number)
    if number % 7 == 0:
        raise SystemExit(number) if number % 2 else ValueError(number)
    return number


def append_line_and_wait_at(waiting: int, gate: str, path: str, number: int) -> int:
    append_line(path, number)
    if number == waiting:
        wait_for(Path(gate))
    return number


def open_and_wait(opens: int, waits: int, gate: str, number: int) -> int:
    """The call `opens` opens the gate at which the call `waits` waits."""
    if number == opens:
        Path(gate).touch()
    if number == waits:
        wait_for(Path(gate))
    return number


def touch_after_the_one_before(directory: str, slow: int, number: int) -> int:
    if number:
        wait_for(Path(directory, str(number - 1)))
    if number == slow:
        time.sleep(0.5)
    Path(directory, str(number)).touch()
    return number


def append_line_slowly(path: str, number: int) -> int:
    time.sleep(0.001)
    return append_line(path, number)


def hold_the_interpreter_at(place: int, fifo: str, kind: str, number: int) -> Any:
    """At `place`, no thread of this process runs until somebody writes to `fifo`."""
    if number == place:
        descriptor = os.open(fifo, os.O_RDWR)  # to open it waits for nobody
        ctypes.PyDLL(None).read(descriptor, ctypes.create_string_buffer(1), 1)
        os.close(descriptor)
    return outcome_of_kind(kind, number)


def append_line_and_hold_at(place: int, fifo: str, path: str, number: int) -> int:
    append_line(path, number)
    return hold_the_interpreter_at(place, fifo, "plain", number)


def outcome_of_kind(kind: str, number: int) -> Any:
    return {
        "plain": number,
        "object": [number],
        "large plain": str(number) * 50_000,
        "large object": [str(number)] * 50_000,
    }[kind]


def append_to(numbers: list[int]) -> int:
    numbers.append(1)
    return len(numbers)


_returned: list[int] = []


def grow(number: int) -> list[int]:
    """Returns the same list each time, one longer."""
    _returned.append(number)
    return _returned


def list_length(numbers: list[int]) -> int:
    return len(numbers)


class Counter:
    """A function with a state."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, _: object) -> int:
        self._count += 1
        return self._count


class OneWay:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _refuse_to_return, ()


def _refuse_to_return() -> None:
    raise ValueError("this pickle does not load")


def odd_result(number: int) -> Any:
    """At 5 what refuses to be pickled, at 9 what refuses to be unpickled."""
    return {5: threading.Lock, 9: OneWay}.get(number, int)()


def refuse_from(first: int, number: int) -> int:
    if number >= first:
        raise ValueError(number)
    return number


def wait_and_die_at(last: int, gate: Path, number: int) -> int:
    if number == last:
        wait_for(gate)
        die()
    return number


class KnownRecord(logging.LogRecord):
    pass


def log_beside_killed_children(count: int) -> int:
    """Kills a child in the middle of its logging, so many times, and logs itself."""
    for _ in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            while True:
                logging.getLogger("child").warning("y" * 20_000)
                os.write(writer, b"1")
        os.read(reader, 1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        logging.getLogger("own").warning("own%s", "z" * 100_000)
    return count


def log_in_threads(count: int) -> None:
    logger = logging.getLogger("threads")
    threads = [
        threading.Thread(target=logger.warning, args=("%d %s", i, "t" * (40 * i)))
        for i in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def leave_a_logging_child() -> int:
    """Returns its process id."""
    pid = os.fork()
    if not pid:
        while True:
            logging.getLogger("left").warning("l" * 10_000)
    return pid


def fail_to_initialize(message: str) -> None:
    raise ValueError(message)


def return_second(_: object, second: object) -> object:
    return second


class Parent:
    """Carries much; its children refer back to it."""

    def __init__(self) -> None:
        self.children = [Child(self) for _ in range(50)]
        self.carried = os.urandom(10_000_000)

    def is_parent_of(self, child: Child) -> bool:
        return child.parent is self


class Child:
    def __init__(self, parent: Parent) -> None:
        self.parent = parent
