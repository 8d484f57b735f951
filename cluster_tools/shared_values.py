"""Reads shared values, in the processes that run calls: what their handles become there.

    pickle of a call: load_shared(path, owner) ---> value of this process <--- at most once --- file

A process reads a file once, at the first call that uses it, and maps its buffers read-only: the
kernel keeps one copy of their pages for all processes of a node. What it has read it keeps as long
as the file is there. `cluster_tools.sharing` is the client's side, which writes the files.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import threading
import time
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from cluster_tools import own_files
from cluster_tools.file_system import drop_cached_entries, late_files_s
from cluster_tools.format import shared

# While a file is waited for, it is looked for again after the first of these times, then after
# twice as long, up to the second.
_FIRST_INTERVAL_S = 0.02
_LONGEST_INTERVAL_S = 1.0
# How many values to check, whenever another one is read, for whether their files are still there.
# More than one, so that those that are gone do not become ever more.
_CHECKED_FOR_EACH_READ = 2


class _Value:
    """A shared value of this process. `lock` guards the other two."""

    def __init__(self) -> None:
        # Reentrant: a value may be made by a thread that the garbage collector interrupts.
        self.lock = threading.RLock()
        self.is_read = False
        self.value: Any = None


# By the file's path; those that were checked last stand last.
_values: dict[bytes, _Value] = {}
_values_lock = threading.RLock()


def load_shared(path: bytes, owner: int) -> Any:
    """The value in the file `path`, read at the first call for it in this process. Thread-safe.

    A file that is not there yet is waited for, as long as its file system may show it late.

    `owner`: the uid that the file must belong to, as the process that wrote it sees it.
    Raises: FileNotFoundError, where it does not come, or its executor has ended; OSError; NotOurs;
    whatever unpickling does.
    """
    with _values_lock:
        value = _values.get(path)
        is_new = value is None
        if value is None:
            value = _values[path] = _Value()
    if is_new:
        _forget_removed()
    with value.lock:
        if not value.is_read:
            try:
                value.value = _read(os.fsdecode(path), _owner_seen_here(path, owner))
            except BaseException:
                forget_shared(path)
                raise
            value.is_read = True
        return value.value


def forget_shared(path: bytes) -> None:
    """Drops what this process has read of the file, as nobody will ask for it again."""
    with _values_lock:
        value = _values.pop(path, None)
    del value  # after the lock was released: it may run code


def _forget_removed() -> None:
    """Drops values whose files are gone: nobody asks for those again."""
    with _values_lock:
        read = (path for path, value in _values.items() if value.is_read)
        oldest = list(islice(read, _CHECKED_FOR_EACH_READ))
    for path in oldest:
        if own_files.is_gone(os.fsdecode(path)):
            forget_shared(path)
            continue
        with _values_lock:
            value = _values.pop(path, None)
            if value is not None:
                _values[path] = value


def _renew_locks() -> None:
    """In a forked child: other threads of its parent may have held locks, and will not release."""
    global _values_lock
    _values_lock = threading.RLock()
    for path, value in list(_values.items()):
        if value.is_read:
            value.lock = threading.RLock()
        else:
            del _values[path]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _worker_of(path: bytes) -> Any:
    """The module `job.worker`, where this process is a job of the executor with this file."""
    worker: Any = sys.modules.get("cluster_tools.job.worker")
    run_directory = os.path.dirname(os.path.dirname(os.fsdecode(path)))
    is_of_its_run = worker is not None and worker.running.run_directory == run_directory
    return worker if is_of_its_run else None


def _owner_seen_here(path: bytes, owner: int) -> int:
    """The owner as this machine sees it: a file server may show machines different users."""
    worker = _worker_of(path)
    return owner if worker is None or worker.running.owner is None else worker.running.owner


class _Opened(NamedTuple):
    """The open file of a value."""

    file: BinaryIO
    # Where its pickle begins.
    offset: int
    buffer_count: int


def _read(path: str, owner: int) -> Any:
    file, offset, buffer_count = _opened(path, owner)
    with file:
        buffers: list[memoryview] = []
        if buffer_count:
            index_bytes = buffer_count * shared.ROW_BYTES
            file.seek(-shared.FOOTER_BYTES - index_bytes, os.SEEK_END)
            memory = memoryview(_mapped(file))
            places = shared.decode_index(file.read(index_bytes), offset)
            buffers = [memory[begin : begin + length] for begin, length in places]
        file.seek(offset)
        worker = _worker_of(os.fsencode(path))
        if worker is not None and worker.running.main is not None:
            return worker.running.main.unpickle_from(file, buffers)
        return pickle.load(file, buffers=buffers)


def _mapped(file: BinaryIO) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        # Else the mapping keeps a descriptor, of which a process may have too few.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _opened(path: str, owner: int) -> _Opened:
    """Opens the file, and waits for one that is late. Raises: OSError; NotOurs."""
    began = time.monotonic()
    late_s: float | None = None
    pause_s = _FIRST_INTERVAL_S
    run_directory = os.path.dirname(os.path.dirname(path))
    while True:
        opened = _opened_now(path, owner)
        if not isinstance(opened, str):
            return opened
        if own_files.is_gone(run_directory):
            raise FileNotFoundError(
                f"the shared value {path} is gone, or {run_directory} is not on a disk that this "
                f"machine ({_host_name()}) sees: a call can use it while the executor that shared "
                "it is open, on machines that share its directory"
            )
        if late_s is None:
            late_s = late_files_s(run_directory)
        waited_s = time.monotonic() - began
        if waited_s > late_s:
            raise FileNotFoundError(
                f"the shared value {path} {opened} on {_host_name()}, after {waited_s:.0f} s: "
                "either nobody has its handle any more, and no open call was submitted with it, or "
                "this machine does not see what the client writes: cfut_dir has to be on a disk "
                "that both share"
            )
        time.sleep(min(pause_s, late_s))
        pause_s = min(2 * pause_s, _LONGEST_INTERVAL_S)
        drop_cached_entries(os.path.dirname(path))


def _opened_now(path: str, owner: int) -> _Opened | str:
    """The file; or else why it can't be read yet. Raises: OSError; NotOurs."""
    try:
        fd = own_files.open_own(path, owner=owner)
    except FileNotFoundError:
        return "is not there"
    file = open(fd, "rb")  # noqa: SIM115 - the caller closes it
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - shared.FOOTER_BYTES))
        return _Opened(file, *shared.decode_footer(file.read(), size))
    except ValueError as exc:  # NFS may show the end of a file later than its name
        file.close()
        return str(exc)
    except BaseException:
        file.close()
        raise


def _host_name() -> str:
    import socket

    return socket.gethostname()
