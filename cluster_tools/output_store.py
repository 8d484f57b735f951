"""Where the outputs of calls are put and found again.

Knows keys and bytes, nothing of calls or jobs. Every job imports it, so it imports next to
nothing (`-X importtime` shows what an addition costs).
"""

import os
from abc import ABC, abstractmethod

from cluster_tools import own_files

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class OutputStore(ABC):
    """Holds the outputs of calls: the pickled pairs `(True, result)` or `(False, traceback)`.

    A key has at most one output, the one written last. A store is pickled into the jobs, and
    so must be picklable and must mean the same in another process on another machine. Its
    methods are called from several threads.
    """

    @abstractmethod
    def default_key(self, job_id: str) -> str:
        """The key for the output of a call for which the caller named none."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, success: bool) -> None:
        """Puts an output there; called in the job.

        Arguments:
            key: As `resolve_key` gave it.
            data: The pickled pair.
            success: Whether it is a result. A store tells the two kinds apart, because a
                result may be used again later and a failure may not.

        Raises:
            OSError: It is not known to be stored. No part of it may be seen by `poll`.
        """

    @abstractmethod
    def poll(self, keys: "Iterable[str]") -> set[str]:
        """Those of `keys` that have an output, of either kind."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The output of `key`, of either kind. Raises an exception where there is none."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes the output of `key`, of either kind. There may be none."""

    def resolve_key(self, key: str) -> str:
        """The form of a caller's key that means the same in the job; called at submission."""
        return key


class FileOutputStore(OutputStore):
    """Holds outputs in files; a key is a path.

    A result is in `<key>`, a failure in `<key>.preliminary`, so that whoever finds the file
    `<key>` can take it for a result.

    Arguments:
        directory: Where default keys lie. The cluster executors have one of their own.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.directory = None if directory is None else os.fspath(directory)

    def default_key(self, job_id: str) -> str:
        if self.directory is None:
            raise ValueError("FileOutputStore() has no directory, so it has no default keys")
        return os.path.join(self.directory, f"cfut.out.{job_id}.pickle")

    def write(self, key: str, data: bytes, *, success: bool) -> None:
        failure_path = self._failure_path(key)
        path, other_path = (key, failure_path) if success else (failure_path, key)
        # In the same directory, since a rename stays within one file system. Not a longer
        # version of the name, which may have the greatest length already.
        temporary_path = os.path.join(os.path.dirname(path), f".{os.urandom(12).hex()}.tmp")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            # Where quotas or NFS are involved, only fsync and close say that there was space.
            with open(temporary_path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _remove(other_path)  # first, or `read` could find it while both are there
            os.replace(temporary_path, path)
        except BaseException:
            _remove(temporary_path)
            raise

    def poll(self, keys: "Iterable[str]") -> set[str]:
        """See `OutputStore.poll`. Raises `OSError` where the disk does not answer."""
        is_there = own_files.is_there
        return {key for key in keys if is_there(key) or is_there(self._failure_path(key))}

    def read(self, key: str) -> bytes:
        return self._read(key, None)

    def read_own(self, key: str, owners: "Collection[int]") -> bytes:
        """Like `read`; raises `NotOurs` if the file does not belong to one of these uids."""
        return self._read(key, owners)

    def _read(self, key: str, owners: "Collection[int] | None") -> bytes:
        try:
            fd = own_files.open_own(key, owner=None)
        except FileNotFoundError:
            fd = own_files.open_own(self._failure_path(key), owner=None)
        with open(fd, "rb") as file:
            owner = os.fstat(fd).st_uid
            if owners is not None and owner not in owners:
                raise own_files.NotOurs(f"{key} belongs to the user {owner}: not read")
            return file.read()

    def delete(self, key: str) -> None:
        _remove(key)
        _remove(self._failure_path(key))

    def resolve_key(self, key: str) -> str:
        """The absolute path: the job may run in another directory."""
        return os.path.abspath(key)

    @staticmethod
    def _failure_path(key: str) -> str:
        return f"{key}.preliminary"


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
