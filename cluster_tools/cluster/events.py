"""Events: small records by which the parts of an executor tell its resolver what has happened.

The resolver has one inbox and handles events in the order in which they arrive. Observers get each
event, too, and the events that result from it. There is one event for an array, a job or a listing
of a directory. There are events for single tasks only when a task fails, or while an observer asks
for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster_tools.cluster.future import ClusterFuture
from cluster_tools.cluster.tasks import Job, State, TaskArray
from cluster_tools.schedulers.base import Element, Ending

_logger = logging.getLogger("cluster_tools")


class Event:
    """The base class of all events."""

    __slots__ = ()


# -- events for the resolver --


@dataclass(frozen=True)
class Written(Event):
    """The array's file is on the disk; its tasks go to the scheduler or to pilots next."""

    array: TaskArray


@dataclass(frozen=True)
class Submitted(Event):
    """The scheduler has taken the job and has given it an id."""

    job: Job


@dataclass(frozen=True)
class Refused(Event):
    """These tasks can't be submitted. `error`: what the scheduler or the client has raised."""

    array: TaskArray
    positions: Sequence[int]
    error: BaseException


@dataclass(frozen=True)
class NotSubmitted(Event):
    """The executor was aborted: the tasks of the array that have no job will get none."""

    array: TaskArray


@dataclass(frozen=True)
class FilesAppeared(Event):
    """These entries of the run directory's shards have appeared: claims, outputs."""

    names: Sequence[str]


@dataclass(frozen=True)
class JournalsGrew(Event):
    """These journals of pilots are new, or have grown."""

    names: Sequence[str]


@dataclass(frozen=True)
class ElementEnded(Event):
    """The scheduler says that the element has ended for good, and its output was not seen."""

    job: Job
    element: Element
    ending: Ending


@dataclass(frozen=True)
class Cancelled(Event):
    """A thread is cancelling this future.

    An exception may interrupt that thread before it has changed the future's state; see
    `ClusterFuture.was_cancelled`.
    """

    future: ClusterFuture[Any]


@dataclass(frozen=True)
class NotRevoked(Event):
    """The note that forbids to begin this task could not be written. It is written later."""

    array: TaskArray
    position: int


@dataclass(frozen=True)
class Replaced(Event):
    """Something else has replaced the run directory, so no output can be read any more."""

    error: BaseException


@dataclass(frozen=True)
class PerhapsDone(Event):
    """The executor takes no more calls, and perhaps all of its calls are done."""


@dataclass(frozen=True)
class CancelPending(Event):
    """The resolver shall cancel all calls that are not known to run."""


@dataclass(frozen=True)
class Aborted(Event):
    """The executor was aborted: it ends without waiting for its calls."""


@dataclass(frozen=True)
class SubmitterEnded(Event):
    """One of the submitter threads has ended."""


@dataclass(frozen=True)
class RunLater(Event):
    """A function that the resolver calls after all events that are in its inbox now."""

    act: Callable[[], None]


# -- events for observers only --


@dataclass(frozen=True)
class TaskChanged(Event):
    """The state of a task has changed. Only observers with `observes_tasks` get this event."""

    array: TaskArray
    position: int
    state: State


@dataclass(frozen=True)
class TaskFailed(Event):
    """A task has failed with this exception.

    `where`: names the task and its job, as the beginning of a sentence.
    """

    array: TaskArray
    position: int
    exception: BaseException
    where: str


@dataclass(frozen=True)
class ArrayEnded(Event):
    """All tasks of the array have ended."""

    array: TaskArray


class Observer(Protocol):
    """An object that gets each event after the resolver has handled it.

    Events arrive in the resolver's thread: an observer that takes long delays results.
    """

    # Whether the observer gets a `TaskChanged` for each change of a task.
    observes_tasks: bool

    def on_event(self, event: Any) -> None: ...


class Observers:
    """The observers of one executor. Exceptions that an observer raises are logged."""

    def __init__(self, observers: Sequence[Observer]):
        self._observers = list(observers)
        self._of_tasks = [observer for observer in observers if observer.observes_tasks]

    def tell(self, event: Event) -> None:
        self._tell(self._observers, event)

    @property
    def on_change(self) -> Callable[[TaskArray, int, State], None] | None:
        """A function that the ledger calls at each change; None if no observer observes tasks."""
        return self._tell_of_task if self._of_tasks else None

    def _tell_of_task(self, array: TaskArray, position: int, state: State) -> None:
        self._tell(self._of_tasks, TaskChanged(array, position, state))

    @staticmethod
    def _tell(observers: Sequence[Observer], event: Event) -> None:
        for observer in observers:
            try:
                observer.on_event(event)
            except Exception:
                _logger.exception("an observer could not take in %s", type(event).__name__)
