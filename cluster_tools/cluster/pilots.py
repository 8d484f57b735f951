"""The pilots of one executor, seen from the client: what they are given, what they have done, who is there.

    arrays --publish--> todo files --> pilots --> journals
               |                                     |
    futures <--+-- resolver's thread <-- watcher ----+
               |
               +-- staff: submits pilots while there is work, as ordinary tasks of the same session;
               |   when the future of one is done its element has ended, and
               +-- bury: what it held and had not begun is to do again, what it was running fails

The files and their rules are those of `cluster_tools.pilot`. The resolver's thread alone knows who does what;
what other threads call says so.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_tools import pickling, pilot
from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.logs import Part
from cluster_tools.cluster.run_directory import Outcome, stored_outcome
from cluster_tools.cluster.submission import Span
from cluster_tools.cluster.tasks import Piece, TaskArray
from cluster_tools.cluster.watching import Watched
from cluster_tools.errors import (
    RemoteException,
    RemotePreemptedException,
    RemoteTimeLimitException,
    SubmissionException,
)
from cluster_tools.schedulers.base import Element

if TYPE_CHECKING:
    from cluster_tools.cluster.session import Session

# Pilots that end one after the other without having begun a task: then there is no hope for the rest.
_MAX_FAILURES = 4
# The same of those whose initializer has failed.
_MAX_INITIALIZER_FAILURES = 2
_READ_BYTES = 4 << 20
# Where in logs the output of so many calls is, is kept.
_MAX_PARTS = 100_000
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


class _OnPilot(Piece):
    """The place of tasks that a pilot runs: all of them are the same element."""

    def __init__(self, array: TaskArray, element: Element):
        super().__init__(array, 0, 0, 0, "", element.job_id)
        self._element = element

    @property
    def is_array(self) -> bool:
        return True

    def element(self, position: int) -> Element:
        return self._element


@dataclass
class _Incarnation:
    """A pilot from its journal on: one run of one element."""

    journal: pilot.Journal
    # How far its journal was read, and since when it does not go on there.
    offset: int = 0
    stuck_since: float | None = None
    running: pilot.Began | None = None
    began: bool = False
    done: int = 0
    # When the last of them was seen, or that it runs none.
    seen_at: float = field(default_factory=time.monotonic)
    is_over: bool = False
    places: dict[int, _OnPilot] = field(default_factory=dict[int, _OnPilot])


class Journals(Watched):
    """The pilots' journals; `post` takes their names."""

    min_interval_s = _MIN_INTERVAL_S

    def __init__(self, path: str, post: Any):
        super().__init__(path, post)
        self._sizes: dict[str, int] = {}
        # Those whose last record is not whole, or not right: they are looked at again all the same.
        self.unsettled: set[str] = set()

    def _news(self) -> list[str]:
        news: list[str] = []
        for name in _listed(self.path):
            try:
                # By opening: what `stat` says of a file on NFS may be seconds old.
                fd = os.open(os.path.join(self.path, name), os.O_RDONLY)
            except OSError:
                continue
            try:
                size = os.fstat(fd).st_size
            finally:
                os.close(fd)
            if size != self._sizes.get(name) or name in self.unsettled:
                self._sizes[name] = size
                news.append(name)
        return news


