"""Reads the journals of pilots.

    pilot --records--> journal, a file for each part
      |                   |--> WatchedJournals --JournalsGrew--> resolver
      |                   '--> JournalReader --records--> PilotPool
      '--name of a part--> named pipe --> WatchedJournals

A journal has one writer and one reader. The reader reads a part while it grows. Once it has read
the record `Continued`, it removes the part and goes on with the next. This module knows files and
records, but not what they mean for tasks. `cluster_tools.format.pilots` has the format.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

from cluster_tools import own_files
from cluster_tools.cluster.watching import Watched
from cluster_tools.format import pilots
from cluster_tools.named_pipes import NamedPipe

_READ_BYTES = 4 << 20
# How long to wait for an incomplete record; NFS may show the rest late.
_DAMAGE_PATIENCE_S = 5.0
# An idle pilot answers a call within milliseconds: the client should not add many to that.
_MIN_INTERVAL_S = 0.005
# The same if all pilots have sent messages: then only the beginnings of calls are seen by looking.
_MIN_INTERVAL_WITH_MESSAGES_S = 0.05
# How many journals are looked at in a second, at most: a limit to the file server's load.
_MAX_JOURNALS_PER_S = 800.0
# The pipe holds 65,536 bytes. If so many are in it, some messages may have been dropped.
_MANY_BYTES = 1 << 15

_logger = logging.getLogger("cluster_tools")


class WatchedJournals(Watched):
    """The directory of journals, as the watcher looks at it.

    Posts the names of journals that are new, have grown, or are in `unsettled`; and those that
    pilots send through the named pipe `pipe`.
    """

    min_interval_s = _MIN_INTERVAL_S

    def __init__(
        self,
        path: str,
        post: Callable[[list[str]], None],
        on_replaced: Callable[[], None],
        pipe: NamedPipe | None,
    ):
        super().__init__(path, post, on_replaced)
        self._pipe = pipe
        # Names of the pilots that have sent messages: they are on this machine.
        self.senders: set[str] = set()
        self._sizes: dict[str, int] = {}
        # Names of journals to post at each look, even if they have not grown: their last record is
        # incomplete, or they could not be read.
        self.unsettled: set[str] = set()

    def fd(self) -> int | None:
        if self._pipe is None:
            return None
        try:
            return self._pipe.fd()
        except OSError as exc:
            _logger.debug("messages of pilots can't be read any more: %s", exc)
            self._pipe.close()
            self._pipe = None
            self.senders.clear()
            return None

    def on_readable(self) -> None:
        if self._pipe is None:
            return
        messages = self._pipe.read()
        names = [name.decode(errors="replace") for name in {*messages.split(b"\n")} - {b""}]
        self.senders.update(name.partition(",")[0] for name in names)
        if len(messages) >= _MANY_BYTES:
            self.next_look = 0.0
        if names:
            self._last_news = time.monotonic()
            self.post(names)

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def _news(self) -> list[str]:
        news: list[str] = []
        names = own_files.listed(self.path)
        all_send = all(name.partition(",")[0] in self.senders for name in names)
        self.min_interval_s = max(
            _MIN_INTERVAL_WITH_MESSAGES_S if all_send and names else _MIN_INTERVAL_S,
            len(names) / _MAX_JOURNALS_PER_S,
        )
        sizes, self._sizes = self._sizes, {}
        for name in names:
            try:
                # Opens the file, because on NFS the size from `stat` may be seconds old.
                fd = own_files.open_own(os.path.join(self.path, name), owner=None)
            except FileNotFoundError:
                continue
            except (OSError, own_files.NotOurs):  # the reader will report the error
                size = -1
            else:
                size = os.fstat(fd).st_size
                os.close(fd)
            self._sizes[name] = size
            if size != sizes.get(name) or name in self.unsettled:
                news.append(name)
        return news


class JournalReader:
    """Reads the journal of one pilot, part by part.

    `first`: the journal's first part. `owner`: the uid that its files have to have. `unsettled`:
    the set `WatchedJournals.unsettled`, which the reader updates.
    """

    def __init__(self, directory: str, first: pilots.Journal, owner: int, unsettled: set[str]):
        self._directory = directory
        self._owner = owner
        self._unsettled = unsettled
        # The part that is being read, and the last one that was seen.
        self._part = first
        self.last_part = first.part
        # How many bytes of the part were read, and since when no complete record follows them
        # although there are more bytes (time.monotonic).
        self._offset = 0
        self._stuck_since: float | None = None

    @property
    def name(self) -> str:
        """The file name of the part that is being read."""
        return self._part.name()

    def read(self, *, is_over: bool) -> Iterator[list[pilots.Record]]:
        """Yields lists of new records. Each list counts as read when it is yielded.

        `is_over`: the pilot has ended, so an incomplete record will not be completed any more.
        Raises: OSError; NotOurs.
        """
        try:
            while (yield from self._read_part(is_over=is_over)):
                self._begin_next_part()
        except FileNotFoundError:  # the next part is not visible here yet
            pass

    def read_later(self, error: OSError) -> None:
        """The journal could not be read because of `error`: it will be posted again."""
        _logger.debug("the journal of a pilot is read later: %s", error)
        self._unsettled.add(self.name)

    def _path_of(self, journal: pilots.Journal) -> str:
        return os.path.join(self._directory, journal.name())

    def _begin_next_part(self) -> None:
        part = self._part
        own_files.unlink(self._path_of(part))
        self._unsettled.discard(part.name())
        self._part = part._replace(part=part.part + 1)
        self._offset, self._stuck_since = 0, None

    def remove(self) -> None:
        """Removes the files of a pilot that has ended, once all of its journal was read."""
        part = self._part
        # The pilot may have ended after it made the next part and before it wrote `Continued`.
        for journal in (part, part._replace(part=part.part + 1)):
            own_files.unlink(self._path_of(journal))
        self._unsettled.discard(part.name())

    def _read_part(self, *, is_over: bool) -> Iterator[list[pilots.Record]]:
        """Yields lists of new records of this part. Returns: whether another part follows."""
        stuck = self._stuck_since
        size = _READ_BYTES
        while True:
            final = is_over or (stuck is not None and time.monotonic() - stuck > _DAMAGE_PATIENCE_S)
            with open(
                own_files.open_own(self._path_of(self._part), owner=self._owner), "rb"
            ) as file:
                file.seek(self._offset)
                data = file.read(size)
            records, length = pilots.read_records(data, final=final)
            self._offset += length
            yield records
            if records and isinstance(records[-1], pilots.Continued):
                return True
            if len(data) < size:
                break
            size = _READ_BYTES if length else 2 * size
        if final and self.last_part > self._part.part:
            return True  # the next part exists, so the record `Continued` is lost
        self._note_progress(length, len(data), stuck, final=final)
        return False

    def _note_progress(
        self, length: int, available: int, stuck: float | None, *, final: bool
    ) -> None:
        """Notes that `length` of the `available` bytes were complete records.

        `stuck`: since when there were none; None if there were some at the last look.
        """
        if length == available:
            self._stuck_since = None
        elif length or stuck is None:
            self._stuck_since = time.monotonic()
        if self._stuck_since is None or final:
            self._unsettled.discard(self.name)
        else:
            self._unsettled.add(self.name)
