"""The pilots of one executor, seen from the client: what they are given, what they have done, who is there.

    arrays --publish--> todo files --> pilots --> journals
               |                                     |
    futures <--+-- resolver's thread <-- watcher ----+
               |
               +-- staff: submits pilots while there is work, as ordinary tasks of the same session;
               |   when the future of one is done its element has ended, and
               +-- bury: what it held and had not begun is to do again, what it was running fails

The files and their rules are those of `cluster_tools.job.pilot`. The resolver's thread alone knows who does what;
what other threads call says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from cluster_tools import own_files, pickling
from cluster_tools.cluster import failures
from cluster_tools.cluster.failures import Where
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.logs import Part
from cluster_tools.cluster.run_directory import Outcome, stored_outcome
from cluster_tools.cluster.submission import Span
from cluster_tools.cluster.tasks import Place, TaskArray
from cluster_tools.cluster.watching import Watched
from cluster_tools.errors import (
    RemoteNeverStartedException,
    RemoteTimeLimitException,
    SubmissionException,
)
from cluster_tools.format import pilots, run_files
from cluster_tools.job import pilot
from cluster_tools.schedulers.base import Element

if TYPE_CHECKING:
    from cluster_tools.cluster.session import Session

# Pilots that end one after the other without having begun a task: then there is no hope for the rest.
_MAX_FAILURES = 4
# The same of those whose initializer has failed.
_MAX_INITIALIZER_FAILURES = 2
_READ_BYTES = 4 << 20
# So many lines of cancelled calls that are over may stay in their file.
_MAX_STALE_LINES = 1_000
# What is not right in a journal may be on its way for so long.
_DAMAGE_PATIENCE_S = 5.0
# A warm pilot's answer is not to wait for us.
_MIN_INTERVAL_S = 0.005
# A range is made for about so long or longer, as its files cost a part of a millisecond.
_RANGE_S = 0.005
# Calls may wait for others for this part of the time for which pilots have enough to do.
_GATHERING_PART = 0.25
_MAX_GATHERING_S = 0.1
# How much of what is held for the length of tasks is that of the last ones.
_NEWEST_PART = 0.2

_logger = logging.getLogger("cluster_tools")


class _OnPilot:
    """Where tasks run that a pilot has begun: all of them are the same element."""

    def __init__(self, element: Element):
        self._element = element

    @property
    def job_id(self) -> str:
        return self._element.job_id

    def element(self, position: int) -> Element:
        return self._element


@dataclass
class _Incarnation:
    """A pilot from its journal on: one run of one element."""

    # The part that is being read, and the last one that was seen.
    journal: pilots.Journal
    last_part: int
    # How far that part was read, and since when it does not go on there.
    offset: int = 0
    stuck_since: float | None = None
    running: pilots.Began | None = None
    began: bool = False
    done: int = 0
    # Once it is over: tasks that it had begun and that were dealt with, which is done once.
    ended_tasks: set[int] = field(default_factory=set[int])
    # When the last of them was seen, or that it runs none.
    seen_at: float = field(default_factory=time.monotonic)
    is_over: bool = False

    def __post_init__(self) -> None:
        job_id, _, index = self.journal.job_id.rpartition("_")
        self.place = _OnPilot(Element(job_id, int(index)))


class Journals(Watched):
    """The pilots' journals, a file for each part; `post` takes the names. Those of pilots that are over are gone."""

    min_interval_s = _MIN_INTERVAL_S

    def __init__(self, path: str, post: Any, on_replaced: Any):
        super().__init__(path, post, on_replaced)
        self._sizes: dict[str, int] = {}
        # Those whose last record is not whole, or not right: they are looked at again all the same.
        self.unsettled: set[str] = set()

    def _news(self) -> list[str]:
        news: list[str] = []
        names = own_files.listed(self.path)
        sizes, self._sizes = self._sizes, {}
        for name in names:
            try:
                # By opening: what `stat` says of a file on NFS may be seconds old.
                fd = own_files.open_own(os.path.join(self.path, name), owner=None)
            except FileNotFoundError:
                continue
            except (OSError, own_files.NotOurs):  # whoever reads it will see
                size = -1
            else:
                size = os.fstat(fd).st_size
                os.close(fd)
            self._sizes[name] = size
            if size != sizes.get(name) or name in self.unsettled:
                news.append(name)
        return news


