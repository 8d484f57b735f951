"""The model: what was submitted and what may have become of it.

    program --entries--> ledger <--what was hit, and when-- faults
                            |
      notes of calls, futures: each is right, or an action or a fault explains it: or a complaint

It knows futures, exceptions and notes; neither executors nor schedulers.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections import Counter, defaultdict
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteException,
    RemoteExitException,
    RemoteLostException,
    RemoteNeverStartedException,
    SubmissionException,
)
from fuzz import calls
from fuzz.calls import Call
from fuzz.report import Report

# At most so long from a call's beginning to its note, on a busy machine: it is loaded in between.
_LOADING_S = 1.0
# After so many pilots in a row that have begun nothing, the rest is given up (cluster/pilots.py).
_HOPELESS_PILOTS = 4

# What calls of these kinds raise by themselves; calls of other kinds return their value.
_OWN_ERRORS: dict[str, type[BaseException]] = {
    "argument that can't be pickled": pickle.PicklingError,
    "argument that can't be unpickled": RemoteException,
    "raise": calls.Refused,
    "sys.exit": RemoteException,
    "os._exit": RemoteExitException,
    "kill -9": RemoteExitException,
    "result that can't be pickled": pickle.PicklingError,
    "result that can't be unpickled": RemoteException,
}
_NEVER_BEGIN = ("argument that can't be pickled", "argument that can't be unpickled")
# What calls may raise whose job was killed, or was cancelled by another than its executor.
_BY_A_KILL = (
    RemoteCancelledException,
    RemoteExitException,
    RemoteLostException,
    RemoteNeverStartedException,
)


@dataclass(eq=False)
class Entry:
    """A call that was handed to an executor.

    Attributes:
        future: None where `map` has kept it, or the submission was interrupted.
        cancelled_at: When the first `cancel()` that was True had returned.
        may_be_cancelled: Somebody has tried to cancel it.
        error: What `map` has raised in the place of its result.
    """

    call: Call
    submitted_at: float
    future: Future[Any] | None = None
    cancelled_at: float | None = None
    may_be_cancelled: bool = False
    error: BaseException | None = None
    callbacks: list[float] = field(default_factory=list[float])
    # How often `called_back` was added to the future.
    wanted_callbacks: int = 0

    def cancel(self) -> None:
        if self.future is not None:
            self.may_be_cancelled = True
            try:
                is_cancelled = self.future.cancel()
            except SystemExit:  # of a callback
                return
            if is_cancelled and self.cancelled_at is None:
                self.cancelled_at = time.monotonic()

    def called_back(self, _: Future[Any]) -> None:
        self.callbacks.append(time.monotonic())


@dataclass(frozen=True)
class Note:
    at: float
    pid: int
    # How many descriptors its process may have.
    descriptors: int


@dataclass
class Hit:
    """A fault that ends an element; `element` as in its log's name."""

    element: str
    pid: int


@dataclass
class Window:
    """A time in which the client could open nothing; `limit`: of descriptors, also for children."""

    began: float
    limit: int
    ended: float | None = None

    def overlaps(self, begin: float, end: float) -> bool:
        return self.began <= end and (self.ended is None or begin <= self.ended + 0.5)


