"""What the core asks of a scheduler, and the few types both speak in.

A scheduler knows jobs and elements, never futures or pickles. It has no state but what its
configuration says: the core remembers what was submitted. Each method may be called from any thread,
and each command it runs has a time limit.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Options:
    """What a user has set for all jobs of one executor."""

    # Resources in the scheduler's own words, e.g. {"mem": "4G"}.
    job_resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    # Shell lines to run before the worker.
    setup_lines: Sequence[str] = ()
    # Logs stay; else the executor removes them with the rest.
    keep_logs: bool = True
    # Where logs go: absolute.
    log_directory: str = "."
    # Seconds between the signal to a job and its end by force.
    grace_s: float = 5.0
    # Jobs go on where the client ends before them.
    keep_jobs_on_exit: bool = False
    # At most so many elements of the executor run at a time; None: as many as the scheduler lets.
    max_workers: int | None = None
    # So many elements are pilots, which may wait for other things than a processor; None: there are none.
    pilot_jobs: int | None = None
    # The group of the log directory is trusted: our umask decides on the mode of logs, else 0600.
    trust_group: bool = False


@dataclass(frozen=True)
class ArrayRequest:
    """An array to submit: elements 0 to count - 1, each of which runs `command` and four more arguments:
    its index, how often the scheduler has restarted it, its job id and its log file.
    """

    # As a user wants to see it in the queue.
    name: str
    # By it the job is known again, whatever people make of its name: unique to this array, begins with its
    # executor's token.
    token: str
    count: int
    # False: one element, as a job that is no array.
    is_array: bool
    command: Sequence[str]
    working_directory: str
    # The executor's, on the shared disk: for files that elements of this scheduler need. Goes with it.
    run_directory: str
    # False: no element is to run again by itself, where the scheduler would do that.
    may_run_again: bool = True
    # So many seconds before its time is over each element wants SIGUSR1, where the scheduler can do that.
    warning_s: float | None = None
    # At most so many of its elements run at a time; None: as many as the scheduler lets.
    at_a_time: int | None = None


@dataclass(frozen=True, order=True)
class Element:
    """One element of a job: what the scheduler runs and has states of."""

    job_id: str
    # None where the job is no array.
    index: int | None = None

    def __str__(self) -> str:
        return self.job_id if self.index is None else f"{self.job_id}_{self.index}"


class State(enum.Enum):
    """A scheduler that does not mention an element says nothing: absence is no state."""

    PENDING = "pending"
    RUNNING = "running"
    # It has ended and does not run again.
    ENDED = "ended"


@dataclass(frozen=True)
class Report:
    """A scheduler's word on one element."""

    state: State
    # The scheduler's own word, its reason, and what there is to say on that.
    word: str = ""
    reason: str = ""
    details: str = ""
    # Why it is given up while it waits, as the end of a sentence: "which can never end".
    hopeless: str = ""
    # The user should be told why it waits.
    notable: bool = False
    # It has ended in a way after which the scheduler may run it again.
    may_return: bool = False


class Cause(enum.Enum):
    """Why an element ended without an output."""

    OUT_OF_MEMORY = "out of memory"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    EXIT = "exit"
    NEVER_STARTED = "never started"
    LOST = "lost"


@dataclass(frozen=True)
class Ending:
    """Why an element ended, for the user: what happened, and what to do or where to look."""

    cause: Cause
    message: str
    advice: str = ""
    # What its process ended with, where that is known.
    exit_code: int | None = None
    # What it printed last, as far as the scheduler keeps that. Shown where there is no log.
    last_words: str = ""
    # It was not its own doing: where its call has not begun, it may go in again.
    may_go_in_again: bool = False


# What callers size their rounds by where nothing is known: about as many elements as one array may have
# in most clusters. https://slurm.schedmd.com/slurm.conf.html#OPT_MaxArraySize
_UNKNOWN_WIDTH = 1_000


