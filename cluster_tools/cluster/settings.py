"""What the user has set for the calls of one executor; `schedulers.base.Options` has the jobs'
part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_tools.output_store import OutputStore


@dataclass(frozen=True, kw_only=True)
class Settings:
    cfut_dir: str
    store: OutputStore
    # Tell what is submitted at level info, not debug.
    debug: bool = False
    keep_logs: bool = True
    # The group of `cfut_dir` may write to it.
    trust_group: bool = False
    # The words that start the worker in a job.
    worker: Sequence[str] = ()
    # (arguments of basicConfig, function that sets it up instead)
    logging: tuple[dict[str, Any], Callable[[str], object] | None] | None = None
    # Seconds after which a pending element is given up; None: never.
    pending_timeout_s: float | None = None
    # Seconds without a sign of this client after which its tasks are not begun any more; None:
    # never.
    client_timeout_s: float | None = None
    # Seconds that a job may stay for what its call has left behind.
    linger_s: float = 10.0
    # A client that ends before its futures are done does not cancel them.
    keep_jobs_on_exit: bool = False
    # Calls run on so many pilots; None: each is an element of its own.
    pilot_jobs: int | None = None
    pilot_idle_timeout_s: float = 60.0
    # At most so many elements run at a time, where the scheduler does not see to it; None: no
    # limit.
    max_workers: int | None = None
    # The pickled initializer and its arguments.
    initializer: bytes | None = None
    # What pilots are called in the queue.
    pilot_name: str = "pilot"
    # Outputs go into the run directory unless the caller names a key.
    own_outputs: bool = True