class PilotPool:
    """`count`: pilots at the most. `idle_timeout_s`: after which one without work leaves."""

    def __init__(self, session: Session, count: int, idle_timeout_s: float):
        self._session = session
        self._count = count
        self._idle_timeout_s = idle_timeout_s
        path = session.directory.path
        self._todo = os.path.join(path, pilots.TODO)
        self._held = os.path.join(path, pilots.HELD)
        self._journals = os.path.join(path, pilots.JOURNALS)
        for directory in (self._todo, self._held, self._journals):
            os.mkdir(directory, 0o700)
        self._revoked = os.path.join(path, pilots.REVOKED)
        # Reentrant: a future may be cancelled in the middle of anything.
        self._revoked_lock = threading.RLock()
        # Cancelled tasks, by the numbers of their arrays that are not done; a dict is a set that
        # keeps the order of the file's lines. And how many lines there are of arrays that are done.
        self._revoked_tasks: dict[int, dict[int, None]] = {}
        self._stale_lines = 0
        # Tasks that no pilot had taken at the last look, each range with the file that proves it as
        # long as that exists.
        self._waiting: list[tuple[range, str]] = []
        # There from the beginning: that is looked at before each task, and what is missing costs more.
        self._write_revoked()
        # Arrays that are done, of which there may be ranges that nobody has taken.
        self._forsaken: set[int] = set()
        self.watched = Journals(self._journals, self._on_news, session.on_replaced)
        # Those with open tasks, and of them the numbers of those that pilots may know.
        self._arrays: dict[int, TaskArray] = {}
        self._published: set[int] = set()
        self._open_tasks = 0
        # How long tasks take, as far as the times tell at which their ends were seen.
        self._task_s: float | None = None
        # How many pilots there are, as the last name under which they were told.
        self._told_count = ""
        # The futures of those who are in the queue or there. Only whole-dict operations.
        self.pilots: dict[ClusterFuture[Any], None] = {}
        # Those of pilots that have ended and are still to be buried.
        self._ended: dict[ClusterFuture[Any], None] = {}
        # Those that are not over, by the pilot's name.
        self._incarnations: dict[str, _Incarnation] = {}
        # They are made up for once all who have ended by now are known.
        self._is_staffing = False
        # Pilots that have ended since the last task was begun.
        self._failures = 0
        # Open tasks that no file named at the last look; None: before the first of two looks.
        self._missing: set[int] | None = None
        # Tasks that a pilot's time limit has ended once.
        self._second_chances: set[int] = set()

    # -- work --

    def publish(self, array: TaskArray) -> None:
        """Its tasks are for whoever comes first. After `expect`: their records may come at once."""
        if self._session.aborted:
            return
        offered: list[pilots.Range] = []
        try:
            for begin, end in self._cut(array):
                tasks = pilots.Range(array.number, begin, begin, end)
                self._offer(tasks)
                offered.append(tasks)
        except OSError as exc:
            self._withdraw(array, offered, exc)
        self._published.add(array.number)
        self.staff()

    def _withdraw(self, array: TaskArray, offered: list[pilots.Range], error: OSError) -> None:
        """What no pilot has taken yet can't be offered."""
        taken: set[int] = set()
        for tasks in offered:
            try:
                os.unlink(os.path.join(self._todo, tasks.todo_name()))
            except OSError:
                taken.update(range(tasks.begin, tasks.end))
        rest = [p for p in range(array.count) if array.first + p not in taken]
        self._session.resolver.refuse(array, rest, error)

    def _cut(self, array: TaskArray) -> Iterator[tuple[int, int]]:
        """Ranges, large ones first: each is half of what would be one pilot's part of the rest.

        Small ones are for long tasks. There are about eight for each pilot all the same: the next tasks may
        be longer, and what one takes over from another it takes as a whole.
        """
        first, last = array.first, array.first + array.count
        least = 1
        if self._task_s is not None:
            least = min(array.count // (8 * self._count), int(_RANGE_S / self._task_s))
        while first < last:
            size = min(last - first, max(1, least, (last - first) // (2 * self._count)))
            yield first, first + size
            first += size

    def gathering_s(self) -> float:
        """How long a call may wait for others, since pilots have enough to do. In any thread."""
        if self._task_s is None:
            return 0.0
        waiting = max(0, self._open_tasks - self._count)
        busy_s = waiting * self._task_s / self._count
        return min(_MAX_GATHERING_S, _GATHERING_PART * busy_s)

    def _offer(self, tasks: pilots.Range) -> None:
        """Raises: OSError."""
        # No link to another: a rename between names of one file does nothing, and says that it has.
        self._session.directory.make(os.path.join(self._todo, tasks.todo_name()))

    def has_open_tasks(self) -> bool:
        return bool(self._open_tasks)

    def expect(self, array: TaskArray) -> None:
        self._arrays[array.number] = array
        self._open_tasks += array.open
        self.watched.open_tasks[0] = self._open_tasks

    def on_closed(self, array: TaskArray, position: int) -> None:
        """A task of the array has come to its end."""
        self._open_tasks -= 1
        self._second_chances.discard(array.first + position)
        if self._open_tasks:
            self.watched.open_tasks[0] = self._open_tasks
        else:
            self.watched.open_tasks.pop(0, None)
        if not array.open:
            self._arrays.pop(array.number, None)
            self._published.discard(array.number)

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
        is_published = array.number in self._published
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
            os.write(fd, b"".join(b"%d\n" % task for task in tasks))
        finally:
            os.close(fd)

    def _open_revoked(self, path: str, flag: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | flag
        return own_files.open_own(path, flags, owner=self._session.directory.owner)

    def _write_revoked(self) -> None:
        """Begins the file anew, without what is over. Raises: OSError."""
        with self._revoked_lock:
            known = {number: len(tasks) for number, tasks in self._revoked_tasks.items()}
            lines = [f"{task}\n" for tasks in self._revoked_tasks.values() for task in tasks]
            temporary = f"{self._revoked}.tmp"
            with open(self._open_revoked(temporary, os.O_TRUNC), "w") as file:
                file.write(f"{os.urandom(6).hex()}\n{''.join(lines)}")
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

    def forget(self, array: TaskArray) -> None:
        """It is done, and its file is gone: whoever comes for one of its tasks begins nothing."""
        with self._revoked_lock:
            self._stale_lines += len(self._revoked_tasks.pop(array.number, ()))
            live = sum(map(len, self._revoked_tasks.values()))
            if self._stale_lines > max(_MAX_STALE_LINES, live):
                try:
                    self._write_revoked()
                except OSError as exc:
                    _logger.debug("cancelled calls that are over stay noted: %s", exc)
        if array.cancelled:
            self._forsaken.add(array.number)
            self._session.resolver.later(self._remove_forsaken)

    def _remove_forsaken(self) -> None:
        try:
            names = own_files.listed(self._todo)
        except OSError as exc:
            _logger.debug("ranges of cancelled calls go later: %s", exc)
            self._session.resolver.later(self._remove_forsaken)
            return
        forsaken, self._forsaken = self._forsaken, set()
        for name in names:
            tasks = pilots.read_range(name)
            if tasks is not None and tasks.array in forsaken:
                _unlink(os.path.join(self._todo, name))

    # -- pilots --

    def staff(self) -> None:
        """As many pilots as there is work for."""
        session = self._session
        missing = min(self._count, self._open_tasks) - len(self.pilots)
        if missing <= 0 or session.aborted or session.ending or session.cancelling:
            return
        futures: list[ClusterFuture[Any]] = []
        for _ in range(missing):
            future = ClusterFuture[Any](session)
            self.pilots[future] = None
            future.add_done_callback(self._on_end)
            futures.append(future)
        try:
            array = self._array(futures)
        except Exception as exc:
            for future in futures:
                future.resolve(None, failures.pilot_not_written(exc))
            return
        session.resolver.expect(array)
        session.submitter.put(Span(array, range(array.count)))

    def _array(self, futures: list[ClusterFuture[Any]]) -> TaskArray:
        session = self._session
        limit_s = session.scheduler.time_limit_s
        function = pickling.dumps(pilot.run_pilot)
        keywords = {"initializes": session.settings.initializer is not None}
        call = pickling.dump_pieces(((self._idle_timeout_s, limit_s), keywords))
        writer = session.directory.begin_array()
        try:
            for _ in futures:
                writer.add(function, call, None)
            return session.finish_array(
                writer,
                session.settings.pilot_name,
                futures,
                None,
                working_directory=self._working_directory(),
                kept=False,
                indexed=True,
                runs_pilots=True,
            )
        except BaseException:
            writer.discard()
            raise

    def _working_directory(self) -> str:
        """Where set-up lines run; each task has its own."""
        try:
            return os.getcwd()
        except FileNotFoundError:  # removed
            return self._session.directory.path

    def _on_end(self, future: Any) -> None:
        """In any thread."""
        self._ended[future] = None
        self.pilots.pop(future, None)
        self._session.resolver.post(self._patiently, partial(self._bury, future))

    def dismiss(self) -> None:
        """All calls are done, and no more come: pilots leave by themselves, or never begin."""
        if not self._session.leaves_jobs:
            path = os.path.join(self._todo, pilots.STOP)
            try:
                self._session.directory.make(path)
            except (OSError, own_files.NotOurs):  # they see that the directory is gone
                pass
        unborn: list[Element] = []
        known = {i.journal.job_id for i in list(self._incarnations.values())}
        for future in list(self.pilots):
            array = future.array
            piece = None if array is None else array.piece_of(future.position)
            if array is not None and (piece is None or piece.job_id is None):
                array.cancelled.add(future.position)  # its job is on its way
            elif piece is not None:
                element = piece.element(future.position)
                if str(element) not in known:
                    unborn.append(element)
        if unborn:
            self._session.cancel_elements(unborn)
        for future in list(self.pilots):
            future.abandon()

    # -- what they do --

    def _on_news(self, names: list[str]) -> None:
        self._session.resolver.post(self._see, names)

    def _see(self, names: list[str]) -> None:
        journals = [journal for name in names if (journal := pilots.read_journal_name(name))]
        for journal in sorted(journals, key=lambda journal: journal.part):
            try:
                incarnation = self._meet(journal)
            except OSError as exc:
                _logger.debug("the journal of a pilot is looked for later: %s", exc)
                self.watched.unsettled.add(journal.name())
                continue
            if incarnation is None:
                self.watched.unsettled.discard(journal.name())
                continue
            try:
                self._read(incarnation)
            except own_files.NotOurs as exc:
                self._fail_unreadable(exc)
        self._session.announce()

    def _meet(self, journal: pilots.Journal) -> _Incarnation | None:
        """The pilot with this journal; None where it is over. Raises: OSError."""
        known = self._incarnations.get(journal.pilot)
        if known is not None:
            known.last_part = max(known.last_part, journal.part)
            return known
        if journal.part or not own_files.is_there(self._path_of(journal)):
            return None
        incarnation = _Incarnation(journal, journal.part)
        others = [i for i in self._incarnations.values() if i.journal.job_id == journal.job_id]
        self._incarnations[journal.pilot] = incarnation
        for other in others:
            earlier = min(other, incarnation, key=lambda known: known.journal.restart)
            error = failures.pilot_requeued(journal.job_id)
            self._patiently(partial(self._take_over, earlier, error))
        self._tell_count()
        return self._incarnations.get(journal.pilot)

    def _path_of(self, journal: pilots.Journal) -> str:
        return os.path.join(self._journals, journal.name())

    def _tell_count(self) -> None:
        """The more pilots there are, the less often each of them looks for work."""
        name = f"{pilots.ALIVE}{max(1, len(self._incarnations))}"
        if name == self._told_count:
            return
        path = os.path.join(self._todo, name)
        try:
            if self._told_count:
                os.rename(os.path.join(self._todo, self._told_count), path)
            else:
                self._session.directory.make(path)
        except (OSError, own_files.NotOurs):  # then they look as often as before
            return
        self._told_count = name

    def _read(self, incarnation: _Incarnation) -> None:
        """Takes in what is new in its journal, or will do so later."""
        try:
            self._read_now(incarnation)
        except OSError as exc:
            _logger.debug("the journal of a pilot is read later: %s", exc)
            self.watched.unsettled.add(incarnation.journal.name())

    def _read_now(self, incarnation: _Incarnation) -> None:
        """Takes in what is new in its journal; what was read of a part goes. Raises: OSError."""
        was_idle, done = incarnation.running is None, incarnation.done
        try:
            while self._read_part(incarnation):
                self._begin_part(incarnation)
        except FileNotFoundError:  # the next part, which is on its way
            pass
        self._measure(incarnation, incarnation.done - done, was_idle)

    def _begin_part(self, incarnation: _Incarnation) -> None:
        part = incarnation.journal
        _unlink(self._path_of(part))
        self.watched.unsettled.discard(part.name())
        incarnation.journal = part._replace(part=part.part + 1)
        incarnation.offset, incarnation.stuck_since = 0, None

    def _forget(self, incarnation: _Incarnation) -> None:
        """It is over, and all of its journal was read."""
        part = incarnation.journal
        # It may have made the next one when it ended, and not said so.
        for journal in (part, part._replace(part=part.part + 1)):
            _unlink(self._path_of(journal))
        self.watched.unsettled.discard(part.name())
        self._incarnations.pop(incarnation.journal.pilot, None)

    def _read_part(self, incarnation: _Incarnation) -> bool:
        """Takes in what is new in this part. Returns: whether it has ended and another follows.

        Raises: OSError.
        """
        stuck = incarnation.stuck_since
        size = _READ_BYTES
        while True:
            final = incarnation.is_over or (
                stuck is not None and time.monotonic() - stuck > _DAMAGE_PATIENCE_S
            )
            path, owner = self._path_of(incarnation.journal), self._session.directory.owner
            with open(own_files.open_own(path, owner=owner), "rb") as file:
                file.seek(incarnation.offset)
                piece = file.read(size)
            records, length = pilots.read_records(piece, final=final)
            incarnation.offset += length
            self._take_all(incarnation, records)
            if records and isinstance(records[-1], pilots.Continued):
                return True
            if len(piece) < size:
                break
            size = _READ_BYTES if length else 2 * size
        if final and incarnation.last_part > incarnation.journal.part:
            return True  # the record that says so is lost
        if length == len(piece):
            incarnation.stuck_since = None
        elif length or stuck is None:
            incarnation.stuck_since = time.monotonic()
        name = incarnation.journal.name()
        if incarnation.stuck_since is None or final:
            self.watched.unsettled.discard(name)
        else:
            self.watched.unsettled.add(name)
        return False

    def _take_all(self, incarnation: _Incarnation, records: list[pilots.Record]) -> None:
        for record, following in zip(records, [*records[1:], None]):
            # Most tasks are over when it is seen that they began.
            if (
                incarnation.running is None
                and isinstance(record, pilots.Began)
                and isinstance(following, pilots.Ended)
                and following.task == record.task
            ):
                continue
            try:
                self._take(incarnation, record)
            except Exception:  # the others' records are not to be lost with it
                name = incarnation.journal.name()
                _logger.exception("a record of the journal %s could not be taken in", name)

    def _measure(self, incarnation: _Incarnation, done: int, was_idle: bool) -> None:
        """So many tasks were done since its journal was last read; `was_idle`: then it ran none."""
        now = time.monotonic()
        if done and not was_idle:
            took = max(1e-6, (now - incarnation.seen_at) / done)
            known = took if self._task_s is None else self._task_s
            self._task_s = known + _NEWEST_PART * (took - known)
        if done or was_idle:
            incarnation.seen_at = now

    def _take(self, incarnation: _Incarnation, record: pilots.Record) -> None:
        if isinstance(record, pilots.Ended):
            self._on_ended(incarnation, record)
        elif isinstance(record, pilots.Began):
            self._on_began(incarnation, record)
        elif isinstance(record, pilots.Skipped) and (place := self._place(record.task)) is not None:
            self._session.resolver.end_cancelled(*place)

    def _place(self, task: int) -> tuple[TaskArray, int] | None:
        return self._session.resolver.locate(task)

    def _on_began(self, incarnation: _Incarnation, record: pilots.Began) -> None:
        lost = incarnation.running
        incarnation.running = record
        incarnation.began = True
        if lost is not None and lost.task != record.task:
            error = failures.record_lost()
            self._patiently(partial(self._fail, incarnation, lost.task, error))
        place = self._place(record.task)
        if place is None:
            return
        array, position = place
        array.again[position] = incarnation.place
        future = array.futures[position]
        if future is not None:
            if record.log_offset != pilots.NO_LOG:
                future.log_range = (record.log_offset, None)
            future.start()

    def _on_ended(self, incarnation: _Incarnation, record: pilots.Ended) -> None:
        incarnation.done += 1
        incarnation.began = True
        self._failures = 0
        if incarnation.running is not None and incarnation.running.task == record.task:
            incarnation.running = None
        place = self._place(record.task)
        if place is None:
            if record.place == pilots.IN_FILE:  # nobody reads it any more
                shard = self._session.directory.shard(record.task)
                _unlink(os.path.join(shard, run_files.output_name(record.task)))
            return
        array, position = place
        array.again[position] = incarnation.place
        future = array.futures[position]
        if future is not None:
            has_printed = record.log_end > record.log_begin
            future.log_range = (record.log_begin, record.log_end) if has_printed else None
        resolver = self._session.resolver
        of_run: dict[str, Any] = {"node": incarnation.journal.node, "stored": None}
        if record.place == pilots.IN_FILE:
            resolver.take_output_file(*place)
        elif record.place == pilots.IN_STORE:
            of_run["stored"] = record.output
            resolver.take(*place, lambda: Outcome(True, None, None, of_run))
        else:
            resolver.take(*place, lambda: stored_outcome(record.output, of_run))

    def log_part(self, future: ClusterFuture[Any]) -> Part:
        """Where in the log of its pilot what the call has printed is; empty where it has printed nothing.

        In any thread.
        """
        task = -1 if future.array is None else future.array.first + future.position
        begin, end = future.log_range or (0, 0)
        return Part(begin, end, pilots.end_of_part(task, begin))

    # -- their end --

    def _patiently(self, act: Callable[[], None]) -> None:
        """Does what reads the run directory; again, while that fails."""
        self._session.resolver.patiently(act, self._fail_unreadable)

    def _bury(self, future: ClusterFuture[Any]) -> None:
        """The pilot of this future has ended, or will never be. Raises: OSError."""
        if future.cancelled():
            self._ended.pop(future, None)
            return
        error = future.exception(0)
        array = future.array
        piece = None if array is None else array.piece_of(future.position)
        element = None
        if piece is not None and piece.job_id is not None:
            element = str(piece.element(future.position))
        self._see(own_files.listed(self._journals))
        known = list(self._incarnations.values())
        its = [incarnation for incarnation in known if incarnation.journal.job_id == element]
        for incarnation in its:
            self._take_over(incarnation, error)
        if not self.pilots and len(self._ended) == 1:
            for incarnation in list(self._incarnations.values()):
                self._take_over(incarnation, error)
        self._ended.pop(future, None)
        self._tell_count()
        self._look_for_lost()
        self._replace(future, piece, any(incarnation.began for incarnation in its))

    def _replace(self, future: ClusterFuture[Any], piece: Place | None, began: bool) -> None:
        """Others come in its place, unless there is no hope for them."""
        error = future.exception(0)
        failure = future.result(0) if error is None else None
        if isinstance(failure, bytes) and piece is not None:
            self._failures += 1
            if self._failures >= _MAX_INITIALIZER_FAILURES:
                self._fail_as_initializer(failure, piece.element(future.position))
                return
        elif error is not None and not began:
            self._failures += 1
            # What a scheduler could not start is not tried again here: it has taken its time for that.
            is_hopeless = isinstance(error, (SubmissionException, RemoteNeverStartedException))
            if is_hopeless or self._failures >= _MAX_FAILURES:
                self._give_up(error)
                return
        if not self._is_staffing:  # behind the others that are lost with the same node
            self._is_staffing = True
            self._session.resolver.post(self._staff_again)

    def _staff_again(self) -> None:
        self._is_staffing = False
        self.staff()

    def _take_over(self, incarnation: _Incarnation, error: BaseException | None) -> None:
        """It has ended: others do what it has not begun, and what it was running fails.

        Raises: OSError, where that is not known, or not done, yet; it may be called again.
        """
        incarnation.is_over = True
        self._read_now(incarnation)
        self._session.directory.probe(self._held)
        # Twice: one listing may miss a file that another pilot is renaming.
        names = {*own_files.listed(self._held), *own_files.listed(self._held)}
        ranges = [held for name in names if (held := pilots.read_range(name)) is not None]
        its = [held for held in ranges if held.pilot == incarnation.journal.pilot]
        # Tasks that its journal may not tell of.
        begun = {held.next - 1 for held in its if held.next > held.begin}
        if incarnation.running is not None:
            begun.add(incarnation.running.task)
        for task in sorted(begun - incarnation.ended_tasks):
            if not (
                isinstance(error, RemoteTimeLimitException)
                and self._goes_once_more(incarnation, task)
            ):
                self._fail(incarnation, task, error)
            incarnation.ended_tasks.add(task)
        incarnation.running = None
        for held in its:
            self._give_to_others(held)
        self._forget(incarnation)

    def _give_to_others(self, held: pilots.Range) -> None:
        """What is left of it is to do again. Raises: OSError."""
        path = os.path.join(self._held, held.held_name())
        try:
            if held.next == held.end or held.array not in self._arrays:
                os.unlink(path)
            else:
                os.rename(path, os.path.join(self._todo, held.todo_name()))
        except FileNotFoundError:  # another pilot was faster
            pass

    def _goes_once_more(self, incarnation: _Incarnation, task: int) -> bool:
        """A task that had less than a full time limit to run in is given one."""
        session = self._session
        place = self._place(task)
        if place is None or task in self._second_chances or not incarnation.done:
            return False
        if session.cancelling or session.aborted or session.ending:
            return False
        self._second_chances.add(task)
        try:
            self._offer(pilots.Range(place[0].number, task, task, task + 1))
        except OSError:
            return False
        return True

    def _look_for_lost(self) -> None:
        """Checks soon that each open task is in a file, as waiting or as being run.

        We know of no way in which a task gets lost with its pilot. But the future of one that no
        file names would never be done, so it is looked for all the same.
        """
        self._missing = None
        self._session.resolver.later(self._look_for_missing)

    def _look_for_missing(self) -> None:
        self._patiently(self._fail_missing)

    def _fail_missing(self) -> None:
        """Fails the tasks that are in no file at two looks, a second apart. Raises: OSError.

        Each look lists twice, as one listing may miss a file that is being renamed.
        """
        names = {
            name
            for _ in range(2)
            for path in (self._todo, self._held)
            for name in own_files.listed(path)
        }
        there: set[int] = set()
        for name in names:
            tasks = pilots.read_range(name)
            if tasks is not None:
                there.update(range(max(tasks.begin, tasks.next - 1), tasks.end))
        self._see(own_files.listed(self._journals))
        if self.watched.unsettled:  # it may tell of an end
            self._look_for_lost()
            return
        there.update(i.running.task for i in self._incarnations.values() if i.running is not None)
        missing = {
            array.first + position
            for array, position in self._open()
            if array.number in self._published
            and array.first + position not in there
            and not self._session.resolver.is_reading(array, position)
        }
        known, self._missing = self._missing, missing
        if not missing:
            return
        if known is None:
            self._session.resolver.later(self._look_for_missing)
            return
        for task in sorted(missing & known):
            place = self._place(task)
            if place is not None:
                lost = failures.lost_with_pilot(place[0].describe(place[1]))
                self._session.resolver.fail(*place, lost)

    def _fail_unreadable(self, error: OSError | own_files.NotOurs) -> None:
        """What has become of a pilot that has ended can't be found out."""
        self._ended.clear()
        for array, position in self._open():
            exception = failures.records_unreadable(array.describe(position), error)
            self._session.resolver.fail(array, position, exception)

    def _fail(self, incarnation: _Incarnation, task: int, error: BaseException | None) -> None:
        """Raises: OSError, where its output may be in the store."""
        place = self._place(task)
        if place is None or self._session.resolver.take_kept(*place):
            return
        array, position = place
        where = Where(array.describe(position), incarnation.journal.job_id)
        self._session.resolver.fail(array, position, failures.ended_on_pilot(where, error))

    def _fail_as_initializer(self, failure: bytes, element: Element) -> None:
        """Fails all open tasks as the initializer has, unless there is a pilot where it did not."""
        if self.pilots or self._ended:
            return
        self._failures = 0
        for array, position in self._open():
            array.again[position] = _OnPilot(element)
            # Read anew for each: two futures have no exception in common.
            self._session.resolver.take(
                array, position, lambda: stored_outcome(failure, {"stored": None})
            )

    def _give_up(self, error: BaseException) -> None:
        """Where there are no pilots, there will be none."""
        if self.pilots or self._ended:
            return
        self._failures = 0
        for array, position in self._open():
            exception = failures.not_begun(array.describe(position), error)
            self._session.resolver.fail(array, position, exception)

    def _open(self) -> list[tuple[TaskArray, int]]:
        return [
            (array, position)
            for array in self._arrays.values()
            for position, future in enumerate(array.futures)
            if future is not None
        ]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # not there, or left for the removal of the run directory
