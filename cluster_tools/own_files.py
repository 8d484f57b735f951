"""Files that only our user may have made, as the client and its jobs open and look for them.

Whoever may write to `cfut_dir` may put something else in the place of a run directory. So what is read
there is asked, once it is open, whose it is; no link is followed, and nothing that could block is opened.

An error is no answer: what can't be listed or found raises, and only what the file system says is missing
is missing. Standard library only: jobs import this first.
"""

from __future__ import annotations

import os
import stat

# A FIFO in a file's place would hold up whoever opens it; of a regular file the flag changes nothing.
_SAFE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)


class NotOurs(Exception):
    """Something lies there that our user has not made; nothing was read of it."""


def open_own(path: str, flags: int = os.O_RDONLY, *, owner: int | None) -> int:
    """Opens a regular file and returns its descriptor; what it makes is 0600.

    `owner`: the uid that its directory had when we made it (not `getuid()`: a file server may give our
    files to another); None, where whoever has made it is found out by what is opened.
    Raises: NotOurs; OSError.
    """
    try:
        fd = os.open(path, flags | _SAFE_FLAGS, 0o600)
    except OSError as exc:
        if os.path.islink(path):
            raise NotOurs(f"{path} is a link: it is not followed") from exc
        raise
    try:
        check_own(fd, path, owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_own(fd: int, path: str, owner: int | None) -> None:
    """Raises: NotOurs, where this is no regular file of that user; OSError."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise NotOurs(f"{path} is no regular file")
    if owner is not None and status.st_uid != owner:
        raise NotOurs(f"{path} belongs to the user {status.st_uid}, and not to {owner}")


def listed(directory: str) -> list[str]:
    """Its entries; none where there is no such directory. Raises: OSError, where there is no telling."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def is_there(path: str) -> bool:
    """Raises: OSError, where there is no telling."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def identity(path: str) -> tuple[int, int] | None:
    """What a path leads to, to be compared with what it has led to before; None where there is no telling."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_gone(path: str) -> bool:
    """Whether it is known not to be there."""
    try:
        return not is_there(path)
    except OSError:
        return False