class PilotPool:
    """`count`: pilots at the most. `idle_timeout_s`: after which one without work leaves."""

    def __init__(self, session: Session, count: int, idle_timeout_s: float):
        self._session = session
        self._count = count
        self._idle_timeout_s = idle_timeout_s
        path = session.directory.path
        self._todo = os.path.join(path, pilot.TODO)
        self._held = os.path.join(path, pilot.HELD)
        self._journals = os.path.join(path, pilot.JOURNALS)
        for directory in (self._todo, self._held, self._journals):
            os.mkdir(directory, 0o700)
        self._revoked = os.path.join(path, pilot.REVOKED)
        # There from the beginning: that is looked at before each task, and what is missing costs more.
        os.close(os.open(self._revoked, os.O_WRONLY | os.O_CREAT, 0o600))
        self.watched = Journals(self._journals, self._on_news)
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
        self._incarnations: dict[str, _Incarnation] = {}
        # Pilots that have ended since the last task was begun.
        self._failures = 0
        # Tasks that a pilot's time limit has ended once.
        self._second_chances: set[int] = set()
        # Where in the log of its pilot what a task has printed is: (from, to).
        self._parts: dict[int, tuple[int, int | None]] = {}

    # -- work --

    def publish(self, array: TaskArray) -> None:
        """Its tasks are for whoever comes first. After `expect`: their records may come at once."""
        if self._session.aborted:
            return
        offered: list[pilot.Range] = []
        try:
            for begin, end in self._cut(array):
                tasks = pilot.Range(array.number, begin, begin, end)
                self._offer(tasks)
                offered.append(tasks)
        except OSError as exc:
            self._withdraw(array, offered, exc)
        self._published.add(array.number)
        self.staff()

    def _withdraw(self, array: TaskArray, offered: list[pilot.Range], error: OSError) -> None:
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

    def _offer(self, tasks: pilot.Range) -> None:
        """Raises: OSError."""
        # No link to another: a rename between names of one file does nothing, and says that it has.
        path = os.path.join(self._todo, tasks.todo_name())
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    def expect(self, array: TaskArray) -> None:
        self._arrays[array.number] = array
        self._open_tasks += array.open
        self.watched.open_tasks[0] = self._open_tasks

    def on_closed(self, array: TaskArray, position: int) -> None:
        """A task of the array has come to its end."""
        self._open_tasks -= 1
        if self._open_tasks:
            self.watched.open_tasks[0] = self._open_tasks
        else:
            self.watched.open_tasks.pop(0, None)
        if not array.open:
            self._arrays.pop(array.number, None)
            self._published.discard(array.number)

    def revoke(self, task: int) -> None:
        """Nobody is to begin this task. In the thread that cancels: whoever is told so may rely on it."""
        try:
            fd = os.open(self._revoked, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(fd, f"{task}\n".encode())
            finally:
                os.close(fd)
        except OSError as exc:
            _logger.warning("The cancelled task %d may still run: %s", task, exc)

    # -- pilots --

    def staff(self) -> None:
        """As many pilots as there is work for."""
        session = self._session
        missing = min(self._count, self._open_tasks) - len(self.pilots)
        if missing <= 0 or session.aborted or session.ending or session.cancelling:
            return
        futures: list[ClusterFuture[Any]] = []
        for _ in range(missing):
            future = session.new_future()
            self.pilots[future] = None
            future.add_done_callback(self._on_end)
            futures.append(future)
        try:
            array = self._array(futures)
        except Exception as exc:
            for future in futures:
                future.resolve(None, SubmissionException(f"No pilot could be written: {exc}", ""))
            return
        session.resolver.expect(array)
        session.submitter.put(Span(array, range(array.count)))
        with session.state_lock:  # all calls may have been cancelled meanwhile
            session.end_if_done()

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
                working_directory=os.getcwd(),
                kept=False,
                indexed=True,
                runs_pilots=True,
            )
        except BaseException:
            writer.discard()
            raise

    def _on_end(self, future: Any) -> None:
        """In any thread."""
        self._ended[future] = None
        self.pilots.pop(future, None)
        self._session.resolver.post(self._bury, future)

    def dismiss(self) -> None:
        """All calls are done, and no more come: pilots leave by themselves, or never begin."""
        with self._session.state_lock:
            if not self._session.is_idle_but_for(len(self.pilots)):
                return
        if not self._session.leaves_jobs:
            path = os.path.join(self._todo, pilot.STOP)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            except OSError:  # they see that the directory is gone
                pass
        unborn: list[Element] = []
        known = {i.journal.job_id for i in self._incarnations.values()}
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
        for name in names:
            incarnation = self._meet(name)
            if incarnation is not None:
                self._read(name, incarnation)
        self._session.announce()

    def _meet(self, name: str) -> _Incarnation | None:
        """The pilot with this journal."""
        known = self._incarnations.get(name)
        journal = pilot.read_journal_name(name)
        if known is not None or journal is None:
            return known
        incarnation = self._incarnations[name] = _Incarnation(journal)
        for other_name, other in list(self._incarnations.items()):
            if other.journal.job_id != journal.job_id or other.is_over or other is incarnation:
                continue
            earlier = min((other_name, other), (name, incarnation), key=_restart)
            text = f"The job {journal.job_id} of its pilot was requeued."
            self._take_over(*earlier, RemotePreemptedException(text, journal.job_id))
        self._tell_count()
        return incarnation

    def _tell_count(self) -> None:
        """The more pilots there are, the less often each of them looks for work."""
        count = sum(not incarnation.is_over for incarnation in self._incarnations.values())
        name = f"{pilot.ALIVE}{max(1, count)}"
        if name == self._told_count:
            return
        path = os.path.join(self._todo, name)
        try:
            if self._told_count:
                os.rename(os.path.join(self._todo, self._told_count), path)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError:  # then they look as often as before
            return
        self._told_count = name

    def _read(self, name: str, incarnation: _Incarnation) -> None:
        """Takes in what is new in its journal."""
        path = os.path.join(self._journals, name)
        stuck = incarnation.stuck_since
        was_idle, done = incarnation.running is None, incarnation.done
        size = _READ_BYTES
        while True:
            final = incarnation.is_over or (
                stuck is not None and time.monotonic() - stuck > _DAMAGE_PATIENCE_S
            )
            try:
                with open(path, "rb") as file:
                    file.seek(incarnation.offset)
                    piece = file.read(size)
            except OSError as exc:
                _logger.debug("the journal %s of a pilot is read later: %s", path, exc)
                self.watched.unsettled.add(name)
                return
            records, length = pilot.read_records(piece, final=final)
            incarnation.offset += length
            for record, following in zip(records, [*records[1:], None]):
                # Most tasks are over when it is seen that they began.
                if (
                    incarnation.running is None
                    and isinstance(record, pilot.Began)
                    and isinstance(following, pilot.Ended)
                    and following.task == record.task
                ):
                    continue
                try:
                    self._take(incarnation, record)
                except Exception:  # the others' records are not to be lost with it
                    _logger.exception("a record of the journal %s could not be taken in", path)
            if len(piece) < size:
                break
            size = _READ_BYTES if length else 2 * size
        self._measure(incarnation, incarnation.done - done, was_idle)
        if length == len(piece):
            incarnation.stuck_since = None
        elif length or stuck is None:
            incarnation.stuck_since = time.monotonic()
        if incarnation.stuck_since is None or final:
            self.watched.unsettled.discard(name)
        else:
            self.watched.unsettled.add(name)

    def _measure(self, incarnation: _Incarnation, done: int, was_idle: bool) -> None:
        """So many tasks were done since its journal was last read; `was_idle`: then it ran none."""
        now = time.monotonic()
        if done and not was_idle:
            took = max(1e-6, (now - incarnation.seen_at) / done)
            known = took if self._task_s is None else self._task_s
            self._task_s = known + _NEWEST_PART * (took - known)
        if done or was_idle:
            incarnation.seen_at = now

    def _take(self, incarnation: _Incarnation, record: pilot.Began | pilot.Ended) -> None:
        if isinstance(record, pilot.Ended):
            self._on_ended(incarnation, record)
        else:
            self._on_began(incarnation, record)

    def _place(self, task: int) -> tuple[TaskArray, int] | None:
        return self._session.resolver.locate(task)

    def _on_began(self, incarnation: _Incarnation, record: pilot.Began) -> None:
        lost = incarnation.running
        incarnation.running = record
        incarnation.began = True
        if lost is not None and lost.task != record.task:
            self._fail(
                incarnation, lost.task, RemoteException("The record of its output was lost.", "")
            )
        place = self._place(record.task)
        if place is None:
            return
        array, position = place
        if record.log_offset != pilot.NO_LOG:
            self._remember_part(record.task, record.log_offset, None)
        self._put(incarnation, array, position)
        future = array.futures[position]
        if future is not None:
            future.start()

    @staticmethod
    def _put(incarnation: _Incarnation, array: TaskArray, position: int) -> None:
        """That is the job of this task."""
        piece = incarnation.places.get(array.number)
        if piece is None:
            job_id, _, index = incarnation.journal.job_id.rpartition("_")
            piece = incarnation.places[array.number] = _OnPilot(array, Element(job_id, int(index)))
        array.again[position] = piece

    def _on_ended(self, incarnation: _Incarnation, record: pilot.Ended) -> None:
        incarnation.done += 1
        incarnation.began = True
        self._failures = 0
        if incarnation.running is not None and incarnation.running.task == record.task:
            incarnation.running = None
        if record.log_end > record.log_begin:
            self._remember_part(record.task, record.log_begin, record.log_end)
        else:
            self._parts.pop(record.task, None)
        place = self._place(record.task)
        if place is None:
            return
        self._put(incarnation, *place)
        resolver = self._session.resolver
        of_run: dict[str, Any] = {"node": incarnation.journal.node, "stored": None}
        if record.place == pilot.IN_FILE:
            resolver.take_output_file(*place)
        elif record.place == pilot.IN_STORE:
            of_run["stored"] = pilot.fingerprint_of(record)
            resolver.take(*place, lambda: Outcome(True, None, None, of_run))
        else:
            resolver.take(*place, lambda: stored_outcome(record.output, of_run))

    def _remember_part(self, task: int, begin: int, end: int | None) -> None:
        if len(self._parts) >= _MAX_PARTS:
            del self._parts[next(iter(self._parts))]
        self._parts[task] = (begin, end)

    def log_part(self, future: ClusterFuture[Any]) -> Part:
        """Where in the log of its pilot what the call has printed is; empty where it has printed nothing.

        In any thread.
        """
        task = -1 if future.array is None else future.array.first + future.position
        begin, end = self._parts.get(task, (0, 0))
        return Part(begin, end, pilot.end_of_part(task, begin))

    # -- their end --

    def _bury(self, future: ClusterFuture[Any]) -> None:
        """The pilot of this future has ended, or will never be."""
        self._ended.pop(future, None)
        if future.cancelled():
            return
        error = future.exception(0)
        array = future.array
        piece = None if array is None else array.piece_of(future.position)
        element = None
        if piece is not None and piece.job_id is not None:
            element = str(piece.element(future.position))
        began = False
        self._see(_listed(self._journals))
        for name, incarnation in list(self._incarnations.items()):
            if incarnation.journal.job_id == element and not incarnation.is_over:
                self._take_over(name, incarnation, error)
                began = began or incarnation.began
        self._tell_count()
        if not self.pilots and not self._ended:
            for name, incarnation in list(self._incarnations.items()):
                if not incarnation.is_over:
                    self._take_over(name, incarnation, error)
            self._fail_lost()
        failure = future.result(0) if error is None else None
        if isinstance(failure, bytes) and piece is not None:
            self._failures += 1
            if self._failures >= _MAX_INITIALIZER_FAILURES:
                self._fail_as_initializer(failure, piece.element(future.position))
                return
        elif error is not None and not began:
            self._failures += 1
            if isinstance(error, SubmissionException) or self._failures >= _MAX_FAILURES:
                self._give_up(error)
                return
        self.staff()

    def _take_over(self, name: str, incarnation: _Incarnation, error: BaseException | None) -> None:
        """It has ended: others do what it has not begun, and what it was running fails."""
        incarnation.is_over = True
        self._read(name, incarnation)
        _probe(self._held)
        running = set[int]()
        if incarnation.running is not None:
            running.add(incarnation.running.task)
            incarnation.running = None
        for held_name in _listed(self._held):
            held = pilot.read_range(held_name)
            if held is None or held.pilot != incarnation.journal.pilot:
                continue
            if held.next > held.begin:  # of which its journal may not tell
                running.add(held.next - 1)
            path = os.path.join(self._held, held_name)
            try:
                if held.next == held.end:
                    os.unlink(path)
                else:
                    os.rename(path, os.path.join(self._todo, held.todo_name()))
            except OSError:  # another pilot was faster
                continue
        for task in sorted(running):
            if not (
                isinstance(error, RemoteTimeLimitException)
                and self._goes_once_more(incarnation, task)
            ):
                self._fail(incarnation, task, error)

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
            self._offer(pilot.Range(place[0].number, task, task, task + 1))
        except OSError:
            return False
        return True

    def _fail_lost(self) -> None:
        """Without pilots all that is open is to do. What is not there went with one, between two steps of it."""
        todo = [tasks for name in _listed(self._todo) if (tasks := pilot.read_range(name))]
        there = {task for tasks in todo for task in range(tasks.next, tasks.end)}
        for array, position in self._open():
            if (
                array.first + position not in there
                and array.number in self._published
                and not self._session.resolver.is_reading(array, position)
            ):
                text = (
                    f"{array.describe(position)} was lost with the pilot that was about to run it."
                )
                self._session.resolver.fail(array, position, RemoteException(text, ""))

    def _fail(self, incarnation: _Incarnation, task: int, error: BaseException | None) -> None:
        place = self._place(task)
        if place is None or self._session.resolver.take_stored(*place):
            return
        array, position = place
        job_id = incarnation.journal.job_id
        text = _text(error) or "Its pilot has left without a word on it."
        where = f"{array.describe(position)} (job {job_id})"
        exception = _kind(error)(f"{where} ended without a result: {text}", job_id)
        exception.__cause__ = error
        self._session.resolver.fail(array, position, exception)

    def _fail_as_initializer(self, failure: bytes, element: Element) -> None:
        """Fails all open tasks as the initializer has, unless there is a pilot where it did not."""
        if self.pilots or self._ended:
            return
        self._failures = 0
        for array, position in self._open():
            array.again[position] = _OnPilot(array, element)
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
            text = f"{array.describe(position)} was not begun: {_text(error)}"
            exception = _kind(error)(text, "")
            exception.__cause__ = error
            self._session.resolver.fail(array, position, exception)

    def _open(self) -> list[tuple[TaskArray, int]]:
        return [
            (array, position)
            for array in self._arrays.values()
            for position, future in enumerate(array.futures)
            if future is not None
        ]


def _restart(known: tuple[str, _Incarnation]) -> int:
    return known[1].journal.restart


def _kind(error: BaseException | None) -> type[RemoteException]:
    """The class of ours that says best what `error` does; those made for exceptions of calls are the call's."""
    if isinstance(error, RemoteException) and type(error).__module__ == RemoteException.__module__:
        return type(error)
    return RemoteException


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _probe(directory: str) -> None:
    """A change of the directory makes an NFS client forget its listing."""
    path = os.path.join(directory, "probe")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(path)
    except OSError:
        pass


def _text(error: BaseException | None) -> str:
    if isinstance(error, RemoteException):
        return error.error.strip()
    return "" if error is None else f"{type(error).__name__}: {error}"
