"""Gathers calls into arrays and hands them to the scheduler, cut to its limits.

    submit() ------------Call--+
                          +--> queue --> submitter thread --> array file --> Scheduler.submit
    map_to_futures -----Span--+

One submission is in flight at a time; calls that arrive meanwhile join the next array. No limit is asked
for up front: the scheduler is asked to take the whole, and when it refuses for size or count the limit is
looked up. Each exception ends in the futures concerned, or in another try.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from cluster_tools import pickling
from cluster_tools.cluster import failures
from cluster_tools.cluster.cutting import Cutter
from cluster_tools.cluster.future import ClusterFuture, end_quietly
from cluster_tools.cluster.tasks import Piece, TaskArray
from cluster_tools.observers.failure_log import FailureLog
from cluster_tools.schedulers.base import (
    ArrayRequest,
    RefusedForCount,
    RefusedForSize,
    SchedulerError,
    Uncertain,
    Unreachable,
)

if TYPE_CHECKING:
    from cluster_tools.cluster.session import Session

_T = TypeVar("_T")

# Calls that follow each other closely are gathered for longer and longer.
_FIRST_SPACING_S = 0.05
# A scheduler that can't be reached is tried again for so long: restarts and failovers take minutes.
_UNREACHABLE_PATIENCE_S = 900.0
_FIRST_RETRY_S = 1.0
_MAX_RETRY_S = 30.0
# Between two counts of the elements that hold slots, at least.
_MIN_RECOUNT_S = 0.02
# After a submission whose answer was lost, the job may show up in the queue a little later.
_FIND_TRIES = 3
_MAX_UNCERTAIN = 5

_logger = logging.getLogger("cluster_tools")


@dataclass(eq=False)
class Call:
    """A call of `submit`, pickled."""

    future: ClusterFuture[Any]
    name: str
    function: bytes
    call: pickling.Pieces
    # Its key in the output store; None where its output goes into the run directory.
    key: str | None
    kept: bool
    working_directory: str

    def kind(self) -> object:
        """Equal for calls that can be tasks of one array."""
        return self.name, self.key is None, self.kept, self.working_directory


@dataclass(eq=False)
class Span:
    """Tasks of an array that are to be submitted together, by position, ascending."""

    array: TaskArray
    positions: Sequence[int]
    # How often the scheduler was given them before.
    submission: int = 0


def _futures(item: Call | TaskArray | Span | None) -> Iterator[ClusterFuture[Any]]:
    """The futures of new calls; those of a Span are in the resolver's arrays already."""
    if isinstance(item, Call):
        yield item.future
    elif isinstance(item, TaskArray):
        yield from (future for future in list(item.futures) if future is not None)


class _Aborted(Exception):
    """The session ends at once; what is not submitted will not be."""


