"""Values that the calls of an executor share (`executor.share`): their handles and their files.

    client                                          disk         process that runs calls
    share(value) -- pickle, and its buffers ------> shared/<n>
    handle, in the pickle of a call --------------------------> load_shared: reads the file, once
                                                                the value, in place of the handle

A handle is pickled as a call of `load_shared`. So it becomes the value wherever it is in a call: as
an argument, in containers, partials, closures and defaults. A file is there as long as its handle
is: the caller has that, and each open call that was submitted with it (`Uses`). Equal values have
one handle, and so one file. Knows pickles and files, no executors.
"""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from types import TracebackType
from typing import Any, TypeVar, cast

from cluster_tools import own_files, pickling
from cluster_tools.format import shared
from cluster_tools.function_name import exception_text, type_name
from cluster_tools.shared_values import forget_shared, load_shared

_T = TypeVar("_T")

_DIGEST_BYTES = 32
# Parts of a file that are smaller are written together.
_WRITE_AT_ONCE_BYTES = 1 << 20


class Shared:
    """The handle of a shared value: in a call it stands for the value, here it is small.

    `SharedFiles.share` makes it. Copies of a handle are the handle itself.
    """

    __slots__ = ("__weakref__", "_description", "_files", "_parts", "path")

    def __init__(
        self, files: SharedFiles, path: str, description: str, parts: Sequence[Shared]
    ) -> None:
        """`parts`: the handles that are in the value."""
        self._files = files
        self.path = path
        self._description = description
        self._parts = parts

    @property
    def value(self) -> Any:
        """The value as calls get it: its arrays are mapped, and read-only.

        Raises: FileNotFoundError, once the executor has ended; whatever unpickling does.
        """
        return load_shared(os.fsencode(self.path), self._files.owner)

    def is_of(self, files: SharedFiles | None) -> bool:
        """Whether it was shared by the executor with these files."""
        return self._files is files

    def __reduce__(self) -> tuple[Any, ...]:
        # In a forked child nothing is known of the executor. There its file decides.
        if not self._files.is_of_parent:
            uses = _pickling.uses
            if uses is not None:
                uses.add(self)
            elif self._files.is_closed:
                raise RuntimeError(f"the executor of this {self!r} has ended")
        return load_shared, (os.fsencode(self.path), self._files.owner)

    def __copy__(self) -> Shared:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self

    def __repr__(self) -> str:
        return f"<shared {self._description}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle, copy and inspect ask for such
            raise AttributeError(name)
        raise AttributeError(
            f"{self!r} has no attribute {name!r}: what `share` returns stands for the value in "
            "calls of its executor; here use the value that you have shared"
        )


