"""Named pipes, by which the processes of one machine wake each other.

    NamedPipe: waits for messages <--message-- send()

A named pipe has a path in a directory that several machines may see, but its messages stay inside
one kernel. So a message reaches processes of the same machine only. `send` says whether one reads
there. All others look at the directory from time to time. For the same reason a message is only
a hint that something has changed: what has changed is in files. A message that is lost costs time.

Imports the standard library only, since jobs import this.
"""

from __future__ import annotations

import _thread
import os
import stat

# Longer messages could be mixed with others; POSIX allows no smaller value of PIPE_BUF.
MAX_MESSAGE_BYTES = 512
_READ_BYTES = 1 << 16
# Windows lacks most of these, and named pipes.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC"))


class NamedPipe:
    """The reading end of a named pipe. Any thread may call its methods.

    Raises: OSError, if the file system has no named pipes.
    """

    def __init__(self, path: str):
        self._path = path
        self._lock = _thread.allocate_lock()
        try:
            os.mkfifo(path, 0o600)
        except AttributeError as exc:  # Windows
            raise OSError("there are no named pipes here") from exc
        self._fd: int | None = None
        try:
            self._open()
        except OSError:
            os.unlink(path)
            raise

    def _open(self) -> None:
        # Also for writing: otherwise it would be readable for ever once a writer has closed it.
        fd = _above_standard_streams(os.open(self._path, os.O_RDWR | _FLAGS))
        status = os.fstat(fd)
        if not stat.S_ISFIFO(status.st_mode):
            os.close(fd)
            raise OSError(f"{self._path} is no named pipe any more")
        self._fd, self._identity = fd, (status.st_dev, status.st_ino)

    def fd(self) -> int | None:
        """The descriptor to wait for until it is readable; None after `close`.

        Opens the pipe again if somebody has closed the descriptor, as calls in this process may do.
        Raises: OSError, if the pipe is gone.
        """
        with self._lock:
            if self._fd is not None and _identity(self._fd) != self._identity:
                self._open()
            return self._fd

    def read(self) -> bytes:
        """Returns all messages that have arrived, one after the other; does not wait."""
        with self._lock:
            if self._fd is None or _identity(self._fd) != self._identity:
                return b""
            try:
                return os.read(self._fd, _READ_BYTES)
            except OSError:  # nothing in it
                return b""

    def close(self) -> None:
        """Removes the pipe."""
        with self._lock:
            if self._fd is None:
                return
            if _identity(self._fd) == self._identity:
                os.close(self._fd)
            self._fd = None
        try:
            os.unlink(self._path)
        except OSError:  # the directory is gone, or goes soon
            pass


def _above_standard_streams(fd: int) -> int:
    """Moves the descriptor to a number above 2: calls write to those up to 2, whatever they are."""
    if fd > 2:
        return fd
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def send(path: str, message: bytes, *, owner: int | None) -> bool:
    """Sends a message of at most MAX_MESSAGE_BYTES; never waits.

    `owner`: the uid that the pipe must belong to; None: any.
    Returns: whether a process of this machine reads the pipe. If the pipe is full, it has enough
    messages to wake its reader, and this one is dropped.
    """
    fds: list[int] = []
    try:
        fds.append(os.open(path, os.O_WRONLY | _FLAGS))  # fails if nobody reads in this kernel
        status = os.fstat(fds[0])
        if not stat.S_ISFIFO(status.st_mode) or owner not in (status.st_uid, None):
            return False
        # A reader of our own: the other may end before we write, and then SIGPIPE would come.
        fds.append(os.open(path, os.O_RDONLY | _FLAGS))
        if _identity(fds[1]) != (status.st_dev, status.st_ino):
            return False
        os.write(fds[0], message)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True
