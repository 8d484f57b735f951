"""Functions that the tests of the pool send to its workers."""

from __future__ import annotations

import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

from waiting import wait_until

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