class Submitter(threading.Thread):
    def __init__(self, session: Session, on_end: Callable[[], None]):
        super().__init__(name="cluster_tools-submitter", daemon=True)
        self._session = session
        self._on_end = on_end
        # What is not submitted yet, with what the thread works on. None ends the thread.
        self._items: deque[Call | TaskArray | Span | None] = deque()
        self._arrivals: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Wakes the thread when there may be room in the scheduler's queue, or the session ends. No Event:
        # those who wake may do so in the middle of anything.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._waiting = False
        self._room_interval_s = _FIRST_RETRY_S
        self._spacing_s = 0.0
        self._next_gathering = 0.0

    def put(self, item: Call | TaskArray | Span | None) -> None:
        self._items.append(item)
        self.wake()

    def wake(self) -> None:
        self._arrivals.put(None)

    def stop(self) -> None:
        """Ends the thread once everything before this is submitted, or at once if the session aborts."""
        self.put(None)
        self._wakes.put(None)

    def has_open_calls(self) -> bool:
        """Whether a call that has not been handed over is not done. In any thread."""
        return any(not future.is_done() for item in list(self._items) for future in _futures(item))

    def make_room(self) -> None:
        if self._waiting:
            self._wakes.put(None)

    def abandon_rest(self) -> int:
        """The session ends at once: nothing that waits here is submitted. Returns how many calls those are."""
        count = 0
        for item in list(self._items):
            for future in _futures(item):
                count += not future.is_done()
                end_quietly(future.abandon, "a call that was not submitted")
        return count

    def run(self) -> None:
        while self._submit_next():
            pass
        self._on_end()

    def _submit_next(self) -> bool:
        """Submits what has come; False after the last. Keeps no reference to it while it waits."""
        while not self._items:
            self._arrivals.get()
        self._let_others_join()
        while not self._arrivals.empty():  # what they tell of is in the list
            self._arrivals.get()
        items = list(self._items)
        try:
            self._submit_all([item for item in items if item is not None])
        # Each item is dealt with where it is submitted. This is for the rest to go on.
        except BaseException:
            _logger.exception("the submitter goes on after an unexpected error")
        for _ in items:
            self._items.popleft()
        self._session.on_handed_over()
        return None not in items

    def _let_others_join(self) -> None:
        """Calls wait for the rest of the spacing; whatever is not a call ends the waiting."""
        if len(self._items) == 1 and time.monotonic() >= self._next_gathering:
            self._spacing_s = 0.0
        while isinstance(self._items[-1], Call):
            left = self._next_gathering - time.monotonic()
            if left <= 0:
                return
            try:
                self._arrivals.get(timeout=left)
            except queue.Empty:
                return

    def _submit_all(self, items: Iterable[Call | TaskArray | Span]) -> None:
        """Submits in the order of coming; calls that follow each other go in together."""
        for is_call, some in groupby(items, lambda item: isinstance(item, Call)):
            if is_call:
                self._gather(item for item in some if isinstance(item, Call))
                continue
            for item in some:
                if isinstance(item, Span):
                    self._guarded(item)
                elif isinstance(item, TaskArray):
                    self._submit_array(item)

    def _submit_array(self, array: TaskArray) -> None:
        if self._session.aborted or self._session.cancelling:
            for future in _futures(array):
                end_quietly(future.abandon, array.name)
        else:
            self._session.hand_over(array, self._guarded)

    def _gather(self, calls: Iterable[Call]) -> None:
        kinds: dict[object, list[Call]] = {}
        for call in calls:
            kinds.setdefault(call.kind(), []).append(call)
        for alike in kinds.values():
            self._submit_calls(alike)
            if len(alike) > 1 or not self._arrivals.empty():
                self._spacing_s = max(_FIRST_SPACING_S, self._spacing_s * 2)
        pool = self._session.pool
        limit_s = self._session.scheduler.max_gathering_s if pool is None else pool.gathering_s()
        self._spacing_s = min(limit_s, self._spacing_s)
        self._next_gathering = time.monotonic() + self._spacing_s

    def _submit_calls(self, calls: list[Call]) -> None:
        calls = [call for call in calls if not call.future.is_done()]
        if self._session.aborted or self._session.cancelling:
            self._abandon(calls)
            return
        if not calls:
            return
        try:
            array = self._session.make_array(
                calls[0].name,
                [call.future for call in calls],
                ((call.function, call.call, call.key) for call in calls),
                working_directory=calls[0].working_directory,
                kept=calls[0].kept,
            )
        except BaseException as exc:
            if self._session.aborted:  # which takes the run directory away
                self._abandon(calls)
                return
            error = failures.not_written(calls[0].name, exc)
            log = FailureLog(len(calls))
            for call in calls:
                end_quietly(partial(call.future.resolve, None, error), call.name)
                log.note(error, f"The call of {call.name}")
            return
        self._session.hand_over(array, self._guarded)

    @staticmethod
    def _abandon(calls: Iterable[Call]) -> None:
        for call in calls:
            end_quietly(call.future.abandon, call.name)

    def _guarded(self, span: Span) -> None:
        """Submits; whatever goes wrong ends in the futures."""
        resolver = self._session.resolver
        try:
            self._check()
            self._submit_span(span)
        except _Aborted:
            resolver.post(resolver.abandon, span.array)
        except BaseException as exc:
            resolver.post(resolver.refuse, span.array, span.positions, exc)

    def _submit_span(self, span: Span) -> None:
        """Submits in pieces, each as large as the limits allow; `span` keeps what is left."""
        session = self._session
        cutter = Cutter(session.scheduler, session.elements_in_queue)
        while span.positions:
            count = cutter.size(len(span.positions))
            if self._all_done(span.array, span.positions[:count]):  # cancelled meanwhile
                span.positions = span.positions[count:]
                continue
            at_a_time = None
            if session.settings.max_workers is not None and not span.array.runs_pilots:
                at_a_time = self._free_slots(session.settings.max_workers, count)
                if not at_a_time:
                    self._wait_for_slots()
                    continue
                if at_a_time < session.settings.max_workers:
                    count = min(count, at_a_time)
            positions = span.positions[:count]
            token = (
                f"{session.directory.token}.{span.array.number}.{positions[0]}.{span.submission}"
            )
            piece = Piece(span.array, positions, span.submission, token, at_a_time=at_a_time)
            self._revoke_cancelled(piece)
            try:
                job_id = self._submit(piece)
            except (RefusedForSize, RefusedForCount) as refusal:
                leaving = cutter.on_refused(refusal, count)
                if leaving is not None:
                    self._wait_for_room(piece, leaving, refusal)
                continue
            cutter.on_taken(count)
            self._room_interval_s = _FIRST_RETRY_S
            session.on_submitted(piece, job_id)
            span.positions = span.positions[count:]

    def _free_slots(self, limit: int, count: int) -> int:
        """How many of `count` elements may run now, where no more than `limit` run at a time.

        An array holds as many slots as its open elements can fill, so the next one is not throttled for
        itself alone. A long one waits until all are free: else it would go in by many small submissions.
        """
        held = self._session.slots_held()
        if held and count > 2 * limit:
            return 0
        return max(0, limit - held)

    def _wait_for_slots(self) -> None:
        """Until an element has ended, or for a while. Counting costs something: so not for each of many."""
        self._sleep(_FIRST_RETRY_S)
        time.sleep(_MIN_RECOUNT_S)
        while not self._wakes.empty():
            self._wakes.get()
        self._check()

    def _revoke_cancelled(self, piece: Piece) -> None:
        """What was cancelled does not begin even if its element does."""
        array = piece.array
        for position in piece.positions:
            future = array.futures[position]
            if future is None or future.is_done():
                self._session.revoke(array, position)

    @staticmethod
    def _all_done(array: TaskArray, positions: Sequence[int]) -> bool:
        futures = (array.futures[position] for position in positions)
        return all(future is None or future.is_done() for future in futures)

    def _wait_for_room(self, piece: Piece, leaving: int, refusal: SchedulerError) -> None:
        """Until so many of our own elements have left the queue, or for a while: others' may be in the way."""
        session = self._session
        if self._room_interval_s == _FIRST_RETRY_S:  # the first time
            _logger.warning(
                "%d tasks of %s wait for room in the queue: %s",
                len(piece.positions),
                piece.array.name,
                refusal,
            )
        enough = session.elements_in_queue() - leaving
        deadline = time.monotonic() + self._room_interval_s
        self._room_interval_s = min(_MAX_RETRY_S, self._room_interval_s * 2)
        while time.monotonic() < deadline:
            self._check()
            if session.elements_in_queue() <= enough:
                break
            if self._all_done(piece.array, piece.positions):
                return
            self._sleep(_FIRST_RETRY_S)
        # What has just ended is counted by the scheduler for a moment longer.
        self._pause(_FIRST_RETRY_S / 2)

    def _submit(self, piece: Piece) -> str:
        """Submits until the scheduler has taken it or refuses for good."""
        session = self._session
        request = ArrayRequest(
            name=piece.array.name,
            token=piece.token,
            count=len(piece.positions),
            is_array=piece.is_array,
            command=session.worker_command(piece),
            working_directory=piece.array.working_directory,
            run_directory=session.directory.path,
            runs_pilots=piece.array.runs_pilots,
            at_a_time=piece.at_a_time,
        )

        def submit() -> str:
            if session.directory.is_replaced():  # what the scheduler would read there is not ours
                raise session.directory.replaced()
            return session.scheduler.submit(request)

        uncertain = 0
        while True:
            self._check()
            try:
                return self._reach(submit)
            except Uncertain as exc:
                uncertain += 1
                _logger.warning("Whether %s was submitted is not certain: %s", request.name, exc)
                for _ in range(_FIND_TRIES):
                    job_id = self._reach(lambda: session.scheduler.find(piece.token))
                    if job_id is not None:
                        return job_id
                    self._pause(_FIRST_RETRY_S)
                if uncertain == _MAX_UNCERTAIN:
                    raise

    def _reach(self, ask: Callable[[], _T]) -> _T:
        """Asks until the scheduler can be reached. Raises: Unreachable, after minutes."""
        began = time.monotonic()
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                return ask()
            except Unreachable as exc:
                if time.monotonic() - began > _UNREACHABLE_PATIENCE_S:
                    raise
                if retry_s == _FIRST_RETRY_S:
                    _logger.warning("The scheduler can't be reached; trying again: %s", exc)
            self._pause(retry_s)
            retry_s = min(_MAX_RETRY_S, retry_s * 2)

    def _pause(self, seconds: float) -> None:
        """Sleeps, but not beyond the end of an aborted session."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            self._sleep(left)
        self._check()

    def _sleep(self, seconds: float) -> None:
        """Until somebody wakes the thread, at the longest so long."""
        self._waiting = True
        try:
            self._wakes.get(timeout=seconds)
        except queue.Empty:
            pass
        finally:
            self._waiting = False

    def _check(self) -> None:
        if self._session.aborted or self._session.ending:
            raise _Aborted
