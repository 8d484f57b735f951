"""Gathers calls into arrays, and submits them.

    submit() ----------Call------+
    map_to_futures() --CallArray-+--> queue --> submitter thread --Written--> resolver
    resolver ----------Selection-+                  '--> Submission --> scheduler

A `Selection` has tasks that go in again, or pilots. Calls for pilots are not submitted: the
resolver offers them to pilots once they are written. Calls that arrive during a submission, or
within a short time, join one array. Each exception is set in the futures that it concerns.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from cluster_tools.cluster import failures
from cluster_tools.cluster.arrays import Arrays
from cluster_tools.cluster.calls import Call, CallArray
from cluster_tools.cluster.events import (
    Event,
    NotSubmitted,
    PerhapsDone,
    Refused,
    SubmitterEnded,
    Written,
)
from cluster_tools.cluster.future import ClusterFuture, end_quietly
from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.submission import Aborted, Submission
from cluster_tools.cluster.tasks import Selection
from cluster_tools.failure_log import FailureLog

# How long calls are gathered at first. The time doubles while more calls follow closely.
_FIRST_SPACING_S = 0.05

_logger = logging.getLogger("cluster_tools")

# None ends the thread.
_Item = Call | CallArray | Selection | None


class Submitter(threading.Thread):
    """A thread that submits the items of its queue, one after the other.

    Arguments:
        post: Puts an event into the resolver's inbox.
        on_pilots: Whether pilots run the calls. Then calls are written, but not submitted.
        max_gathering_s: Returns how many seconds a call may wait for others at most.
    """

    def __init__(
        self,
        arrays: Arrays,
        submission: Submission,
        lifecycle: Lifecycle,
        *,
        post: Callable[[Event], None],
        on_pilots: bool,
        max_gathering_s: Callable[[], float],
    ):
        super().__init__(name="cluster_tools-submitter", daemon=True)
        self._arrays = arrays
        self._submission = submission
        self._lifecycle = lifecycle
        self._post = post
        self._on_pilots = on_pilots
        self._max_gathering_s = max_gathering_s
        # The items that are not submitted yet, and those that the thread submits now.
        self._items: deque[_Item] = deque()
        self._arrivals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._spacing_s = 0.0
        self._next_gathering = 0.0
        self._never_written = {"failed": 0, "cancelled": 0}

    def put(self, item: _Item) -> None:
        """Adds an item to the queue. May be called in any thread."""
        self._items.append(item)
        self.wake()

    def wake(self) -> None:
        self._arrivals.put(None)

    def stop(self) -> None:
        """Ends the thread after it has submitted all earlier items; at once after an abort."""
        self.put(None)
        self._submission.wake()

    def has_open_calls(self) -> bool:
        """Whether a call in the queue is not done. May be called in any thread."""
        return any(not future.is_done() for item in list(self._items) for future in _futures(item))

    def make_room(self) -> None:
        """Tells the submission that an element has ended."""
        self._submission.make_room()

    def never_written(self) -> dict[str, int]:
        """How many calls have ended before they were written. Keys: "failed" and "cancelled"."""
        return dict(self._never_written)

    def cancel_rest(self) -> int:
        """Cancels all calls in the queue after an abort. Returns: how many were not done."""
        count = 0
        for item in list(self._items):
            for future in _futures(item):
                count += not future.is_done()
                end_quietly(future.cancel_for_shutdown, "a call that was not submitted")
        return count

    def run(self) -> None:
        while self._submit_next():
            pass
        self._post(SubmitterEnded())

    def _submit_next(self) -> bool:
        """Submits the items that are in the queue. Returns: False after the last item.

        While it waits for items it has no reference to earlier ones, so their memory can be freed.
        """
        while not self._items:
            self._arrivals.get()
        self._let_others_join()
        while not self._arrivals.empty():  # each announces an item that is in `_items` already
            self._arrivals.get()
        items = list(self._items)
        try:
            self._submit_all([item for item in items if item is not None])
        # `_submit` and `_submit_calls` handle the errors of one item. Here the thread is kept
        # alive for all other items.
        except BaseException:
            _logger.exception("the submitter goes on after an unexpected error")
        for _ in items:
            self._items.popleft()
        if self._lifecycle.closed:
            self._post(PerhapsDone())
        return None not in items

    def _let_others_join(self) -> None:
        """Waits until the gathering time is over, while the last item is a `Call`."""
        if len(self._items) == 1 and time.monotonic() >= self._next_gathering:
            self._spacing_s = 0.0
        while isinstance(self._items[-1], Call):
            # Pilots may have less to do now than when the last calls were gathered.
            left = min(self._next_gathering - time.monotonic(), self._max_gathering_s())
            if left <= 0:
                return
            try:
                self._arrivals.get(timeout=left)
            except queue.Empty:
                return

    def _submit_all(self, items: Iterable[Call | CallArray | Selection]) -> None:
        """Submits the items in their order. `Call`s that follow each other join one array."""
        for is_call, some in groupby(items, lambda item: isinstance(item, Call)):
            if is_call:
                self._gather(item for item in some if isinstance(item, Call))
                continue
            for item in some:
                if isinstance(item, Selection):
                    self._submit(item)
                elif isinstance(item, CallArray):
                    self._submit_array(item)

    def _submit_array(self, array: CallArray) -> None:
        if self._lifecycle.aborted or self._lifecycle.cancelling:
            self._never_written["cancelled"] += array.count
            for future in _futures(array):
                end_quietly(future.cancel_for_shutdown, array.name)
        else:
            self._hand_over(array)

    def _gather(self, calls: Iterable[Call]) -> None:
        kinds: dict[object, list[Call]] = {}
        for call in calls:
            kinds.setdefault(call.kind(), []).append(call)
        for alike in kinds.values():
            self._submit_calls(alike)
            if len(alike) > 1 or not self._arrivals.empty():
                self._spacing_s = max(_FIRST_SPACING_S, self._spacing_s * 2)
        self._spacing_s = min(self._max_gathering_s(), self._spacing_s)
        self._next_gathering = time.monotonic() + self._spacing_s

    def _submit_calls(self, calls: list[Call]) -> None:
        open_calls = [call for call in calls if not call.future.is_done()]
        self._never_written["cancelled"] += len(calls) - len(open_calls)
        calls = open_calls
        if self._lifecycle.aborted or self._lifecycle.cancelling:
            self._cancel(calls)
            return
        if not calls:
            return
        try:
            array = self._arrays.write(calls)
        except BaseException as exc:
            if self._lifecycle.aborted:  # the abort has removed the run directory
                self._cancel(calls)
                return
            error = failures.not_written(calls[0].name, exc)
            self._never_written["failed"] += len(calls)
            log = FailureLog(len(calls))
            for call in calls:
                end_quietly(partial(call.future.resolve, None, error), call.name)
                log.note(error, f"The call of {call.name}")
            return
        self._hand_over(array)

    def _cancel(self, calls: Sequence[Call]) -> None:
        self._never_written["cancelled"] += len(calls)
        for call in calls:
            end_quietly(call.future.cancel_for_shutdown, call.name)

    def _hand_over(self, array: CallArray) -> None:
        self._post(Written(array))
        if not self._on_pilots:
            self._submit(Selection(array, range(array.count)))

    def _submit(self, selection: Selection) -> None:
        """Submits the tasks. What fails is told to the resolver, which fails their futures."""
        try:
            self._submission.submit(selection)
        except Aborted:
            self._post(NotSubmitted(selection.array))
        except BaseException as exc:
            self._post(Refused(selection.array, selection.positions, exc))


def _futures(item: _Item) -> Iterator[ClusterFuture[Any]]:
    """The futures of new calls. None for a `Selection`: the ledger has its array already."""
    if isinstance(item, Call):
        yield item.future
    elif isinstance(item, CallArray):
        yield from (future for future in list(item.futures) if future is not None)