class SchedulerError(Exception):
    """The scheduler did not do what it was asked."""


class Unreachable(SchedulerError):
    """It did not answer; nothing was done. Worth trying again."""


class Uncertain(SchedulerError):
    """No telling whether the array was submitted: `find` tells."""


class Refused(SchedulerError):
    """It said no, and would say so again."""


class RefusedForSize(SchedulerError):
    """The array has more elements than one may have."""


class RefusedForCount(SchedulerError):
    """The user would have more elements in the queue than allowed; later there may be room."""


class Scheduler(ABC):
    """One executor's way to a scheduler.

    `prefix`: the first word of log files. `cluster`: schedulers with equal ones answer for each other's
    jobs, so that one query serves all executors. `on_this_machine`: its elements run on the client's
    machine and see the same disks.
    """

    prefix: str
    on_this_machine = False
    # Seconds between two questions for states at the least: each costs slurmctld, say, a lock.
    min_interval_s = 2.0
    # And at the most, while no news come.
    max_interval_s = 30.0
    # An element may run again by itself, even after its output was written: its node was lost then, say.
    may_run_again = False
    # What ends an element may be told to its child processes so many seconds before it hears of it itself.
    notice_s = 0.0
    # Seconds that an element has from its start, where that is known.
    time_limit_s: float | None = None
    # Calls that follow each other closely are gathered for so many seconds at the most.
    max_gathering_s = 2.0
    # It keeps `Options.max_workers` itself; else arrays are submitted with an `at_a_time`, one after the other.
    keeps_max_workers = False

    @property
    @abstractmethod
    def cluster(self) -> Hashable: ...

    @abstractmethod
    def submit(self, request: ArrayRequest) -> str:
        """Submits an array and returns its job id.

        Raises: Unreachable, Uncertain, Refused, RefusedForSize, RefusedForCount.
        """

    @abstractmethod
    def find(self, token: str) -> str | None:
        """The job id of the array with this token, or None if there surely is none.

        Raises: Unreachable.
        """

    @abstractmethod
    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        """The states of all elements of `jobs` that the scheduler knows, in one query.

        An element of an array without an index stands for all those that are not mentioned.

        `jobs`: job id -> token of its array. A job of that id whose token is another is not mentioned.
        Raises: Unreachable.
        """

    @abstractmethod
    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        """Why each of these has ended: one `Ending` for each, whatever can be found out.

        `ended`: with the last report on each; None where the scheduler does not know it any more.
        `jobs`: as in `states`.
        """

    @abstractmethod
    def cancel(self, elements: Collection[Element], token: str) -> None:
        """Cancels these elements, which are not known to run.

        `token`: their executor's. A job of that id without it is another's, and stays.
        Raises: Unreachable.
        """

    @abstractmethod
    def stop(self, job_ids: Collection[str], token: str) -> None:
        """Cancels all jobs of an executor in a process of its own and returns at once.

        `token`: the executor's; jobs of it that are not in `job_ids` are cancelled too. Called also when
        the client is about to die, while any lock may be held: takes none, starts no thread.
        """

    @abstractmethod
    def max_array_size(self) -> int | None:
        """How many elements an array may have; None where there is no limit or it can't be read."""

    @abstractmethod
    def max_submitted(self) -> int | None:
        """How many elements of the user may be in the queue; None as above."""

    def width(self) -> int:
        """How many elements of an executor can run at a time, as far as that is known: 1 or more."""
        return _UNKNOWN_WIDTH

    def array_limit(self) -> int | None:
        """How many elements the user wants in one array at the most, before the scheduler is asked."""
        return None

    def log_path(self, log_directory: str, element: Element) -> str:
        return f"{log_directory}/{self.prefix}.{element}.log.stdout"

    def forget(self, job_id: str) -> None:
        """Nothing more will be asked about this job."""

    def close(self) -> None:
        """All jobs have ended; lets go of what is kept for them."""
