"""Cancels jobs of an executor, as a helper (`detached`): nobody waits for it, and it goes on
without the client.

    main([elements|all, TOKEN], begun) < ids, one a line

`elements`: those of the ids. `all`: all jobs of the executor, of which the ids are those that it
knows; and what shows up a little later, for a submission may have been on its way. For queueing
systems that warn a job before they kill it, and delete an element by `<jobid><something else>`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection, Sequence

from cluster_tools.schedulers.base import SchedulerError

# How long to wait in all for a queueing system that does not answer.
_PATIENCE_S = 600.0
_RETRY_INTERVAL_S = 5.0
# A submission that was on its way has arrived by then.
_LATE_ARRIVAL_S = 10.0
# The kernel limits the length of a command line.
_MAX_IDS_PER_COMMAND = 500


def stop(
    arguments: Sequence[str],
    begun: Callable[[], None],
    jobs_of: Callable[[str, Collection[str]], Collection[str]],
    delete: Callable[[Sequence[str]], object],
) -> None:
    """The work of `main`.

    `jobs_of(token, known)`: the ids of the executor's jobs in the queue; `known`: those that the
    executor knows. `delete(ids)`: one command; says nothing where some have ended. Both raise
    SchedulerError while nobody answers.
    """
    what, token = arguments
    # A client that is killed while it writes leaves the beginning of an id, which may be another's.
    lines = sys.stdin.read().splitlines(keepends=True)
    ids = [line.rstrip("\n") for line in lines if line.endswith("\n")]
    known = {_job_id(one) for one in ids}

    def delete_all() -> None:
        ours = jobs_of(token, known)
        chosen = sorted(ours) if what == "all" else [one for one in ids if _job_id(one) in ours]
        for start in range(0, len(chosen), _MAX_IDS_PER_COMMAND):
            delete(chosen[start : start + _MAX_IDS_PER_COMMAND])

    deadline = time.monotonic() + _PATIENCE_S
    _patiently(delete_all, deadline)
    begun()
    if what == "all":
        time.sleep(_LATE_ARRIVAL_S)
        _patiently(delete_all, deadline)


def _job_id(element: str) -> str:
    return re.split(r"\D", element, maxsplit=1)[0]


def _patiently(action: Callable[[], None], deadline: float) -> None:
    while True:
        try:
            action()
            return
        except SchedulerError:
            if time.monotonic() > deadline:
                return
        time.sleep(_RETRY_INTERVAL_S)
