"""The watcher: notices new files of workers, and the request to abort all executors.

    signal handler --byte--+
                           +--> pipe --> watcher thread: lists directories --names--> resolvers
    submissions -----byte--+

One thread does this for all executors of the process. It reads no output, runs no command, and
waits for no lock that the main thread may hold, so that nothing can delay it. The interval between
two listings is a small part of the time since something new was found, from 20 ms to 1 s; for
journals of pilots, see `journals`. The pilots of this machine tell the watcher what to look at, by
a named pipe.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from select import POLLIN, poll

from cluster_tools import own_files
from cluster_tools.cluster.joinable_thread import JoinableThread

_MIN_INTERVAL_S = 0.02
_MAX_INTERVAL_S = 1.0
# The interval between two listings, as a part of the time since something new was found. So a
# result is noticed late by at most this part of its waiting time.
_INTERVAL_PART = 0.05
# The largest part of the time that the listings of one run directory may take.
_MAX_LOAD = 0.05

_WAKE = b"w"
# No character of a journal's name: if a program closes all descriptors, the pipe of pilots may get
# the number of the watcher's own.
END = b"\0"

_logger = logging.getLogger("cluster_tools")


class Watched:
    """A run directory that the watcher lists.

    Arguments:
        post: Called with the names that were not there at the last look.
        on_replaced: Called once, if something else is in the place of the directory.

    Attributes:
        open_tasks: Shard -> how many of its tasks have not ended. The resolver updates it.
    """

    min_interval_s = _MIN_INTERVAL_S

    def __init__(
        self, path: str, post: Callable[[list[str]], None], on_replaced: Callable[[], None]
    ):
        self.path = path
        self.post = post
        self._on_replaced = on_replaced
        self._identity = own_files.identity(path)
        self._is_replaced = False
        self.open_tasks: dict[int, int] = {}
        self._listed: dict[int, set[str]] = {}
        self._last_news = time.monotonic()
        self._fails = False
        self.next_look = 0.0

    def fd(self) -> int | None:
        """A descriptor that is readable when `on_readable` shall be called; None: there is none."""
        return None

    def on_readable(self) -> None:
        """The descriptor `fd` is readable."""

    def close(self) -> None:
        """Releases what `fd` needs."""

    def expect(self) -> None:
        """Look often from now on: tasks were submitted."""
        self._last_news = time.monotonic()
        self.next_look = 0.0

    def look(self) -> None:
        """Lists the directory once, posts the new names, and sets the time of the next look."""
        began = time.monotonic()
        if self._is_replaced or own_files.identity(self.path) not in (self._identity, None):
            if not self._is_replaced:
                self._is_replaced = True
                self._on_replaced()
            self.next_look = began + _MAX_INTERVAL_S
            return
        news: list[str] = []
        try:
            news = self._news()
        except OSError as exc:  # a disk that fails now may answer later
            if not self._fails:
                _logger.warning("%s can't be listed for now; looking again: %s", self.path, exc)
            self._fails = True
        else:
            self._fails = False
        if news:
            self._last_news = time.monotonic()
            self.post(news)
        now = time.monotonic()
        interval = min(_MAX_INTERVAL_S, (now - self._last_news) * _INTERVAL_PART)
        # After a listing that took one part of the time, the others have to pass.
        rest = (now - began) * (1 / _MAX_LOAD - 1)
        self.next_look = now + max(self.min_interval_s, interval, rest)

    def _news(self) -> list[str]:
        """The names that are new since the last look.

        Raises: OSError, if a shard can't be listed and nothing new is in the others. The next look
        finds what was missed.
        """
        news: list[str] = []
        error: OSError | None = None
        shards = list(self.open_tasks)
        for shard in [shard for shard in self._listed if shard not in self.open_tasks]:
            del self._listed[shard]
        for shard in shards:
            try:  # a missing shard has no names: its first worker makes it
                names = set(own_files.listed(os.path.join(self.path, str(shard))))
            except OSError as exc:
                error = exc
                continue
            news += sorted(names - self._listed.get(shard, set()))
            self._listed[shard] = names
        if error is not None and not news:
            raise error
        return news


class Watcher(JoinableThread):
    """The thread that lists all watched directories of the process.

    `pipe`: its read end and its write end, both non-blocking. `on_end`: called in this thread after
    END was written to the pipe.
    """

    def __init__(self, pipe: tuple[int, int], on_end: Callable[[], None]):
        super().__init__("cluster_tools-watcher")
        self._on_end = on_end
        self._read_end, self._write_end = pipe
        # Path -> what to look at. Needs no lock: each operation on it is atomic.
        self._watched: dict[str, Watched] = {}
        self._ended = False

    def add(self, watched: Watched) -> None:
        self._watched[watched.path] = watched
        self.wake()

    def remove(self, watched: Watched) -> None:
        self._watched.pop(watched.path, None)

    def wake(self) -> None:
        self.write(_WAKE)

    def write(self, byte: bytes) -> None:
        """Writes _WAKE or END to the pipe. Takes no lock."""
        try:
            os.write(self._write_end, byte)
        except BlockingIOError:
            pass  # the pipe is full, so the thread will wake anyway

    def stop(self) -> None:
        self._ended = True
        self.wake()

    def work(self) -> None:
        while not self._ended:
            for act in (self._wait, self._look):
                try:
                    act()
                except Exception:  # without this thread, no output would be noticed any more
                    _logger.exception("the watcher goes on after an unexpected error")
                    time.sleep(_MAX_INTERVAL_S)

    def _wait(self) -> None:
        """Waits until a directory is to be listed, or until something has come through a pipe."""
        waiting = [watched for watched in list(self._watched.values()) if watched.open_tasks]
        timeout = None
        if waiting:
            timeout = max(0.0, min(w.next_look for w in waiting) - time.monotonic())
        # Not select.select, which fails for descriptors above 1023.
        pipes = poll()
        pipes.register(self._read_end, POLLIN)
        readable = {fd: watched for watched in waiting if (fd := watched.fd()) is not None}
        for fd in readable:
            pipes.register(fd, POLLIN)
        for fd, _ in pipes.poll(None if timeout is None else timeout * 1000):
            if fd != self._read_end:
                readable[fd].on_readable()
            elif END in os.read(self._read_end, 4096):
                self._on_end()

    def _look(self) -> None:
        """Lists the directories whose time has come."""
        now = time.monotonic()
        for watched in list(self._watched.values()):
            if watched.open_tasks and watched.next_look <= now:
                watched.look()
