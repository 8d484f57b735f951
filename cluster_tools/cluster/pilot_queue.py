"""The client's side of the queue from which pilots take tasks: files of the run directory.

    offer() --> pilots.todo/ --a pilot takes a range--> pilots.held/ --it runs the tasks--> removed
    withdraw(), revoke() --> pilots.revoked: cancelled tasks; pilots look at it before each task

`cluster_tools.job.pilot` describes the files and their rules. This module knows ranges of tasks, no
states of pilots and no futures.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from cluster_tools import named_pipes, own_files
from cluster_tools.cluster.run_directory import RunDirectory
from cluster_tools.cluster.tasks import TaskArray
from cluster_tools.format import pilots
from cluster_tools.named_pipes import NamedPipe

# How many lines of ended arrays may stay in the file of revoked tasks before it is written anew.
_MAX_STALE_LINES = 1_000
# How long the tasks of a range should take at least: its files cost a part of a millisecond.
_RANGE_S = 0.005

_logger = logging.getLogger("cluster_tools")


class PilotQueue:
    """The queue of one executor's tasks for pilots.

    Only the resolver's thread may call a method whose docstring does not say otherwise.
    `count`: how many pilots there are at most.
    Raises: OSError, if the run directory can't be written.
    """

    def __init__(self, directory: RunDirectory, count: int):
        self._directory = directory
        self._count = count
        self._todo = os.path.join(directory.path, pilots.TODO)
        self._held = os.path.join(directory.path, pilots.HELD)
        self._wake = os.path.join(directory.path, pilots.WAKE)
        for path in (self._todo, self._held, self._wake):
            os.mkdir(path, 0o700)
        self._revoked = os.path.join(directory.path, pilots.REVOKED)
        # Reentrant: a signal handler or the garbage collector may cancel a future at any time.
        self._revoked_lock = threading.RLock()
        # Number of an array that has not ended -> its revoked tasks. The inner dict is a set that
        # keeps the order of the file's lines.
        self._revoked_tasks: dict[int, dict[int, None]] = {}
        # How many lines of the file are of arrays that have ended.
        self._stale_lines = 0
        # Pilots look at this file before each task. To look at a missing file costs more.
        self._write_revoked()
        # The ranges that no pilot had begun when the directories were last listed, each with the
        # path of its file. While that file exists, the range has not begun.
        self._waiting: list[tuple[range, str]] = []
        # Numbers of the arrays whose tasks pilots may know.
        self._published: set[int] = set()
        # Numbers of ended arrays that may have ranges in pilots.todo.
        self._leftover: set[int] = set()
        # The name of the file that tells pilots how many of them there are; "": there is none.
        self._told_count = ""

    # -- offering --

    def publish(self, array: TaskArray, task_s: float | None) -> int:
        """Offers the array's tasks to all pilots.

        `task_s`: how many seconds a task takes; None if that is not known.
        Returns: the number of ranges.
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
        return len(offered)

    def _take_back(self, array: TaskArray, offered: list[pilots.Range]) -> list[int]:
        """Removes the offered ranges. Returns: the positions of all tasks that no pilot has taken.

        No pilot can take one of these any more.
        """
        taken: set[int] = set()
        for tasks in offered:
            try:
                os.unlink(os.path.join(self._todo, tasks.todo_name()))
            except OSError:
                taken.update(range(tasks.begin, tasks.end))
        return [p for p in range(array.count) if array.first + p not in taken]

    def _cut(self, array: TaskArray, task_s: float | None) -> Iterator[tuple[int, int]]:
        """Yields ranges as (first task, last task + 1), the largest ones first.

        If the remaining tasks were divided among all pilots, a range would be half of one such
        part. So the last ranges are small, and pilots end at about the same time. The least size
        depends on `task_s`, but leaves about eight ranges for each pilot: later tasks may take
        longer, and an idle pilot always takes over the whole rest of a range.
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
        """Offers one range. Raises: OSError; NotOurs."""
        # A new file, no hard link: rename(2) between two links to one file does nothing and reports
        # success, so two pilots could take the same range.
        self._directory.make(os.path.join(self._todo, tasks.todo_name()))

    def is_published(self, array: TaskArray) -> bool:
        """Whether pilots may know tasks of this array, which has not ended."""
        return array.number in self._published

    # -- cancelling --

    def revoke(self, array: TaskArray, positions: Iterable[int]) -> None:
        """Revokes these tasks: a pilot that takes one of them from now on skips it.

        May be called in any thread. Raises: OSError; NotOurs.
        """
        with self._revoked_lock:
            known = self._revoked_tasks.get(array.number, {})
            tasks = [t for p in positions if (t := array.first + p) not in known]
            if not tasks:
                return
            self._append_revoked(tasks)
            if array.open:  # otherwise the line only makes pilots notice that the array is gone
                noted = self._revoked_tasks.setdefault(array.number, {})
                noted.update(dict.fromkeys(tasks))

    def withdraw(self, array: TaskArray, positions: Collection[int]) -> set[int]:
        """Revokes these tasks. May be called in any thread.

        Returns: the positions of the tasks that a pilot has taken, or may have taken, before it
        could see that they are revoked.
        Raises: OSError; NotOurs.
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
        """Whether the task waited when `_waiting` was set, and still waits. Raises: OSError."""
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
        """Writes the file anew, without the tasks of ended arrays. Raises: OSError."""
        with self._revoked_lock:
            known = {number: len(tasks) for number, tasks in self._revoked_tasks.items()}
            lines = [task for tasks in self._revoked_tasks.values() for task in tasks]
            temporary = f"{self._revoked}.tmp"
            with open(self._open_revoked(temporary, os.O_TRUNC), "wb") as file:
                file.write(f"{os.urandom(6).hex()}\n".encode() + pilots.revoked_lines(lines))
            os.rename(temporary, self._revoked)
            self._stale_lines = 0
            # Tasks that this thread itself has revoked meanwhile: the garbage collector may run in
            # it, and the objects that it collects may cancel futures.
            late = [
                task
                for number, tasks in self._revoked_tasks.items()
                for task in islice(tasks, known.get(number, 0), None)
            ]
            if late:
                self._append_revoked(late)

    # -- ended arrays --

    def on_array_ended(self, array: TaskArray) -> None:
        """All tasks of the array have ended."""
        self._published.discard(array.number)

    def forget(self, array: TaskArray) -> bool:
        """Forgets an ended array whose file was removed, so that no pilot can begin its tasks.

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
        """Removes ranges of ended arrays. Returns: False if it has to be tried again."""
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
        """The ranges that this pilot holds, by the file server, not a cache. Raises: OSError."""
        self._directory.probe(self._held)
        # Listed twice: one listing may miss a file that another pilot is renaming.
        names = {*own_files.listed(self._held), *own_files.listed(self._held)}
        ranges = [held for name in names if (held := pilots.read_range(name)) is not None]
        return [held for held in ranges if held.pilot == pilot]

    def give_to_others(self, held: pilots.Range, *, is_wanted: bool) -> None:
        """Offers the rest of an ended pilot's range to other pilots; removes the range's file.

        `is_wanted`: whether the array has open tasks; if not, the rest is not offered.
        Raises: OSError.
        """
        path = os.path.join(self._held, held.held_name())
        try:
            if held.next == held.end or not is_wanted:
                os.unlink(path)
            else:
                os.rename(path, os.path.join(self._todo, held.todo_name()))
        except FileNotFoundError:  # another pilot was faster
            pass

    def tasks_in_files(self) -> set[int]:
        """The tasks that files name: those that wait, and the last that each pilot has begun.

        Lists twice, because one listing may miss a file that is being renamed.
        Raises: OSError.
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

    def client_pipe(self) -> NamedPipe | None:
        """Makes the named pipe through which pilots tell which journals have grown.

        None if the file system has no named pipes.
        """
        try:
            return NamedPipe(os.path.join(self._wake, pilots.CLIENT))
        except OSError as exc:
            _logger.debug("pilots can't send messages, so the client looks more often: %s", exc)
            return None

    def wake(self, pilot: str) -> bool:
        """Tells this pilot to look for work. Returns: whether it is on this machine."""
        path = os.path.join(self._wake, pilot)
        return named_pipes.send(path, b"\n", owner=self._directory.owner)

    def forget_pilot(self, pilot: str) -> None:
        """Removes the named pipe of a pilot that has ended."""
        own_files.unlink(os.path.join(self._wake, pilot))

    def tell_count(self, count: int) -> None:
        """Tells pilots how many are idle: the more, the less often each looks for work."""
        name = f"{pilots.IDLE}{max(1, count)}"
        if name == self._told_count:
            return
        path = os.path.join(self._todo, name)
        try:
            if self._told_count:
                os.rename(os.path.join(self._todo, self._told_count), path)
            else:
                self._directory.make(path)
        except (OSError, own_files.NotOurs):  # pilots look as often as before
            return
        self._told_count = name

    def tell_to_leave(self) -> None:
        """Tells all pilots to end."""
        try:
            self._directory.make(os.path.join(self._todo, pilots.STOP))
        except (OSError, own_files.NotOurs):  # pilots also end when the run directory is removed
            pass


class NotOffered(Exception):
    """The tasks at `positions` could not be offered, because of `error`."""

    def __init__(self, positions: list[int], error: OSError | own_files.NotOurs):
        super().__init__(str(error))
        self.positions = positions
        self.error = error
