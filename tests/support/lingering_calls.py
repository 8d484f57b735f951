"""Calls that leave something behind in their process."""

from __future__ import annotations

import atexit
import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from support.waiting import wait_until

# As one that does not return, but for tests.
_LONG_S = 600


def leave_a_thread() -> int:
    threading.Thread(target=threading.Event().wait, args=(_LONG_S,)).start()
    return 7


def leave_an_exit_function() -> int:
    atexit.register(threading.Event().wait, _LONG_S)
    return 7


def leave_a_spinning_thread() -> int:
    def spin() -> None:
        while True:
            pass

    threading.Thread(target=spin).start()
    return 7


def leave_a_child() -> int:
    get_context("fork").Process(target=time.sleep, args=(_LONG_S,)).start()
    return 7


def leave_a_command() -> int:
    subprocess.Popen(["sleep", str(_LONG_S)])
    return 7


def leave_an_idle_executor() -> int:
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    # Its thread waits for work, and the thread left behind keeps it from being told to end.
    return leave_a_thread()


def _hang_in_c() -> None:
    ctypes.CDLL(None).sleep(_LONG_S)


def _hang_in_c_and_let_no_python_run() -> None:
    ctypes.PyDLL(None).sleep(_LONG_S)


def hang_in_c_at_exit() -> int:
    atexit.register(_hang_in_c)
    return 7


def hang_in_c_at_exit_and_let_no_python_run() -> int:
    atexit.register(_hang_in_c_and_let_no_python_run)
    return 7


def leave_a_daemon_thread() -> int:
    threading.Thread(target=threading.Event().wait, args=(_LONG_S,), daemon=True).start()
    return 7


LEAVING: list[Callable[[], int]] = [
    leave_a_thread,
    leave_an_exit_function,
    leave_a_spinning_thread,
    leave_an_idle_executor,
    hang_in_c_at_exit,
]


def touch_late(path: Path) -> None:
    """Beyond the patience for what a call leaves behind."""
    threading.Event().wait(1.5)
    path.touch()


def leave_work_for_threads(directory: Path) -> int:
    pool = ThreadPoolExecutor(1)
    pool.submit(touch_late, directory / "first")
    pool.submit(touch_late, directory / "late")
    return 7


def leave_work_for_processes(directory: Path) -> int:
    ProcessPoolExecutor(1, get_context("fork")).submit(touch_late, directory / "late")
    return 7


def note_and_leave_a_thread(directory: Path, number: int = 0) -> int:
    (directory / f"pid{number}").write_text(str(os.getpid()))
    return leave_a_thread()


def write_at_exit(path: Path) -> int:
    """As a library does that has something to finish."""

    def finish() -> None:
        threading.Event().wait(0.2)
        path.touch()

    atexit.register(finish)
    return 7


def leave_a_nested_executor(new_executor: Callable[..., Any], directory: Path) -> int:
    new_executor(directory / "nested", max_workers=1, keep_logs=False).submit(
        touch_late, directory / "late"
    )
    return 7


def wait_for(path: Path) -> str:
    wait_until(path.exists, str(path))
    return path.name
