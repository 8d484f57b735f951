"""The stores in which outputs of calls are kept: their base class, and one of files.

Knows keys and bytes, no calls and no jobs. Jobs import it, so it imports little (`-X importtime`
shows what an addition costs).
"""

import os
from abc import ABC, abstractmethod

from cluster_tools import own_files

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class OutputStore(ABC):
    """Holds outputs of calls: pickled pairs `(True, result)` or `(False, traceback text)`.

    A key has at most one output, the one that was written last. A store is pickled into jobs, so it
    must be picklable, and refer to the same place in another process on another machine. Its
    methods are called from several threads.
    """

    @abstractmethod
    def default_key(self, job_id: str) -> str:
        """The key for the output of a call for which the caller named none."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, success: bool) -> None:
        """Stores an output; called in the job.

        Arguments:
            key: As `resolve_key` returned it.
            data: The pickled pair.
            success: Whether it is a result. A store must distinguish the two kinds, since a result
                may be used again later, but a failure may not.

        Raises:
            OSError: The output may not be stored. `poll` must see no part of it.
        """

    @abstractmethod
    def poll(self, keys: "Iterable[str]") -> set[str]:
        """Those of `keys` that have an output, of either kind."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The output of `key`, of either kind. Raises: any exception, where there is none."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes the output of `key`, of either kind, if there is one."""

    def resolve_key(self, key: str) -> str:
        """The caller's key in a form that means the same in the job; called at submission."""
        return key


class FileOutputStore(OutputStore):
    """Holds outputs in files; a key is a path.

    A result is in `<key>`, a failure in `<key>.preliminary`: if there is a file `<key>`, it is a
    result.

    Arguments:
        directory: Where outputs under default keys go. Default: the run directory, on clusters.
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
        # In the same directory, since a rename works within one file system only. Not the name with
        # something added, since names have a greatest length.
        temporary_path = os.path.join(os.path.dirname(path), f".{os.urandom(12).hex()}.tmp")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            # With quotas or NFS, only fsync and close report that there was no space.
            with open(temporary_path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _remove(other_path)  # first, else both would be there for a moment
            os.replace(temporary_path, path)
        except BaseException:
            _remove(temporary_path)
            raise

    def poll(self, keys: "Iterable[str]") -> set[str]:
        """See `OutputStore.poll`. Raises: OSError, where the disk fails."""
        is_there = own_files.is_there
        return {key for key in keys if is_there(key) or is_there(self._failure_path(key))}

    def read(self, key: str) -> bytes:
        return self._read(key, None)

    def read_own(self, key: str, owners: "Collection[int]") -> bytes:
        """Like `read`. Raises: NotOurs, if the file does not belong to one of these uids."""
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