class Ledger(Report):
    """`directory`: the round's; calls write their notes there.

    `ended_within_s`: so soon a call is ended that began just before its cancel(); None: never.
    """

    def __init__(self, directory: Path, ended_within_s: float | None):
        super().__init__(directory)
        self._ended_within_s = ended_within_s
        self._path = directory / "notes"
        self._numbers = itertools.count(1)
        self.entries: list[Entry] = []
        self.hits: list[Hit] = []
        self.stopped: list[Hit] = []
        self.windows: list[Window] = []
        # At the end all that was not known to run was cancelled, or all that ran, too.
        self.cancelled_all = False

    def new_entry(self, kind: str) -> Entry:
        call = Call(next(self._numbers), kind, str(self._path))
        entry = Entry(call, time.monotonic())
        self.entries.append(entry)
        self.touch()
        return entry

    def with_futures(self) -> list[Entry]:
        return [entry for entry in list(self.entries) if entry.future is not None]

    def open(self) -> list[Entry]:
        return [e for e in self.with_futures() if e.future is not None and not e.future.done()]

    def in_window(self, since: float) -> bool:
        """Whether descriptors were short between `since` and now."""
        return any(window.overlaps(since, time.monotonic()) for window in list(self.windows))

    def notes(self, what: str) -> dict[int, list[Note]]:
        found: dict[int, list[Note]] = defaultdict(list)
        text = self._path.read_text() if self._path.exists() else ""
        for line in text.splitlines():
            number, word, at, pid, descriptors = line.split()
            if word == what:
                found[int(number)].append(Note(float(at), int(pid), int(descriptors)))
        return found

    def complaints(self) -> list[str]:
        """Call it after the end. Returns: a line for each call that did not end as it may."""
        began, ended = self.notes("began"), self.notes("ended")
        found = self.troubles + self._failed_together()
        for entry in self.entries:
            call, notes = entry.call, began[entry.call.number]
            words = self._complaint(entry, notes, ended[call.number])
            if words is not None:
                after = entry.submitted_at - self.entries[0].submitted_at
                what = (
                    f"call {call.number} ({call.kind}, submitted at {after:.2f} s, notes {notes})"
                )
                found.append(f"{what}: {words}")
        return found

    def _complaint(self, entry: Entry, began: list[Note], ended: list[Note]) -> str | None:
        if len(began) > 1:
            return f"begun at most once, but it has begun {len(began)} times"
        if entry.future is None:
            return self._complaint_on_map(entry, began)
        if not entry.future.done():
            return "every future is done in the end, but this one is not"
        if len(entry.callbacks) != entry.wanted_callbacks:
            return (
                f"{entry.wanted_callbacks} callbacks, but there were {len(entry.callbacks)} calls"
            )
        if entry.future.cancelled():
            return self._complaint_on_cancelled(entry, began, ended)
        if entry.cancelled_at is not None:
            return "cancel() was True, but it was not cancelled"
        error = entry.future.exception()
        if error is not None:
            return self._complaint_on_error(entry, error, began)
        if entry.call.kind in _OWN_ERRORS:
            return f"has to raise {_OWN_ERRORS[entry.call.kind]}, but has a result"
        if entry.future.result() != calls.value_of(entry.call):
            return f"a wrong value: {str(entry.future.result())[:100]}"
        return None if len(began) == 1 else "a value, but it has not begun"

    def _complaint_on_map(self, entry: Entry, began: list[Note]) -> str | None:
        if entry.error is None:
            return None
        if isinstance(entry.error, CancelledError):
            return (
                None
                if self.cancelled_all
                else "nobody has cancelled it, but map raises CancelledError"
            )
        return self._complaint_on_error(entry, entry.error, began)

    def _complaint_on_cancelled(
        self, entry: Entry, began: list[Note], ended: list[Note]
    ) -> str | None:
        if not entry.may_be_cancelled and not self.cancelled_all:
            return "nobody has cancelled it, but it was cancelled"
        if entry.cancelled_at is None or not began:
            return None
        late = began[0].at - entry.cancelled_at
        # Without descriptors nobody can be told; a warning says so.
        could_tell = not any(
            w.overlaps(entry.cancelled_at, entry.cancelled_at) for w in self.windows
        )
        if late > _LOADING_S and could_tell and not self._was_stopped(began[0].pid):
            return f"cancel() was True, but it has begun {late:.2f} s later"
        within = self._ended_within_s
        if within is not None and ended and ended[0].at > entry.cancelled_at + within:
            return "cancel() was True, but it went on to its end"
        return None

    def _was_stopped(self, pid: int) -> bool:
        return any(hit.pid == pid for hit in self.stopped)

    def _complaint_on_error(
        self, entry: Entry, error: BaseException, began: list[Note]
    ) -> str | None:
        has_begun = bool(began) or entry.call.kind in _NEVER_BEGIN
        if has_begun and _is_its_own(entry, error):
            if isinstance(error, calls.Refused) and error.args != (entry.call.number,):
                return f"an exception of another call: {error!r}"
            return None
        if isinstance(error, _BY_A_KILL) and self._was_hit(error.job_id):
            return None
        if self._is_short_of_descriptors(entry, error, began):
            return None
        return f"nothing explains {type(error).__name__}: {str(error)[-600:]}"

    def _was_hit(self, element: str) -> bool:
        hit = {hit.element for hit in self.hits}
        return element in hit or len(hit) >= _HOPELESS_PILOTS

    def _failed_together(self) -> list[str]:
        """An element runs one call at a time: when it ends, no other fails with it."""
        failed = Counter(
            error.job_id
            for entry in self.with_futures()
            if entry.future is not None and entry.future.done() and not entry.future.cancelled()
            if isinstance(error := entry.future.exception(), RemoteExitException)
        )
        return [
            f"the end of {element} has failed {count} calls"
            for element, count in failed.items()
            if element and count > 1 and len(self.hits) < _HOPELESS_PILOTS
        ]

    def _is_short_of_descriptors(
        self, entry: Entry, error: BaseException, began: list[Note]
    ) -> bool:
        if began:  # its process is another one, and only has what it was started with
            limits = {window.limit for window in self.windows}
            return began[0].descriptors in limits and isinstance(error, (OSError, ImportError))
        if isinstance(error, RemoteLostException):
            return False
        if not isinstance(error, (OSError, SubmissionException, RemoteException)):
            return False
        return self.in_window(entry.submitted_at)


def _is_its_own(entry: Entry, error: BaseException) -> bool:
    """Whether a call of this kind ends so, whatever happens around it."""
    own = _OWN_ERRORS.get(entry.call.kind)
    if own is None or not isinstance(error, own):
        return False
    by_others = (*_BY_A_KILL, SubmissionException)
    return own is not RemoteException or not isinstance(error, by_others)
