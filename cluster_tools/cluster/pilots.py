"""The pilots of one executor, seen from the client: what they are given, what they have done, who is there.

    submitter --publish--> todo files --> pilots --> journals
                                                        |
    futures <-- resolver <-- see <-- watcher notices ---+
                   |
                   +-- staff: submits pilots while there is work, as ordinary tasks of the same session;
                   |   when the future of one is done its element has ended, and
                   +-- bury: what it held and had not begun is to do again, what it was running fails

The files and their rules are those of `cluster_tools.pilot`. All but `publish` and `revoke` runs in the resolver's thread.
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
from cluster_tools.cluster.run_directory import Outcome, stored_outcome
from cluster_tools.cluster.submission import Span
from cluster_tools.cluster.tasks import Piece, TaskArray
from cluster_tools.cluster.watching import Watched
from cluster_tools.errors import RemoteException, RemoteTimeLimitException, SubmissionException
from cluster_tools.schedulers.base import Element

if TYPE_CHECKING:
    from cluster_tools.cluster.session import Session

_NAME = "pilot"
# Pilots that end one after the other without having begun a task: then there is no hope for the rest.
_MAX_FAILURES = 4
_READ_BYTES = 4 << 20
# What is not right in a journal may be on its way for so long.
_DAMAGE_PATIENCE_S = 5.0
# A warm pilot's answer is not to wait for us.
_MIN_INTERVAL_S = 0.005

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
    """A pilot from its first record on: one run of one element."""

    name: str
    element: str = ""
    node: str = ""
    # How far its journal was read, and since when it does not go on there.
    offset: int = 0
    stuck_since: float | None = None
    running: pilot.Began | None = None
    done: int = 0
    began: bool = False
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
        self.watched = Journals(self._journals, self._on_news)
        self._arrays: dict[int, TaskArray] = {}
        self._open_tasks = 0
        # The futures of those who are in the queue or there. Only whole-dict operations.
        self.pilots: dict[ClusterFuture[Any], None] = {}
        self._incarnations: dict[str, _Incarnation] = {}
        # Pilots that have ended since the last task was begun.
        self._failures = 0
        # Tasks that a pilot's time limit has ended once.
        self._second_chances: set[int] = set()
        # Where in the log of its pilot what a task has printed is: (from, to).
        self._parts: dict[int, tuple[int, int | None]] = {}

    # -- work --

    def publish(self, array: TaskArray, start: int, end: int) -> None:
        """Tasks for whoever comes first. In the submitter's thread. Raises: OSError."""
        first, last = array.first + start, array.first + end
        for begin, stop in _cut(first, last, self._count):
            self._offer(pilot.Range(array.number, begin, begin, stop))
        self._session.resolver.post(self.staff)

    def _offer(self, tasks: pilot.Range) -> None:
        path = os.path.join(self._todo, tasks.todo_name())
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    def expect(self, array: TaskArray) -> None:
        self._arrays[array.number] = array
        self._open_tasks += array.open
        self.watched.open_tasks[0] = self._open_tasks

    def on_closed(self, array: TaskArray) -> None:
        """A task of the array has come to its end."""
        self._open_tasks -= 1
        if self._open_tasks:
            self.watched.open_tasks[0] = self._open_tasks
        else:
            self.watched.open_tasks.pop(0, None)
        if not array.open:
            self._arrays.pop(array.number, None)

    def revoke(self, task: int) -> None:
        """Nobody is to begin this task. In the thread that cancels: who is told so may rely on it."""
        path = os.path.join(self._session.directory.path, pilot.REVOKED)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
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
        session.submitter.put(Span(array, 0, array.count))

    def _array(self, futures: list[ClusterFuture[Any]]) -> TaskArray:
        session = self._session
        limit_s = session.scheduler.time_limit_s
        function = pickling.dumps(pilot.run_pilot)
        no_keywords: dict[str, Any] = {}
        call = pickling.dumps(((self._idle_timeout_s, self._count, limit_s), no_keywords))
        writer = session.directory.begin_array()
        try:
            for _ in futures:
                writer.add(function, call, None)
            return session.finish_array(
                writer,
                _NAME,
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
        known = {i.element for i in self._incarnations.values()}
        for future in list(self.pilots):
            array = future.array
            piece = None if array is None else array.piece_of(future.position)
            if piece is not None and piece.job_id is not None:
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
            incarnation = self._incarnations.setdefault(name, _Incarnation(name))
            self._read(incarnation)
        self._session.announce()

    def _read(self, incarnation: _Incarnation) -> None:
        """Takes in what is new in its journal."""
        path = os.path.join(self._journals, incarnation.name)
        stuck = incarnation.stuck_since
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
                _logger.warning("The journal %s of a pilot can't be read: %s", path, exc)
                return
            records, length = pilot.read_records(piece, final=final)
            incarnation.offset += length
            for record, following in zip(records, [*records[1:], None]):
                # Most tasks are over when it is seen that they began.
                if not (
                    isinstance(record, pilot.Began)
                    and isinstance(following, pilot.Ended)
                    and following.task == record.task
                ):
                    self._take(incarnation, record)
                elif incarnation.running is not None:
                    self._on_began(incarnation, record)
            if len(piece) < size:
                break
            size = _READ_BYTES if length else 2 * size
        if length == len(piece):
            incarnation.stuck_since = None
        elif length or stuck is None:
            incarnation.stuck_since = time.monotonic()
        if incarnation.stuck_since is None or final:
            self.watched.unsettled.discard(incarnation.name)
        else:
            self.watched.unsettled.add(incarnation.name)

    def _take(
        self, incarnation: _Incarnation, record: pilot.Hello | pilot.Began | pilot.Ended
    ) -> None:
        if isinstance(record, pilot.Ended):
            self._on_ended(incarnation, record)
        elif isinstance(record, pilot.Began):
            self._on_began(incarnation, record)
        else:
            incarnation.element, incarnation.node = record.job_id, record.node
            for other in list(self._incarnations.values()):
                if (
                    other.element == record.job_id
                    and other is not incarnation
                    and not other.is_over
                ):
                    text = f"The job {record.job_id} of its pilot was requeued."
                    self._take_over(other, RemoteException(text, record.job_id))

    def _place(self, task: int) -> tuple[TaskArray, int] | None:
        return self._session.resolver.locate(task)

    def _on_began(self, incarnation: _Incarnation, record: pilot.Began) -> None:
        lost = incarnation.running
        incarnation.running = record
        incarnation.began = True
        if lost is not None and lost.task != record.task:
            self._fail(
                incarnation,
                lost.task,
                RemoteException("Its output was damaged.", incarnation.element),
            )
        place = self._place(record.task)
        if place is None:
            return
        array, position = place
        self._put(incarnation, array, position)
        if record.log_offset != pilot.NO_LOG:
            self._parts[record.task] = (record.log_offset, None)
        future = array.futures[position]
        if future is not None:
            future.start()

    @staticmethod
    def _put(incarnation: _Incarnation, array: TaskArray, position: int) -> None:
        piece = incarnation.places.get(array.number)
        if piece is None:
            job_id, _, index = incarnation.element.rpartition("_")
            piece = _OnPilot(array, Element(job_id, int(index)))
            incarnation.places[array.number] = piece
        array.again[position] = piece

    def _on_ended(self, incarnation: _Incarnation, record: pilot.Ended) -> None:
        incarnation.done += 1
        incarnation.began = True
        self._failures = 0
        if incarnation.running is not None and incarnation.running.task == record.task:
            incarnation.running = None
        if record.log_end > record.log_begin:
            self._parts[record.task] = (record.log_begin, record.log_end)
        else:
            self._parts.pop(record.task, None)
        place = self._place(record.task)
        if place is None:
            return
        self._put(incarnation, *place)
        resolver = self._session.resolver
        of_run: dict[str, Any] = {"node": incarnation.node, "stored": None}
        if record.place == pilot.IN_FILE:
            resolver.take_output_file(*place)
        elif record.place == pilot.IN_STORE:
            of_run["stored"] = pilot.fingerprint_of(record)
            resolver.take(*place, lambda: Outcome(True, None, None, of_run))
        else:
            resolver.take(*place, lambda: stored_outcome(record.output, of_run))

    def log_part(self, future: ClusterFuture[Any]) -> tuple[int, int | None]:
        """Where in the log of its pilot what the call has printed is; 0 bytes where it has printed nothing."""
        array = future.array
        return (0, 0) if array is None else self._parts.get(array.first + future.position, (0, 0))

    # -- their end --

    def _bury(self, future: ClusterFuture[Any]) -> None:
        """The pilot of this future has ended, or will never be."""
        if future.cancelled():
            return
        error = future.exception(0)
        array = future.array
        piece = None if array is None else array.piece_of(future.position)
        element = (
            "" if piece is None or piece.job_id is None else str(piece.element(future.position))
        )
        began = False
        for name in _listed(self._journals):
            incarnation = self._incarnations.setdefault(name, _Incarnation(name))
            self._read(incarnation)
        for incarnation in list(self._incarnations.values()):
            if incarnation.element == element and not incarnation.is_over:
                self._take_over(incarnation, error)
                began = began or incarnation.began
        if error is not None and not began:
            self._failures += 1
        if error is not None and (
            isinstance(error, SubmissionException) or self._failures >= _MAX_FAILURES
        ):
            self._give_up(error)
        else:
            self.staff()

    def _take_over(self, incarnation: _Incarnation, error: BaseException | None) -> None:
        """It has ended: others do what it has not begun, and what it was running fails."""
        incarnation.is_over = True
        self._read(incarnation)
        _probe(self._held)
        running = {incarnation.running.task} if incarnation.running is not None else set[int]()
        for name in _listed(self._held):
            held = pilot.read_range(name)
            if held is None or held.pilot != incarnation.name:
                continue
            if held.next > held.begin:  # of which its journal may not have told yet
                running.add(held.next - 1)
            path = os.path.join(self._held, name)
            try:
                if held.next == held.end:
                    os.unlink(path)
                else:
                    os.rename(path, os.path.join(self._todo, held.todo_name()))
            except OSError:  # another pilot was faster
                continue
        for task in sorted(running):
            if isinstance(error, RemoteTimeLimitException) and self._goes_once_more(
                incarnation, task
            ):
                continue
            self._fail(incarnation, task, error)

    def _goes_once_more(self, incarnation: _Incarnation, task: int) -> bool:
        """A task that had less than a full time limit to run in is given one."""
        place = self._place(task)
        if place is None or task in self._second_chances or not incarnation.done:
            return False
        self._second_chances.add(task)
        try:
            self._offer(pilot.Range(place[0].number, task, task, task + 1))
        except OSError:
            return False
        return True

    def _fail(self, incarnation: _Incarnation, task: int, error: BaseException | None) -> None:
        place = self._place(task)
        if place is None:
            return
        array, position = place
        where = f"{array.describe(position)} (job {incarnation.element})"
        text = _text(error) or "Its pilot has left without a word on it."
        kind = type(error) if isinstance(error, RemoteException) else RemoteException
        exception = kind(f"{where} ended without a result: {text}", incarnation.element)
        self._session.resolver.fail(array, position, exception)

    def _give_up(self, error: BaseException) -> None:
        """There are no pilots, and there will be none."""
        if self.pilots:
            return
        running = {i.running.task for i in self._incarnations.values() if i.running is not None}
        kind = type(error) if isinstance(error, RemoteException) else RemoteException
        for array, position in list(self._open()):
            if array.first + position not in running:
                text = f"{array.describe(position)} was not begun: {_text(error)}"
                self._session.resolver.fail(array, position, kind(text, ""))

    def _open(self) -> Iterator[tuple[TaskArray, int]]:
        for array in list(self._arrays.values()):
            for position, future in enumerate(array.futures):
                if future is not None:
                    yield array, position


def _cut(first: int, last: int, pilots: int) -> Iterator[tuple[int, int]]:
    """Ranges, large ones first: each is half of what would be one pilot's part of the rest."""
    while first < last:
        size = max(1, (last - first) // (2 * pilots))
        yield first, first + size
        first += size


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
