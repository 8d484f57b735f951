"""Says what kind of file system a directory is on. Knows Linux' /proc/mounts, nothing else."""

from __future__ import annotations

import os

# File systems of one machine, which show a write to all processes at once.
_LOCAL_TYPES = {"apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}


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


def is_on_one_machine_only(directory: str) -> bool:
    """Whether the nodes of a cluster probably do not see this directory."""
    directory = os.path.realpath(directory)
    return file_system_type(directory) == "tmpfs" or f"{directory}/".startswith(
        ("/tmp/", "/dev/shm/")
    )
