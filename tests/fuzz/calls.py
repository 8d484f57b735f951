"""The calls of the fuzzers. Each notes that it begins, in one write: the model goes by that.

It knows the standard library only, and nothing of who calls it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LARGE_BYTES = 3 << 20
# For a call that has to be there still when somebody cancels it.
LONG_S = 5.0


@dataclass(frozen=True)
class Call:
    """`notes`: the file that all calls of a round write to. `kind`: a key of `KINDS`."""

    number: int
    kind: str
    notes: str


class OneWay:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


def refuse_to_load() -> None:
    raise ValueError("this pickle does not load")


class Refused(Exception):
    """What calls of the kind `raise` raise."""


def run(call: Call, payload: object = None) -> Any:
    """What is submitted; `payload` is for the way only."""
    note(call, "began")
    result = KINDS[call.kind](call)
    note(call, "ended")
    return result


def note(call: Call, what: str) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    line = f"{call.number} {what} {time.monotonic()} {os.getpid()} {limit}\n"
    fd = os.open(call.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def value_of(call: Call) -> Any:
    """What the call returns where nothing comes in between."""
    if call.kind == "large":
        return bytes([call.number % 251]) * (LARGE_BYTES + call.number)
    return call.number * call.number + 1


def _sleep(call: Call) -> Any:
    time.sleep(call.number * 37 % 80 / 100)
    return value_of(call)


def _sleep_long(call: Call) -> Any:
    time.sleep(LONG_S)
    return value_of(call)


def _print(call: Call) -> Any:
    for line in range(call.number % 200):
        print(f"call {call.number}, line {line}: äöü", flush=line % 7 == 0)
    os.write(2, b"no newline at the end")
    return value_of(call)


def _raise(call: Call) -> Any:
    raise Refused(call.number)


def _exit(call: Call) -> Any:
    sys.exit(3)


def _exit_at_once(call: Call) -> Any:
    os._exit(3)


def _kill_itself(call: Call) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _fork(call: Call) -> Any:
    """The child outlives the call, and by a little its job."""
    if os.fork() == 0:
        time.sleep(0.3)
        os._exit(0)
    return value_of(call)


def _leave_thread(call: Call) -> Any:
    threading.Thread(target=time.sleep, args=(0.3,)).start()
    return value_of(call)


def _return_lock(call: Call) -> Any:
    return threading.Lock()


def _return_one_way(call: Call) -> Any:
    return OneWay()


KINDS: dict[str, Callable[[Call], Any]] = {
    "return": value_of,
    "large": value_of,
    "large argument": value_of,
    "argument that can't be pickled": value_of,
    "argument that can't be unpickled": value_of,
    "sleep": _sleep,
    "sleep long": _sleep_long,
    "print": _print,
    "raise": _raise,
    "sys.exit": _exit,
    "os._exit": _exit_at_once,
    "kill -9": _kill_itself,
    "fork": _fork,
    "leave a thread": _leave_thread,
    "result that can't be pickled": _return_lock,
    "result that can't be unpickled": _return_one_way,
}


def payload_of(call: Call) -> Any:
    if call.kind == "large argument":
        return bytes(LARGE_BYTES)
    if call.kind == "argument that can't be pickled":
        return threading.Lock()
    if call.kind == "argument that can't be unpickled":
        return OneWay()
    return None
