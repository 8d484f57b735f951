"""Opens, finds and removes files that must belong to our user, for the client and its jobs.

Whoever may write to `cfut_dir` can replace a run directory by something else. So each file in it is
first opened, and then its owner is checked. Links are not followed, and opening never blocks.

The functions distinguish a missing file from one of which nothing is known: other errors than "no
such file" are raised. Imports the standard library only, since jobs import this first.
"""

from __future__ import annotations

import os
import stat

# O_NONBLOCK: a FIFO in the place of a file would block; for regular files it changes nothing. Of
# these, Windows has O_BINARY alone.
_SAFE_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY")
)


class NotOurs(Exception):
    """There is something else than a regular file of our user; nothing of it was read."""


def open_own(path: str, flags: int = os.O_RDONLY, *, owner: int | None) -> int:
    """Opens a regular file and returns its descriptor. A new file gets mode 0600.

    `owner`: the uid that the file must belong to: that of the run directory when we made it, not
    `getuid()`, since a file server may map users. None: any, where the caller checks it later or
    trusts nothing in the file.
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
    """The entries of a directory; none if it does not exist. Raises: OSError, for other errors."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def is_there(path: str) -> bool:
    """Whether a file exists, also as a link. Raises: OSError, where that is unknown."""
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
    """Device and inode, which identify a directory; None where they are unknown."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_gone(path: str) -> bool:
    """Whether a file certainly does not exist; False where that is unknown."""
    try:
        return not is_there(path)
    except OSError:
        return False
