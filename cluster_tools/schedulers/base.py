"""The contract between `cluster_tools.cluster` and a scheduler: `Scheduler`, and the types it uses.

A scheduler knows jobs and elements, never futures or pickles. The client remembers what was
submitted. Each method may be called from any thread, and each command or request that it makes has
a time limit.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Options:
    """The settings of one executor that concern its scheduler."""

    # Resources in the scheduler's own words, for example {"mem": "4G"}.
    job_resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    # Shell lines to run before the worker.
    setup_lines: Sequence[str] = ()
    # False: the executor deletes logs with everything else.
    keep_logs: bool = True
    # An absolute path.
    log_directory: str = "."
    # Seconds between the signal to a job that is cancelled and its kill.
    grace_s: float = 5.0
    # Jobs go on if the client ends before them.
    keep_jobs_on_exit: bool = False
    # How many elements of the executor may run at a time; None: as many as the scheduler allows.
    max_workers: int | None = None
    # How many elements the executor wants to run at a time, though they may mostly wait; None: any.
    wanted_slots: int | None = None
    # Whether elements may run again by themselves: `job_resources` must not ask for it else.
    may_run_again: bool = True
    # True: members of the log directory's group are trusted, and our umask decides the mode of
    # logs. False: logs have mode 0600.
    trust_group: bool = False


@dataclass(frozen=True)
class ArrayRequest:
    """An array to submit: elements 0 to `count - 1`.

    Each element runs `command` and four more arguments: its index, how often the scheduler has
    restarted it, its job id and the path of its log.
    """

    # The name to show in the queue.
    name: str
    # Identifies the job, whatever becomes of its name: unique to this array; begins
    # with the token of its executor.
    token: str
    count: int
    # False: a job that is no array, with one element.
    is_array: bool
    command: Sequence[str]
    working_directory: str
    # The executor's run directory, on the shared disk. A scheduler may write files there that its
    # elements need; the executor deletes them with the directory.
    run_directory: str
    # Whether the scheduler may run an element again by itself.
    may_run_again: bool = True
    # How many seconds before its time limit each element should get SIGUSR1, where the scheduler
    # can send it; None: not at all.
    warning_s: float | None = None
    # How many of its elements may run at a time; None: as many as the scheduler allows.
    at_a_time: int | None = None


@dataclass(frozen=True, order=True)
class Element:
    """One element of a job: what the scheduler runs, and has a state of."""

    job_id: str
    # None: the job is no array, or all elements of it that are not mentioned by themselves.
    index: int | None = None

    def __str__(self) -> str:
        return self.job_id if self.index is None else f"{self.job_id}_{self.index}"


class State(enum.Enum):
    """The state of an element. There is none for "unknown": such an element is left out."""

    PENDING = "pending"
    RUNNING = "running"
    # Has ended and does not run again, as far as the scheduler has decided (`Report.may_return`).
    ENDED = "ended"


@dataclass(frozen=True)
class Report:
    """What a scheduler says about one element."""

    state: State
    # The scheduler's own word for the state, the reason that it gives, and a sentence about that.
    word: str = ""
    reason: str = ""
    details: str = ""
    # Not "": the element waits and should be cancelled, as it can never begin. The end of a
    # sentence that says why: "which can never end".
    hopeless: str = ""
    # The user should be told why the element waits.
    notable: bool = False
    # The element has ended in a way after which the scheduler may run it again.
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
    # The exit code of its process; None where that is not known.
    exit_code: int | None = None
    # The last lines that it printed, if the scheduler keeps them. Shown where there is no log.
    last_words: str = ""
    # The call is not to blame: if it has not begun, it may go in again.
    may_go_in_again: bool = False


# What `width` says where no limit is known: about as many elements as an array may have on most
# clusters. https://slurm.schedmd.com/slurm.conf.html#OPT_MaxArraySize
_UNKNOWN_WIDTH = 1_000


class SchedulerError(Exception):
    """The scheduler did not do what it was asked."""


class Unreachable(SchedulerError):
    """The scheduler did not answer, and has done nothing. The same request may succeed later."""


class Uncertain(SchedulerError):
    """The array may have been submitted or not: `find` tells."""


class Refused(SchedulerError):
    """The scheduler refused the request, and would refuse it again."""


class RefusedForSize(SchedulerError):
    """The array has more elements than an array may have."""


class RefusedForCount(SchedulerError):
    """The user would have more elements in the queue than allowed; later there may be room."""


class Scheduler(ABC):
    """One executor's connection to a scheduler. CONTRIBUTING.md says how to add one."""

    # The first word of the names of logs.
    prefix: str
    # Elements run on the client's machine and see the same disks.
    on_this_machine = False
    # The shortest time between two calls of `states`: each costs the scheduler something (slurmctld
    # holds a lock meanwhile).
    min_interval_s = 2.0
    # The longest time between them, reached while nothing changes.
    max_interval_s = 30.0
    # The scheduler may run an element again by itself, even after its output was written (its node
    # was lost then, for example).
    may_run_again = False
    # How long before an element itself its child processes may get SIGTERM when it is to end.
    notice_s = 0.0
    # How long an element may run from its start; None where that is not known.
    time_limit_s: float | None = None
    # How long calls that follow each other closely may be gathered before they are submitted.
    max_gathering_s = 2.0
    # The scheduler itself keeps `Options.max_workers`. If not, arrays are submitted one after the
    # other, each with an `at_a_time`.
    keeps_max_workers = False

    @property
    @abstractmethod
    def cluster(self) -> Hashable:
        """Schedulers with equal values answer for each other's jobs: one query serves them all."""

    @abstractmethod
    def submit(self, request: ArrayRequest) -> str:
        """Submits an array and returns its job id.

        Raises: Unreachable, Uncertain, Refused, RefusedForSize, RefusedForCount.
        """

    @abstractmethod
    def find(self, token: str) -> str | None:
        """The job id of the array with this token; None if there is certainly none.

        Raises: Unreachable.
        """

    @abstractmethod
    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        """The states of all elements of `jobs` that the scheduler knows, in one query.

        `jobs`: job id -> token of its array. A job of that id with another token is left out: it is
        another's. In the result, an `Element` of an array without an index stands for all elements
        that are not mentioned. Raises: Unreachable.
        """

    @abstractmethod
    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        """Why these elements have ended: one `Ending` for each, whatever can be found out.

        `ended`: element -> its last report, None where the scheduler does not know it any more.
        `jobs`: as in `states`.
        """

    @abstractmethod
    def cancel(self, elements: Collection[Element], token: str) -> None:
        """Cancels these elements, which are not known to run.

        `token`: their executor's. Jobs with another token are left alone. Raises: Unreachable.
        """

    @abstractmethod
    def stop(self, job_ids: Collection[str], token: str) -> None:
        """Cancels all jobs of an executor, in a process of its own, and returns at once.

        `job_ids`: those that are known; `token`: the executor's, by which others are found. Also
        called by signal handlers, while any lock may be held: takes no lock.
        """

    @abstractmethod
    def max_array_size(self) -> int | None:
        """How many elements an array may have; None where there is no limit or it can't be read."""

    @abstractmethod
    def max_submitted(self) -> int | None:
        """How many elements of the user may be in the queue; None as above."""

    def width(self) -> int:
        """How many elements of an executor can run at a time, as far as is known: 1 or more."""
        return _UNKNOWN_WIDTH

    def array_limit(self) -> int | None:
        """How many elements one array may have, where that is known without a refusal."""
        return None

    def log_path(self, log_directory: str, element: Element) -> str:
        """The path of an element's log."""
        return f"{log_directory}/{self.prefix}.{element}.log.stdout"

    def forget(self, job_id: str) -> None:
        """Releases what is kept for this job: it will not be asked about again."""

    def close(self) -> None:
        """Releases what is kept for the executor: all its jobs have ended."""
