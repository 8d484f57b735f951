"""Cancels jobs of an executor in a helper process (`detached`), which goes on without the client.

    stop([elements|all, TOKEN], begun, jobs_of, delete) < ids, one a line

`elements`: cancels the elements with these ids. `all`: cancels all jobs of the executor. Then the
ids are those that the executor knows. Jobs that appear a little later are cancelled, too, as they
may come from a submission that was in flight.

This is for schedulers that send a signal to a job before they kill it, and in which the id of an
element is the job id, a character that is no digit, and an index.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection, Sequence

from cluster_tools.schedulers.base import SchedulerError

# How long to wait, in all, for a scheduler that does not answer.
_PATIENCE_S = 600.0
_RETRY_INTERVAL_S = 5.0
# After this time, a submission that was in flight has reached the scheduler.
_LATE_ARRIVAL_S = 10.0
# The kernel limits the length of a command line.
_MAX_IDS_PER_COMMAND = 500


def stop(
    arguments: Sequence[str],
    begun: Callable[[], None],
    jobs_of: Callable[[str, Collection[str]], Collection[str]],
    delete: Callable[[Sequence[str]], object],
) -> None:
    """Does what a helper's `main` has to do.

    Arguments:
        arguments: "elements" or "all", and the executor's token.
        begun: Called after the first deletion.
        jobs_of: `jobs_of(token, known)` returns the ids of the executor's jobs in the queue;
            `known` are the job ids that the executor knows. Raises SchedulerError while the
            scheduler does not answer.
        delete: `delete(ids)` deletes these, in one command. Raises as `jobs_of`, but not for ids
            that have ended.
    """
    what, token = arguments
    # If the client is killed while it writes, the last line may be a part of an id, and so another
    # job's id. It has no newline, so it is left out.
    lines = sys.stdin.read().splitlines(keepends=True)
    ids = [line.rstrip("\n") for line in lines if line.endswith("\n")]
    known = {_job_id(one) for one in ids}

    def delete_all() -> None:
        ours = jobs_of(token, known)
        chosen = sorted(ours) if what == "all" else [one for one in ids if _job_id(one) in ours]
        for start in range(0, len(chosen), _MAX_IDS_PER_COMMAND):
            delete(chosen[start : start + _MAX_IDS_PER_COMMAND])

    deadline = time.monotonic() + _PATIENCE_S
    _retry_on_oserror(delete_all, deadline)
    begun()
    if what == "all":
        time.sleep(_LATE_ARRIVAL_S)
        _retry_on_oserror(delete_all, deadline)


def _job_id(element: str) -> str:
    """The digits at the beginning of an element's id."""
    return re.split(r"\D", element, maxsplit=1)[0]


def _retry_on_oserror(action: Callable[[], None], deadline: float) -> None:
    """Calls `action` until it raises no SchedulerError, or until `deadline` (time.monotonic)."""
    while True:
        try:
            action()
            return
        except SchedulerError:
            if time.monotonic() > deadline:
                return
        time.sleep(_RETRY_INTERVAL_S)