class SharedFiles(ABC):
    """The shared values of one executor, a file each in a directory of their own."""

    def __init__(self) -> None:
        self._directory: str | None = None
        # The uid that the files have. A file server may map users, so getuid() may differ.
        self.owner = 0
        # The executor has ended.
        self.is_closed = False
        # Files stay until the directory is removed, by somebody else: jobs go on without us.
        self.keeps_files = False
        self._pid = os.getpid()
        self._next = 0
        # By a digest of the file. Values that are equal, and pickle the same, have one handle.
        self._handles: weakref.WeakValueDictionary[bytes, Shared] = weakref.WeakValueDictionary()
        # One value at a time is written. Reentrant: the garbage collector may run any code.
        self._lock = threading.RLock()

    @abstractmethod
    def _make_directory(self) -> str:
        """Makes the directory, in one that is gone when the executor is. Returns: its path.

        Called when the first value is shared. Raises: OSError.
        """

    @property
    def is_of_parent(self) -> bool:
        """Whether this process is a forked child: then the executor belongs to its parent."""
        return self._pid != os.getpid()

    def share(self, value: _T) -> _T:
        """Writes the value, unless one that pickles the same is shared. Returns: its handle.

        Raises: pickle.PicklingError; OSError, where there is no room for it; RuntimeError, where
        the executor has ended.
        """
        if isinstance(value, Shared) and value.is_of(self):
            return cast(_T, value)
        if self.is_of_parent:
            raise RuntimeError(
                "this executor belongs to the process that this one was forked from; make another"
            )
        self._check_open()
        parts = Uses(self)
        what = f"value of type {type_name(value)}"
        try:
            with parts:
                pickled, buffers = pickling.dump_with_buffers(value)
        except Exception as exc:
            raise pickle.PicklingError(
                f"The {what} can't be shared, as it can't be pickled: {exception_text(exc)}"
            ) from exc
        digest, size = blake2b(digest_size=_DIGEST_BYTES), 0
        for part in shared.encode(pickled, buffers):
            digest.update(part)
            size += len(part)
        with self._lock:
            handle = self._handles.get(digest.digest())
            if handle is None:
                what = f"{what}, {size:,} bytes"
                path = self._write(shared.encode(pickled, buffers), what)
                handle = Shared(self, path, what, parts.handles)
                self._handles[digest.digest()] = handle
                weakref.finalize(handle, self._remove, path).atexit = False
        return cast(_T, handle)

    def close(self) -> None:
        """The executor has ended, and with it the directory: no value is shared any more."""
        self.is_closed = True
        for handle in list(self._handles.values()):
            forget_shared(os.fsencode(handle.path))

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError("cannot share a value after shutdown")

    def _write(self, parts: Iterable[bytes | memoryview], what: str) -> str:
        """Writes these parts to a new file. Returns: its path. Raises: OSError; RuntimeError."""
        temporary = None
        try:
            if self._directory is None:
                directory = self._make_directory()
                self.owner = os.lstat(directory).st_uid
                self._directory = directory
            path = os.path.join(self._directory, str(self._next))
            self._next += 1
            temporary = f"{path}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            fd = own_files.open_own(temporary, flags, owner=self.owner)
            try:
                _write_all(fd, parts)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except BaseException as exc:
            if temporary is not None:
                own_files.unlink(temporary)
            if not isinstance(exc, OSError):
                raise
            self._check_open()
            raise OSError(
                exc.errno,
                f"{exc.strerror}: the {what}, can't be shared; TMPDIR or cfut_dir says where",
                exc.filename or temporary,
            ) from exc
        return path

    def _remove(self, path: str) -> None:
        """Called once nobody has the handle any more."""
        if not self.is_of_parent and not self.keeps_files:
            forget_shared(os.fsencode(path))
            own_files.unlink(path)


def _write_all(fd: int, parts: Iterable[bytes | memoryview]) -> None:
    """Raises: OSError."""
    # Not by a file object: a child that is forked meanwhile would write its buffer, too.
    small: list[bytes | memoryview] = []
    small_bytes = 0
    for part in parts:
        if len(part) < _WRITE_AT_ONCE_BYTES:
            small.append(part)
            small_bytes += len(part)
            if small_bytes < _WRITE_AT_ONCE_BYTES:
                continue
            part = b""
        _write_part(fd, b"".join(small))
        small, small_bytes = [], 0
        _write_part(fd, part)
    _write_part(fd, b"".join(small))


def _write_part(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class Uses:
    """The handles that calls of one executor use, found while these calls are pickled.

        uses = Uses(files)
        with uses:
            pickled = ...
        uses.keep_until_done(futures)

    `files`: the executor's. Handles of other executors are refused while it is entered.
    """

    def __init__(self, files: SharedFiles) -> None:
        self.handles: list[Shared] = []
        self._files = files
        self._outer: Uses | None = None

    def __enter__(self) -> None:
        self._outer, _pickling.uses = _pickling.uses, self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        _pickling.uses, self._outer = self._outer, None

    def add(self, handle: Shared) -> None:
        """Called when a handle is pickled. Raises: RuntimeError, if it is not of this executor."""
        if not handle.is_of(self._files):
            raise RuntimeError(
                f"this {handle!r} is another executor's: share the value with the executor that "
                "runs the call"
            )
        if handle not in self.handles[-1:]:
            self.handles.append(handle)

    def keep_until_done(self, futures: Sequence[Future[Any]]) -> None:
        """Keeps the handles that were found, and so their files, until all these are done."""
        if self.handles:
            kept = _Kept(self.handles, len(futures))
            for future in futures:
                future.add_done_callback(kept)


class _Pickling(threading.local):
    """What this thread pickles calls for."""

    uses: Uses | None = None


_pickling = _Pickling()


class _Kept:
    """Refers to handles until so many futures are done, which call it then."""

    def __init__(self, handles: Sequence[Shared], open_count: int) -> None:
        self._handles = handles
        self._open_count = open_count
        self._lock = threading.Lock()

    def __call__(self, _: Future[Any]) -> None:
        with self._lock:
            self._open_count -= 1
            is_last = not self._open_count
        if is_last:
            self._handles = ()
