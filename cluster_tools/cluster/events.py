"""What happens to tasks, elements and pilots: the words in which an executor's parts tell its
resolver.

All come through one inbox, and are taken in the order in which they came. Observers are told of
them, too, and of what follows. An event is made for an array, a job or a look at a directory; for
each task only where one fails, or while somebody observes tasks.
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
    """Something has happened."""

    __slots__ = ()


# -- told to the resolver --


@dataclass(frozen=True)
class Written(Event):
    """The array is on the disk; its tasks are about to go to the scheduler, or to pilots."""

    array: TaskArray


@dataclass(frozen=True)
class Submitted(Event):
    """The scheduler has given the job an id."""

    job: Job


@dataclass(frozen=True)
class Refused(Event):
    """These tasks can't be submitted. `error`: the scheduler's, or our own."""

    array: TaskArray
    positions: Sequence[int]
    error: BaseException


@dataclass(frozen=True)
class NotSubmitted(Event):
    """The executor ends at once: what is not submitted of the array will not be."""

    array: TaskArray


@dataclass(frozen=True)
class Seen(Event):
    """These entries of the run directory's shards have appeared: claims, outputs."""

    names: Sequence[str]


@dataclass(frozen=True)
class JournalsGrew(Event):
    """These journals of pilots are new, or have grown."""

    names: Sequence[str]


@dataclass(frozen=True)
class ElementEnded(Event):
    """The scheduler says that this element has ended and does not run again; no output has come."""

    job: Job
    element: Element
    ending: Ending


@dataclass(frozen=True)
class Cancelled(Event):
    """A thread of the user's is cancelling this future: it may still be interrupted before it is
    done.
    """

    future: ClusterFuture[Any]


@dataclass(frozen=True)
class NotRevoked(Event):
    """The disk did not take the note that nobody is to begin this task: it is written later."""

    array: TaskArray
    position: int


@dataclass(frozen=True)
class Replaced(Event):
    """Another directory lies where the run directory was: no output can be had any more."""

    error: BaseException


@dataclass(frozen=True)
class LessToDo(Event):
    """The executor takes no more calls, or has handed some over: all of them may be done."""


@dataclass(frozen=True)
class CancelPending(Event):
    """All calls that are not known to run are to be cancelled."""


@dataclass(frozen=True)
class Aborted(Event):
    """The executor ends at once."""


@dataclass(frozen=True)
class SubmitterEnded(Event):
    """One of the threads that submit has done its last."""


@dataclass(frozen=True)
class Chore(Event):
    """What the resolver's thread has put off until what has come by now is dealt with."""

    act: Callable[[], None]


# -- what follows, told to observers alone --


@dataclass(frozen=True)
class TaskChanged(Event):
    """A task is in another state; told while an observer has `observes_tasks`."""

    array: TaskArray
    position: int
    state: State


@dataclass(frozen=True)
class TaskFailed(Event):
    """A task has this exception. `where` names task and job, at the beginning of a sentence."""

    array: TaskArray
    position: int
    exception: BaseException
    where: str


@dataclass(frozen=True)
class ArrayEnded(Event):
    """Each task of the array has ended."""

    array: TaskArray


class Observer(Protocol):
    """Is told of each event, after it was dealt with.

    In the resolver's thread: what takes time holds up results.
    """

    # Wants to be told of each change of a task.
    observes_tasks: bool

    def on_event(self, event: Any) -> None: ...


class Observers:
    """Tells all of them. What one of them raises is logged."""

    def __init__(self, observers: Sequence[Observer]):
        self._observers = list(observers)
        self._of_tasks = [observer for observer in observers if observer.observes_tasks]

    def tell(self, event: Event) -> None:
        self._tell(self._observers, event)

    @property
    def on_change(self) -> Callable[[TaskArray, int, State], None] | None:
        """For the ledger; None where nobody observes tasks."""
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
