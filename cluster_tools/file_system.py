"""Says what kind of file system a directory is on, and how late it shows files.

Knows Linux' /proc/mounts, nothing else of the machine.
"""

from __future__ import annotations

import os

# File systems of one machine, which show a write to all processes at once.
_LOCAL_TYPES = {"apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}
# How late a file that another process or machine has written may become visible. An NFS client may
# show an old listing for 60 s.
_LATE_FILES_LOCALLY_S = 1.0
_LATE_FILES_REMOTELY_S = 120.0


def file_system_type(directory: str) -> str:
    """The type of the file system with `directory`, by its name in /proc/mounts; "": unknown."""
    best, kind = "", ""
    try:
        with open("/proc/mounts") as mounts:
            for line in mounts:
                _, mount_point, file_system, *_ = line.split()
                inside = f"{directory}/".startswith(f"{mount_point.rstrip('/')}/")
                if inside and len(mount_point) >= len(best):
                    best, kind = mount_point, file_system
    except (OSError, ValueError):
        return ""
    return kind


def shows_files_at_once(directory: str) -> bool:
    """Whether processes see each other's writes without delay; False where that is unknown."""
    return file_system_type(os.path.realpath(directory)) in _LOCAL_TYPES


def late_files_s(directory: str) -> float:
    """How many seconds late a file that another machine has written there may become visible."""
    return _LATE_FILES_LOCALLY_S if shows_files_at_once(directory) else _LATE_FILES_REMOTELY_S


def drop_cached_entries(directory: str) -> None:
    """Changes the directory, so that an NFS client drops its cache of the entries."""
    try:
        path = os.path.join(directory, f"probe.{os.urandom(4).hex()}")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(path)
    except OSError:
        pass  # no such directory yet, or a full disk; to open a file asks the server, too


def is_on_one_machine_only(directory: str) -> bool:
    """Whether the nodes of a cluster probably do not see this directory."""
    directory = os.path.realpath(directory)
    return file_system_type(directory) == "tmpfs" or f"{directory}/".startswith(
        ("/tmp/", "/dev/shm/")
    )
