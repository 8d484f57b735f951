"""Opens, looks for and removes files that have to be our user's, for the client and its jobs.

Whoever may write to `cfut_dir` can put something else in the place of a run directory. So each file
that is read there is opened first and then asked who owns it. No link is followed, and nothing that
could block is opened.

Functions here tell "missing" from "can't be told": only what the file system says is missing is
missing, other errors are raised. Standard library only: jobs import this first.
"""

from __future__ import annotations

import os
import stat

# Without O_NONBLOCK a FIFO in a file's place would block; for regular files it changes nothing.
# Windows has O_BINARY alone.
_SAFE_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY")
)


class NotOurs(Exception):
    """Something lies there that is not our user's file; nothing of it was read."""


def open_own(path: str, flags: int = os.O_RDONLY, *, owner: int | None) -> int:
    """Opens a regular file and returns its descriptor; what it makes is 0600.

    `owner`: the uid that the file has to have. It is the one that the run directory had when we
    made it, not `getuid()`, since a file server may give our files to another user. None: any,
    where the caller checks it later or trusts nothing in the file.
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
    """Its entries; none where there is no such directory. Raises: OSError, of any other kind."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def is_there(path: str) -> bool:
    """Whether it exists, also as a link. Raises: OSError, where that can't be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def unlink(path: str) -> bool:
    """Removes a file that may be gone already. Returns: False where it stays."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def identity(path: str) -> tuple[int, int] | None:
    """Device and inode, by which a directory is known again; None where they can't be told."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_gone(path: str) -> bool:
    """Whether it is known not to exist. False where that can't be told."""
    try:
        return not is_there(path)
    except OSError:
        return False
