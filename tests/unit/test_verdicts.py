"""Promises on what becomes of a task whose element has ended without an output that was seen.

A row is a case: what the scheduler says of the element, what is known besides, and the verdict.
"""

from __future__ import annotations

from typing import Any

import pytest

from cluster_tools.cluster.verdicts import (
    NEVER_AGAIN,
    Evidence,
    Fail,
    Follow,
    Policy,
    Resubmit,
    TakeInterrupted,
    Verdict,
    decide,
)
from cluster_tools.format.exit_codes import (
    EXIT_NO_ARRAY,
    EXIT_NO_PACKAGE,
    EXIT_OUTPUT_NOT_WRITTEN,
    EXIT_REFUSED,
)
from cluster_tools.schedulers.base import Cause, Ending

ELEMENT, EARLIER = "12_3", "11_3"
POLICY = Policy()
WORDS = "The scheduler's words."
AGAIN = Resubmit(WORDS)
AFTER_SILENCE = Resubmit("this client was silent for too long", after_silence=True)


def ended(cause: Cause, exit_code: int | None = None, *, may_go_in_again: bool = False) -> Ending:
    return Ending(cause, WORDS, exit_code=exit_code, may_go_in_again=may_go_in_again)


NODE_FAILURE = ended(Cause.NODE_FAILURE)
PREEMPTED = ended(Cause.PREEMPTED)
OUT_OF_MEMORY = ended(Cause.OUT_OF_MEMORY)
TIME_LIMIT = ended(Cause.TIME_LIMIT)
CANCELLED = ended(Cause.CANCELLED)
LOST = ended(Cause.LOST)
NEVER_STARTED = ended(Cause.NEVER_STARTED)
# Where its image could not be pulled, say, and a later pod may have it.
STARTED_NOT_BY_ITS_FAULT = ended(Cause.NEVER_STARTED, may_go_in_again=True)
EXIT_1 = ended(Cause.EXIT, 1)
KILLED = ended(Cause.EXIT, 137)
KILLED_ON_SLURM = ended(Cause.EXIT, 0)

OURS: dict[str, Any] = {"claim": ELEMENT}

