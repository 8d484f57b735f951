"""The queue of tasks that pilots take from, seen from the client: files of the run directory.

    offer() --> todo/  --a pilot takes it--> held/ --each task as it begins--> (its journal)
    withdraw(), revoke() --> revoked: a file of cancelled tasks, looked at before each task

The files and their rules are those of `cluster_tools.job.pilot`. Knows ranges of tasks, no pilots'
states and no futures.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from cluster_tools import own_files
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.format import pilots

# So many lines of cancelled calls that are over may stay in their file.
_MAX_STALE_LINES = 1_000
# A range of tasks is made for about so long or longer, as its files cost a part of a millisecond.
_RANGE_S = 0.005

_logger = logging.getLogger("cluster_tools")


class PilotQueue:
    """`count`: pilots at the most. In the resolver's thread, but for what says otherwise.

    Raises: OSError, where the run directory can't be written.
    """

    def __init__(self, directory: RunDirectory, count: int):
        self._directory = directory
        self._count = count
        self._todo = os.path.join(directory.path, pilots.TODO)
        self._held = os.path.join(directory.path, pilots.HELD)
        for path in (self._todo, self._held):
            os.mkdir(path, 0o700)
        self._revoked = os.path.join(directory.path, pilots.REVOKED)
        # Reentrant: a future may be cancelled in the middle of anything.
        self._revoked_lock = threading.RLock()
        # Cancelled tasks, by the numbers of their arrays that have not ended; a dict is a set that
        # keeps the order of the file's lines. And how many lines there are of arrays that have
        # ended.
        self._revoked_tasks: dict[int, dict[int, None]] = {}
        self._stale_lines = 0
        # There from the beginning: that is looked at before each task, and what is missing costs
        # more.
        self._write_revoked()
        # Tasks that no pilot had taken at the last look, each range with the file that proves it as
        # long as that exists.
        self._waiting: list[tuple[range, str]] = []
        # Numbers of the arrays whose tasks pilots may know.
        self._published: set[int] = set()
        # Those of arrays that have ended, of which there may be ranges that nobody has taken.
        self._leftover: set[int] = set()
        # How many pilots there are, as the last name under which they were told.
        self._told_count = ""

    # -- offering --

    def publish(self, array: TaskArray, task_s: float | None) -> None:
        """Its tasks are for whoever comes first. `task_s`: how long one takes, where that is known.

        Raises: NotOffered.
        """
        offered: list[pilots.Range] = []
        try:
            for begin, end in self._cut(array, task_s):
                tasks = pilots.Range(array.number, begin, begin, end)
                self.offer(tasks)
                offered.append(tasks)
        except (OSError, own_files.NotOurs) as exc:
            raise NotOffered(self._take_back(array, offered), exc) from exc
        finally:
            self._published.add(array.number)

    def _take_back(self, array: TaskArray, offered: list[pilots.Range]) -> list[int]:
        """Returns: the positions of the tasks that no pilot has taken, and none can any more."""
        taken: set[int] = set()
        for tasks in offered:
            try:
                os.unlink(os.path.join(self._todo, tasks.todo_name()))
            except OSError:
                taken.update(range(tasks.begin, tasks.end))
        return [p for p in range(array.count) if array.first + p not in taken]

    def _cut(self, array: TaskArray, task_s: float | None) -> Iterator[tuple[int, int]]:
        """Ranges, large ones first: each is half of what would be one pilot's part of the rest.

        Small ones are for long tasks. There are about eight for each pilot all the same: the next
        tasks may be longer, and what one takes over from another it takes as a whole.
        """
        first, last = array.first, array.first + array.count
        least = 1
        if task_s is not None:
            least = min(array.count // (8 * self._count), int(_RANGE_S / task_s))
        while first < last:
            size = min(last - first, max(1, least, (last - first) // (2 * self._count)))
            yield first, first + size
            first += size

    def offer(self, tasks: pilots.Range) -> None:
        """Raises: OSError; NotOurs."""
        # No link to another: a rename between names of one file does nothing, and says that it has.
        self._directory.make(os.path.join(self._todo, tasks.todo_name()))

    def is_published(self, array: TaskArray) -> bool:
        return array.number in self._published

    # -- cancelling --

    def revoke(self, array: TaskArray, positions: Iterable[int]) -> None:
        """A pilot that takes one of these from now on skips it. In any thread. Raises: OSError."""
        with self._revoked_lock:
            known = self._revoked_tasks.get(array.number, {})
            tasks = [t for p in positions if (t := array.first + p) not in known]
            if not tasks:
                return
            self._append_revoked(tasks)
            if array.open:  # else the line only makes pilots see that the array is gone
                noted = self._revoked_tasks.setdefault(array.number, {})
                noted.update(dict.fromkeys(tasks))

    def withdraw(self, array: TaskArray, positions: Collection[int]) -> set[int]:
        """Revokes these tasks. In any thread.

        Returns: the positions of those that a pilot has taken, or may have taken, before it could
        see that they are revoked.
        Raises: OSError.
        """
        self.revoke(array, positions)
        is_published = self.is_published(array)
        tasks = [task for p in positions if not self._waits(task := array.first + p)]
        begun: list[range] = []
        for _ in range(2):  # one listing may miss a file that is being renamed
            if not tasks:
                break
            waiting: list[tuple[range, str]] = []
            for directory in (self._todo, self._held):
                for name in own_files.listed(directory):
                    found = pilots.read_range(name)
                    if found is not None and found.array == array.number:
                        waiting.append((range(found.next, found.end), f"{directory}/{name}"))
                        begun.append(range(found.begin, found.next))
            self._waiting = waiting
            tasks = [task for task in tasks if not any(task in some for some, _ in waiting)]
        return {
            task - array.first
            for task in tasks
            if is_published or any(task in some for some in begun)
        }

    def _waits(self, task: int) -> bool:
        """Whether this task waited at the last look, and still does. Raises: OSError."""
        return any(task in some and own_files.is_there(path) for some, path in self._waiting)

    def _append_revoked(self, tasks: Iterable[int]) -> None:
        fd = self._open_revoked(self._revoked, os.O_APPEND)
        try:
            os.write(fd, pilots.revoked_lines(tasks))
        finally:
            os.close(fd)

    def _open_revoked(self, path: str, flag: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | flag
        return own_files.open_own(path, flags, owner=self._directory.owner)

    def _write_revoked(self) -> None:
        """Begins the file anew, without what is over. Raises: OSError."""
        with self._revoked_lock:
            known = {number: len(tasks) for number, tasks in self._revoked_tasks.items()}
            lines = [task for tasks in self._revoked_tasks.values() for task in tasks]
            temporary = f"{self._revoked}.tmp"
            with open(self._open_revoked(temporary, os.O_TRUNC), "wb") as file:
                file.write(f"{os.urandom(6).hex()}\n".encode() + pilots.revoked_lines(lines))
            os.rename(temporary, self._revoked)
            self._stale_lines = 0
            # Cancelled by what was collected as garbage meanwhile, in this thread.
            late = [
                task
                for number, tasks in self._revoked_tasks.items()
                for task in islice(tasks, known.get(number, 0), None)
            ]
            if late:
                self._append_revoked(late)

    # -- ended arrays --

    def on_array_ended(self, array: TaskArray) -> None:
        self._published.discard(array.number)

    def forget(self, array: TaskArray) -> bool:
        """It has ended, and its file is gone: whoever comes for one of its tasks begins nothing.

        Returns: whether `remove_leftover` has something to do.
        """
        with self._revoked_lock:
            self._stale_lines += len(self._revoked_tasks.pop(array.number, ()))
            live = sum(map(len, self._revoked_tasks.values()))
            if self._stale_lines > max(_MAX_STALE_LINES, live):
                try:
                    self._write_revoked()
                except OSError as exc:
                    _logger.debug("cancelled calls that are over stay noted: %s", exc)
        if array.has_cancelled():
            self._leftover.add(array.number)
        return bool(self._leftover)

    def remove_leftover(self) -> bool:
        """Removes ranges of ended arrays. Returns: False where that has to be tried again."""
        try:
            names = own_files.listed(self._todo)
        except OSError as exc:
            _logger.debug("ranges of cancelled calls go later: %s", exc)
            return False
        leftover, self._leftover = self._leftover, set()
        for name in names:
            tasks = pilots.read_range(name)
            if tasks is not None and tasks.array in leftover:
                own_files.unlink(os.path.join(self._todo, name))
        return True

    # -- pilots that have ended --

    def held_by(self, pilot: str) -> list[pilots.Range]:
        """What this pilot holds, from the file server and not from a cache. Raises: OSError."""
        self._directory.probe(self._held)
        # Twice: one listing may miss a file that another pilot is renaming.
        names = {*own_files.listed(self._held), *own_files.listed(self._held)}
        ranges = [held for name in names if (held := pilots.read_range(name)) is not None]
        return [held for held in ranges if held.pilot == pilot]

    def give_to_others(self, held: pilots.Range, *, is_wanted: bool) -> None:
        """What is left of it is to do again, if its array `is_wanted`. Raises: OSError."""
        path = os.path.join(self._held, held.held_name())
        try:
            if held.next == held.end or not is_wanted:
                os.unlink(path)
            else:
                os.rename(path, os.path.join(self._todo, held.todo_name()))
        except FileNotFoundError:  # another pilot was faster
            pass

    def tasks_in_files(self) -> set[int]:
        """Tasks that wait, or are the last that their pilot has begun. Raises: OSError.

        Lists twice, as one listing may miss a file that is being renamed.
        """
        names = {
            name
            for _ in range(2)
            for path in (self._todo, self._held)
            for name in own_files.listed(path)
        }
        found: set[int] = set()
        for name in names:
            tasks = pilots.read_range(name)
            if tasks is not None:
                found.update(range(max(tasks.begin, tasks.next - 1), tasks.end))
        return found

    # -- what pilots are told --

    def tell_count(self, count: int) -> None:
        """The more pilots there are, the less often each of them looks for work."""
        name = f"{pilots.ALIVE}{max(1, count)}"
        if name == self._told_count:
            return
        path = os.path.join(self._todo, name)
        try:
            if self._told_count:
                os.rename(os.path.join(self._todo, self._told_count), path)
            else:
                self._directory.make(path)
        except (OSError, own_files.NotOurs):  # then they look as often as before
            return
        self._told_count = name

    def tell_to_leave(self) -> None:
        try:
            self._directory.make(os.path.join(self._todo, pilots.STOP))
        except (OSError, own_files.NotOurs):  # they see that the directory is gone
            pass


class NotOffered(Exception):
    """The tasks at `positions` could not be offered, because of `error`."""

    def __init__(self, positions: list[int], error: OSError | own_files.NotOurs):
        super().__init__(str(error))
        self.positions = positions
        self.error = error
