"""What a round may not leave: threads, descriptors, processes, files. It knows no executor."""

from __future__ import annotations

import os
import threading
from pathlib import Path

OUR_THREADS = "cluster_tools"
# In the environment of a round, and of all that it starts.
TOKEN = "FUZZ_ROUND"


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(OUR_THREADS)]


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, and what each leads to."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing itself
            pass
    return found


def new_descriptors(before: dict[int, str]) -> list[tuple[int, str]]:
    return [(fd, what) for fd, what in descriptors().items() if before.get(fd) != what]


def children() -> list[str]:
    """Child processes of this one, also those that have ended and were not waited for."""
    found: list[str] = []
    for thread in os.listdir("/proc/self/task"):
        try:
            pids = Path(f"/proc/self/task/{thread}/children").read_text().split()
        except OSError:
            continue
        found += [f"{pid}: {_words(int(pid))}" for pid in pids]
    return found


def processes(token: str) -> dict[int, str]:
    """The command lines of all processes of the round but this one, by pid."""
    mark = f"{TOKEN}={token}".encode()
    found: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found[int(name)] = _words(int(name))
    return found


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return "gone"


def files(directory: Path, keeps_logs: bool) -> list[str]:
    """The files in an executor's directory, without logs that it may leave."""
    if not directory.exists():
        return []
    return [
        str(path.relative_to(directory))
        for path in sorted(directory.rglob("*"))
        if not (keeps_logs and path.name.endswith(".log.stdout"))
    ]
