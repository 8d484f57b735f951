"""What to do about a task whose element has ended, while its output has not been seen.

    Evidence: what the scheduler and the run directory say --+
    Policy: how often a task goes in again ------------------+--> decide() --> a verdict

Looks at nothing and does nothing: whoever asks has looked, and acts on what he is told. So the
rules are one table, which `tests/unit/test_verdicts.py` shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_REFUSED
from cluster_tools.schedulers.base import Cause, Ending

# The element did not end by what its call did: one that never began may go in again.
_NOT_THE_CALLS_FAULT = (Cause.NODE_FAILURE, Cause.PREEMPTED)
# These may have been by the signal after which a call's failure counts only if its element does not
# run again.
_BY_A_SIGNAL = (Cause.EXIT, Cause.LOST)
# The worker has claimed the task and not begun the call.
_NEVER_BEGAN = (EXIT_REFUSED, EXIT_NO_ARRAY)
# A shell's exit code is this plus the signal's number, where a signal has ended the command.
_SIGNALLED = 128


@dataclass(frozen=True)
class Evidence:
    """What is known of a task when its element has ended.

    Attributes:
        ending: What the scheduler says of the element.
        element: The element, `<jobid>` or `<jobid>_<index>`.
        submission: How often the task has gone in again.
        claim: Who has claimed the task last, as `element`; "" where that is not written yet; None:
            nobody has.
        has_left: The element found that its client was silent, and left without a claim.
        is_interrupted: A failure was written after a signal. Looked for where
            `may_be_by_a_signal(ending)`.
        directory_is_gone: Somebody has deleted the run directory: nothing tells what has begun.
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
    """At most so many submissions of a task that has not begun.

    `max_after_silence`: where its elements found the client silent. They do so as often as somebody
    stops the client, so this is only for clocks that are wrong.
    """

    max_submissions: int = 4
    max_after_silence: int = 100


NEVER_AGAIN = Policy(max_submissions=0, max_after_silence=0)


@dataclass(frozen=True)
class TakeInterrupted:
    """The failure that was written after a signal is the call's: it does not run again."""


@dataclass(frozen=True)
class GoesInAgain:
    """The task is submitted again.

    `why`: for the log. `after_silence`: since its client was silent.
    """

    why: str
    after_silence: bool = False


@dataclass(frozen=True)
class Follow:
    """The task is run by this element of an earlier submission, which was thought lost."""

    element: str


@dataclass(frozen=True)
class Fail:
    """The future fails, unless its output is in the output store: then its job died before it could
    say so.
    """

    cause: Cause


Verdict = TakeInterrupted | GoesInAgain | Follow | Fail


def may_be_by_a_signal(ending: Ending) -> bool:
    """Whether a failure that was written after a signal may be the reason."""
    return ending.cause in _BY_A_SIGNAL


def decide(evidence: Evidence, policy: Policy) -> Verdict:
    ending, submissions = evidence.ending, evidence.submission + 1
    if evidence.directory_is_gone:
        pass  # what has begun is not known: nothing goes in again
    elif evidence.claim is None and evidence.has_left:
        if submissions < policy.max_after_silence:
            return GoesInAgain("this client was silent for too long", after_silence=True)
    elif evidence.claim is None:
        was_not_its_doing = ending.cause in _NOT_THE_CALLS_FAULT or ending.may_go_in_again
        if was_not_its_doing and submissions < policy.max_submissions:
            return GoesInAgain(ending.message)
    elif evidence.claim and evidence.claim != evidence.element:
        return Follow(evidence.claim)
    if evidence.is_interrupted and may_be_by_a_signal(ending):
        return TakeInterrupted()
    return Fail(_cause(evidence))


def _cause(evidence: Evidence) -> Cause:
    ending = evidence.ending
    # Another pilot may do better than one that was killed.
    is_killed_pilot = evidence.is_pilot and _was_killed(ending)
    if ending.cause is Cause.EXIT and not evidence.has_begun and not is_killed_pilot:
        return Cause.NEVER_STARTED
    return ending.cause


def _was_killed(ending: Ending) -> bool:
    """Whether a signal has ended it, as far as is known. Slurm has exit code 0 beside a signal."""
    return ending.exit_code in (None, 0) or ending.exit_code > _SIGNALLED
