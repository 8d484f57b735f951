"""Creates `cfut_dir`, and refuses a directory in which other users could replace files.

A user who may write to a directory can rename its entries, and so can replace a run directory or a
log. `cluster_tools.own_files` checks each file when it is read. The check in this module tells the
user about the problem before any call runs.
"""

from __future__ import annotations

import os
import shlex
import stat

_ROOT = 0


class UnsafeDirectory(PermissionError):
    """Other users could replace the executor's files in this directory."""


def make(cfut_dir: str) -> None:
    """Creates the directory with mode 0700, unless it exists. Raises: OSError."""
    parent = os.path.dirname(cfut_dir)
    os.makedirs(parent, exist_ok=True)
    try:
        os.mkdir(cfut_dir, 0o700)
    except FileExistsError:
        if not os.path.isdir(cfut_dir):
            raise


def check(cfut_dir: str, owner: int, *, trust_group: bool) -> None:
    """Checks who may write to `cfut_dir`.

    `owner`: the uid that the executor's own files have there. `trust_group`: whether the
    directory's group may write to it.
    Raises: UnsafeDirectory, whose message says how to repair it; OSError.
    """
    status = os.stat(cfut_dir)
    quoted = shlex.quote(cfut_dir)
    is_sticky = bool(status.st_mode & stat.S_ISVTX)
    if status.st_uid != owner and not (status.st_uid == _ROOT and is_sticky):
        raise UnsafeDirectory(
            f"cfut_dir {cfut_dir} belongs to {_user_name(status.st_uid)}, who could have code run "
            "as you: give a directory of your own as cfut_dir, or one that does not exist yet"
        )
    if is_sticky:
        return
    if status.st_mode & stat.S_IWOTH:
        raise UnsafeDirectory(
            f"everybody may write to cfut_dir {cfut_dir}, and so could have code run as you. "
            f"To forbid it: chmod o-w {quoted}"
        )
    if status.st_mode & stat.S_IWGRP and not (trust_group or _is_only_ours(status.st_gid, owner)):
        raise UnsafeDirectory(
            f"the group {_group_name(status.st_gid)} may write to cfut_dir {cfut_dir}, and so "
            f"could have code run as you. To forbid it: chmod g-w {quoted}; or, if you trust "
            "everybody in that group, say trust_group=True"
        )


def _is_only_ours(gid: int, uid: int) -> bool:
    """Whether this is the user's private group, which has the user as its only member."""
    import grp
    import pwd

    try:
        group, name = grp.getgrgid(gid), pwd.getpwuid(uid).pw_name
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def _user_name(uid: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"the user {uid}"


def _group_name(gid: int) -> str:
    import grp

    try:
        return f"{grp.getgrgid(gid).gr_name} ({gid})"
    except KeyError:
        return str(gid)
