"""The calls of programs that two pools run: all that they come to is in their outcomes."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_LIMIT_S = 60.0

_initialized_with: int | None = None


def initialize(number: int) -> None:
    global _initialized_with
    _initialized_with = number


def fail_to_initialize() -> None:
    raise ValueError("the initializer fails")


def run(kind: str, number: int = 0) -> Any:
    return KINDS[kind](number)


def call(kind: str) -> tuple[Any, ...]:
    """The arguments of `submit`."""
    if kind == "argument that can't be pickled":
        return run, kind, threading.Lock()
    return run, kind


def wait_for(gate: str) -> str:
    deadline = time.monotonic() + _LIMIT_S
    while not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.01)
    return "open"


class OwnError(Exception):
    def __init__(self, number: int, *, word: str = ""):
        super().__init__(number)
        self.word = word


def _raise(error: BaseException) -> Any:
    raise error


def _raise_with_cause(number: int) -> Any:
    try:
        return 1 / 0
    except ZeroDivisionError as error:
        raise OwnError(number, word="late") from error


def _slow(number: int) -> int:
    time.sleep(1.0)
    return number


def _hold_the_interpreter(number: int) -> int:
    ctypes.PyDLL(None).usleep(300_000)
    return number


KINDS: dict[str, Callable[[int], Any]] = {
    "value": lambda number: number * number,
    "large": lambda number: bytes(1 << 20),
    "none": lambda number: None,
    "initialized": lambda number: _initialized_with,
    "error": lambda number: _raise(OwnError(number)),
    "error with a cause": _raise_with_cause,
    "KeyError": lambda number: {}[number],
    "OSError": lambda number: os.open("/no/such/file", os.O_RDONLY),
    "StopIteration": lambda number: next(iter(())),
    "TimeoutError": lambda number: _raise(TimeoutError(number)),
    "KeyboardInterrupt": lambda number: _raise(KeyboardInterrupt()),
    "sys.exit": lambda number: sys.exit(number),
    "result that can't be pickled": lambda number: threading.Lock(),
    "argument that can't be pickled": lambda number: number,
    "slow": _slow,
    "holds the interpreter": _hold_the_interpreter,
}
