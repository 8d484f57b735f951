"""A disk that shows late what others have written, as an NFS client's cache does: a FUSE
pass-through.

    python3 late_disk.py BEHIND MOUNT_POINT LATE_S [--drops-cache]

MOUNT_POINT shows what is in BEHIND. An entry that was made there by somebody else does not exist
here until it is LATE_S seconds old, neither in a list nor by its name. With --drops-cache a change
of a directory through MOUNT_POINT shows at once all that is in that directory. Ends when it is
unmounted.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import fusepy  # pyright: ignore[reportMissingImports]


class LateDisk(fusepy.Operations):  # pyright: ignore[reportUnknownMemberType, reportUntypedBaseClass]
    use_ns = True

    def __init__(self, behind: str, late_s: float, *, drops_cache: bool) -> None:
        self._behind = behind
        self._late_ns = int(late_s * 1e9)
        self._drops_cache = drops_cache
        # (device, inode) of what has been shown or was made here: it does not vanish again.
        self._shown: set[tuple[int, int]] = set()
        # When each directory was last changed from here.
        self._changed_ns: dict[str, int] = {}

    def __call__(self, op: str, path: str | None, *arguments: Any) -> Any:
        """Whatever is asked of a path: only if it is shown. FUSE itself asks for parents first."""
        if path is not None and path != "/" and op not in ("create", "mkdir"):
            self._check(path)
        return getattr(self, op)(path, *arguments)

    def _real(self, path: str) -> str:
        return self._behind + path

    def _check(self, path: str) -> None:
        """Raises: OSError, where the entry is not to be seen yet."""
        status = os.lstat(self._real(path))
        identity = status.st_dev, status.st_ino
        if identity in self._shown:
            return
        is_old = status.st_ctime_ns + self._late_ns <= time.time_ns()
        changed_ns = self._changed_ns.get(os.path.dirname(path), 0)
        if not is_old and not (self._drops_cache and status.st_ctime_ns <= changed_ns):
            raise FileNotFoundError(errno.ENOENT, "not seen yet", path)
        self._shown.add(identity)

    def _change(self, path: str) -> None:
        """The directory of this entry has been changed from here."""
        self._changed_ns[os.path.dirname(path)] = time.time_ns()

    def _show(self, path: str) -> None:
        """This entry was made here."""
        status = os.lstat(self._real(path))
        self._shown.add((status.st_dev, status.st_ino))
        self._change(path)

    # -- directories --

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        yield from (".", "..")
        for name in os.listdir(self._real(path)):
            try:
                self._check(os.path.join(path, name))
            except FileNotFoundError:
                continue
            yield name

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._real(path), mode)
        self._show(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._real(path))
        self._change(path)

    def unlink(self, path: str) -> None:
        self._forget(path)
        os.unlink(self._real(path))
        self._change(path)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._real(old), self._real(new))
        self._change(old)
        self._show(new)

    def _forget(self, path: str) -> None:
        """Its inode's number may become another file's."""
        status = os.lstat(self._real(path))
        self._shown.discard((status.st_dev, status.st_ino))

    # -- files --

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        status = os.lstat(self._real(path))
        names = ("mode", "nlink", "uid", "gid", "size", "blocks")
        attributes = {f"st_{name}": getattr(status, f"st_{name}") for name in names}
        for name in ("atime", "mtime", "ctime"):
            attributes[f"st_{name}"] = getattr(status, f"st_{name}_ns")
        return attributes

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._real(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._real(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        now_ns = time.time_ns()
        os.utime(self._real(path), ns=times or (now_ns, now_ns))

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._real(path), length)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        # What somebody else has made meanwhile is found out here: the server decides.
        fd = os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self._show(path)
        return fd

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, content: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, content, offset)

    def flush(self, path: str, fh: int) -> None:
        pass

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)


def main(behind: str, mount_point: str, late_s: str, *options: str) -> None:
    disk = LateDisk(behind, float(late_s), drops_cache="--drops-cache" in options)
    # The kernel asks for everything, each time.
    no_cache: dict[str, Any] = dict.fromkeys(
        ("attr_timeout", "entry_timeout", "negative_timeout"), 0
    )
    fusepy.FUSE(  # pyright: ignore[reportUnknownMemberType]
        disk, mount_point, foreground=True, nothreads=True, direct_io=True, **no_cache
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