ROWS: list[tuple[str, Ending, dict[str, Any], Verdict]] = [
    # The call has not begun, and its element did not end by its own doing: it goes in again.
    ("node lost before it began", NODE_FAILURE, {}, AGAIN),
    ("preempted before it began", PREEMPTED, {}, AGAIN),
    ("pod not started, may go better", STARTED_NOT_BY_ITS_FAULT, {}, AGAIN),
    ("third time", NODE_FAILURE, {"submission": 2}, AGAIN),
    ("fourth time", NODE_FAILURE, {"submission": 3}, Fail(Cause.NODE_FAILURE)),
    ("pilot's node lost", NODE_FAILURE, {"is_pilot": True}, AGAIN),
    # The client was stopped, and what began meanwhile has left: it goes in again, almost as often
    # as it likes.
    ("left, client silent", EXIT_1, {"has_left": True}, AFTER_SILENCE),
    ("left, ended with 0", ended(Cause.EXIT, 0), {"has_left": True}, AFTER_SILENCE),
    ("left, preempted", PREEMPTED, {"has_left": True}, AFTER_SILENCE),
    ("left, 99th time", EXIT_1, {"has_left": True, "submission": 98}, AFTER_SILENCE),
    ("left, 100th time", EXIT_1, {"has_left": True, "submission": 99}, Fail(Cause.NEVER_STARTED)),
    # It has begun: it does not run twice, whatever has ended it.
    ("node lost while it ran", NODE_FAILURE, OURS, Fail(Cause.NODE_FAILURE)),
    ("preempted while it ran", PREEMPTED, OURS, Fail(Cause.PREEMPTED)),
    ("claim not written yet", NODE_FAILURE, {"claim": ""}, Fail(Cause.NODE_FAILURE)),
    ("out of memory", OUT_OF_MEMORY, OURS, Fail(Cause.OUT_OF_MEMORY)),
    ("time limit", TIME_LIMIT, OURS, Fail(Cause.TIME_LIMIT)),
    ("cancelled by somebody", CANCELLED, OURS, Fail(Cause.CANCELLED)),
    ("exit code", EXIT_1, OURS, Fail(Cause.EXIT)),
    ("forgotten by the scheduler", LOST, OURS, Fail(Cause.LOST)),
    # It has not begun, but by its own doing or somebody's: nothing would be better with the next.
    ("out of memory before", OUT_OF_MEMORY, {}, Fail(Cause.OUT_OF_MEMORY)),
    ("cancelled while it waited", CANCELLED, {}, Fail(Cause.CANCELLED)),
    ("exit before it began", EXIT_1, {}, Fail(Cause.NEVER_STARTED)),
    ("no package in its image", ended(Cause.EXIT, EXIT_NO_PACKAGE), {}, Fail(Cause.NEVER_STARTED)),
    ("never started", NEVER_STARTED, {}, Fail(Cause.NEVER_STARTED)),
    ("lost before it began", LOST, {}, Fail(Cause.LOST)),
    # The worker has claimed it and then refused to begin.
    ("files of another user", ended(Cause.EXIT, EXIT_REFUSED), OURS, Fail(Cause.NEVER_STARTED)),
    ("no array file", ended(Cause.EXIT, EXIT_NO_ARRAY), OURS, Fail(Cause.NEVER_STARTED)),
    ("full disk", ended(Cause.EXIT, EXIT_OUTPUT_NOT_WRITTEN), OURS, Fail(Cause.EXIT)),
    # A pilot that was killed has not begun a call, and another may do better: it is no
    # NEVER_STARTED.
    ("pilot killed", KILLED, {"is_pilot": True}, Fail(Cause.EXIT)),
    ("pilot killed, on Slurm", KILLED_ON_SLURM, {"is_pilot": True}, Fail(Cause.EXIT)),
    ("pilot killed, not told how", ended(Cause.EXIT), {"is_pilot": True}, Fail(Cause.EXIT)),
    ("pilot ended by itself", EXIT_1, {"is_pilot": True}, Fail(Cause.NEVER_STARTED)),
    ("call killed before it began", KILLED, {}, Fail(Cause.NEVER_STARTED)),
    # A submission whose answer was lost was none: another job runs the task.
    ("claimed by another job", EXIT_1, {"claim": EARLIER}, Follow(EARLIER)),
    ("the same, node lost", NODE_FAILURE, {"claim": EARLIER}, Follow(EARLIER)),
    ("the same, interrupted", EXIT_1, {"claim": EARLIER, "is_interrupted": True}, Follow(EARLIER)),
    # It has written a failure after a signal, and does not run again.
    ("interrupted", EXIT_1, {**OURS, "is_interrupted": True}, TakeInterrupted()),
    ("interrupted, lost", LOST, {**OURS, "is_interrupted": True}, TakeInterrupted()),
    (
        "interrupted at its time limit",
        TIME_LIMIT,
        {**OURS, "is_interrupted": True},
        Fail(Cause.TIME_LIMIT),
    ),
    (
        "interrupted by preemption",
        PREEMPTED,
        {**OURS, "is_interrupted": True},
        Fail(Cause.PREEMPTED),
    ),
    # Somebody has deleted the run directory: what has begun is not known, so nothing goes in again.
    ("directory gone", NODE_FAILURE, {"directory_is_gone": True}, Fail(Cause.NODE_FAILURE)),
    ("directory gone, exit", EXIT_1, {"directory_is_gone": True}, Fail(Cause.EXIT)),
    (
        "directory gone before it began",
        ended(Cause.EXIT, EXIT_NO_ARRAY),
        {"directory_is_gone": True},
        Fail(Cause.NEVER_STARTED),
    ),
]


@pytest.mark.parametrize(
    ("ending", "known", "verdict"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_verdict(ending: Ending, known: dict[str, Any], verdict: Verdict) -> None:
    assert decide(Evidence(ending, ELEMENT, **known), POLICY) == verdict


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("claim", [None, "", ELEMENT])
@pytest.mark.parametrize("has_left", [False, True])
def test_nothing_goes_in_again_where_that_is_the_policy(
    cause: Cause, claim: str | None, has_left: bool
) -> None:
    ending = ended(cause, may_go_in_again=True)
    verdict = decide(Evidence(ending, ELEMENT, claim=claim, has_left=has_left), NEVER_AGAIN)
    assert isinstance(verdict, Fail)


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("claim", ["", ELEMENT, EARLIER])
@pytest.mark.parametrize("has_left", [False, True])
def test_what_was_claimed_never_goes_in_again(cause: Cause, claim: str, has_left: bool) -> None:
    ending = ended(cause, may_go_in_again=True)
    verdict = decide(Evidence(ending, ELEMENT, claim=claim, has_left=has_left), POLICY)
    assert not isinstance(verdict, Resubmit)
