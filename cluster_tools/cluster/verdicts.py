"""Decides what to do about a task whose element has ended and whose output was not seen.

    Evidence: what the scheduler and the run directory say --+
    Policy: how often a task goes in again ------------------+--> decide() --> a verdict

The functions only decide: the caller collects the evidence before, and acts on the verdict. So the
rules can be tested as one table, which is in `tests/unit/test_verdicts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_REFUSED
from cluster_tools.schedulers.base import Cause, Ending

# Causes that are not the call's fault: a task that has not begun may go in again.
_NOT_THE_CALLS_FAULT = (Cause.NODE_FAILURE, Cause.PREEMPTED)
# Causes that a signal may have. A call that fails after a signal writes a failure that counts only
# if its element does not run again.
_BY_A_SIGNAL = (Cause.EXIT, Cause.LOST)
# Exit codes of a worker that may have claimed the task, but has not begun the call.
_NEVER_BEGAN = (EXIT_REFUSED, EXIT_NO_ARRAY)
# If a signal ends a command, the shell's exit code is this plus the number of the signal.
_SIGNALLED = 128


@dataclass(frozen=True)
class Evidence:
    """What is known about a task when its element has ended.

    Attributes:
        ending: What the scheduler says about the element.
        element: The element, `<jobid>` or `<jobid>_<index>`.
        submission: How often the task has gone in again.
        claim: The last element that has claimed the task, in the form of `element`; "" if it is not
            written into the claim yet; None if there is no claim.
        has_left: The element found that its client was silent, and left without a claim.
        is_interrupted: The call has written a failure after a signal. Only looked for if
            `may_be_by_a_signal(ending)`.
        directory_is_gone: Somebody has deleted the run directory, so it is not known what has
            begun.
        is_pilot: The task is a pilot.
    """

    ending: Ending
    element: str
    submission: int = 0
    claim: str | None = None
    has_left: bool = False
    is_interrupted: bool = False
    directory_is_gone: bool = False
    is_pilot: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether the call may have begun."""
        claimed = self.claim is not None or self.directory_is_gone
        return claimed and self.ending.exit_code not in _NEVER_BEGAN


@dataclass(frozen=True)
class Policy:
    """How many submissions a task that has not begun may have.

    Attributes:
        max_submissions: After causes that are not the call's fault.
        max_after_silence: After elements that found the client silent. That may happen often, as
            whenever the client is suspended, so this limit is only for clocks that are wrong.
    """

    max_submissions: int = 4
    max_after_silence: int = 100


NEVER_AGAIN = Policy(max_submissions=0, max_after_silence=0)


@dataclass(frozen=True)
class TakeInterrupted:
    """The failure that the call has written after a signal counts: it does not run again."""


@dataclass(frozen=True)
class Resubmit:
    """The task is submitted again.

    `why`: the reason, for the log. `after_silence`: whether the element found its client silent.
    """

    why: str
    after_silence: bool = False


@dataclass(frozen=True)
class Follow:
    """Another element, of a submission that was taken to be lost, runs the task."""

    element: str


@dataclass(frozen=True)
class Fail:
    """The future fails, unless the output store has the output.

    The store has it if the job has died after it wrote to the store, and before it wrote the record
    into the run directory.
    """

    cause: Cause


Verdict = TakeInterrupted | Resubmit | Follow | Fail


def may_be_by_a_signal(ending: Ending) -> bool:
    """Whether the reason of this ending may be a failure that was written after a signal."""
    return ending.cause in _BY_A_SIGNAL


def decide(evidence: Evidence, policy: Policy) -> Verdict:
    """Returns what to do about the task."""
    ending, submissions = evidence.ending, evidence.submission + 1
    if evidence.directory_is_gone:
        pass  # it is not known whether the task has begun, so it must not go in again
    elif evidence.claim is None and evidence.has_left:
        if submissions < policy.max_after_silence:
            return Resubmit("this client was silent for too long", after_silence=True)
    elif evidence.claim is None:
        was_not_its_doing = ending.cause in _NOT_THE_CALLS_FAULT or ending.may_go_in_again
        if was_not_its_doing and submissions < policy.max_submissions:
            return Resubmit(ending.message)
    elif evidence.claim and evidence.claim != evidence.element:
        return Follow(evidence.claim)
    if evidence.is_interrupted and may_be_by_a_signal(ending):
        return TakeInterrupted()
    return Fail(_cause(evidence))


def _cause(evidence: Evidence) -> Cause:
    ending = evidence.ending
    # A pilot that was killed says nothing about others, so its cause is not NEVER_STARTED, after
    # which no other pilots are started.
    is_killed_pilot = evidence.is_pilot and _was_killed(ending)
    if ending.cause is Cause.EXIT and not evidence.has_begun and not is_killed_pilot:
        return Cause.NEVER_STARTED
    return ending.cause


def _was_killed(ending: Ending) -> bool:
    """Whether a signal may have ended the element. After a signal, Slurm reports exit code 0."""
    return ending.exit_code in (None, 0) or ending.exit_code > _SIGNALLED
