"""Functions and classes that the tests send to workers and jobs."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cluster_tools
from support.waiting import wait_until


def square(number: int) -> int:
    return number * number


def named_arguments(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


def given_back(value: Any) -> Any:
    return value


def touch(path: Path) -> str:
    path.touch()
    return path.name


def touch_and_wait(paths: tuple[Path, Path]) -> str:
    """Touches the first, and waits until there is the second, the gate."""
    started, gate = paths
    started.touch()
    wait_until(gate.exists, str(gate))
    return started.name


def exists(path: Path) -> bool:
    return path.exists()


def spin(cpu_s: float) -> None:
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass


def fill(megabytes: int) -> int:
    return len(b"x" * (megabytes << 20))


def raise_refusal(code: int) -> None:
    raise Refusal(code, reason="it refuses")


def refuse_odd(number: int) -> int:
    if number % 2:
        raise Refusal(number, reason="it is odd")
    return number


def refuse_three(number: int) -> int:
    if number == 3:
        raise Refusal(number, reason="it is three")
    return number


class Refusal(Exception):
    """Its constructor takes other arguments than `args` has."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"refused with {code}: {reason}")
        self.code = code


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


def raise_slotted(code: int) -> None:
    raise Slotted(code)


class Locked(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def raise_locked() -> None:
    raise Locked


class OneWay:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_return, ()


def _refuse_to_return() -> None:
    raise ValueError("this pickle does not load")


class OneWayError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_return, ()


def return_one_way() -> OneWay:
    return OneWay()


def raise_one_way() -> None:
    raise OneWayError("lost")


def return_lock() -> Any:
    return threading.Lock()


def leave() -> None:
    sys.exit(3)


def log_and_print(word: str) -> str:
    logging.getLogger("conformance").warning("logged %s", word)
    print(f"printed {word}")
    return word


class Weakly(list[int]):
    """A list to which there can be weak references."""


def make_weakly(number: int) -> Weakly:
    return Weakly([number])


def length(items: list[int]) -> int:
    return len(items)


def process_id(_: int) -> int:
    return os.getpid()


class DirectoryStore(cluster_tools.OutputStore):
    """A store that is no FileOutputStore: a directory per key."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def default_key(self, job_id: str) -> str:
        return f"default-{job_id}"

    def write(self, key: str, data: bytes, *, success: bool) -> None:
        directory = self.root / key
        directory.mkdir(exist_ok=True)
        temporary = directory / "temporary"
        temporary.write_bytes(data)
        temporary.rename(directory / ("result" if success else "failure"))

    def poll(self, keys: Any) -> set[str]:
        return {key for key in keys if self._files(key)}

    def read(self, key: str) -> bytes:
        return self._files(key)[0].read_bytes()

    def delete(self, key: str) -> None:
        for file in self._files(key):
            file.unlink()

    def _files(self, key: str) -> list[Path]:
        return [path for path in (self.root / key).glob("*e*") if path.name != "temporary"]


class UnreadableStore(DirectoryStore):
    """Keeps outputs, and cannot read them again."""

    def read(self, key: str) -> bytes:
        raise ValueError("of another version")


def kept(path: Path) -> Any:
    """The pair that a kept output is."""
    return pickle.loads(path.read_bytes())
