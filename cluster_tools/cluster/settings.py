"""The settings of one executor that concern its calls.

`schedulers.base.Options` has the settings that concern its jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_tools.output_store import OutputStore


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one executor that concern its calls."""

    # An absolute path.
    cfut_dir: str
    store: OutputStore
    # Log each submission at level INFO, not DEBUG.
    debug: bool = False
    keep_logs: bool = True
    # The group of `cfut_dir` may write to it.
    trust_group: bool = False
    # The command that starts the worker in a job, without its arguments.
    worker: Sequence[str] = ()
    # (arguments of basicConfig, function to call instead); None: workers do not set up logging.
    logging: tuple[dict[str, Any], Callable[[str], object] | None] | None = None
    # Seconds after which a pending element is given up; None: never.
    pending_timeout_s: float | None = None
    # Seconds without a heartbeat after which workers do not begin tasks any more; None: no limit.
    client_timeout_s: float | None = None
    # How many seconds a job may stay for threads and processes that its call has left behind.
    linger_s: float = 10.0
    # A client that ends before its futures are done does not cancel its jobs.
    keep_jobs_on_exit: bool = False
    # How many pilots run the calls; None: each call is an element of its own.
    pilot_jobs: int | None = None
    # After how many seconds without a task a pilot ends.
    pilot_idle_timeout_s: float = 60.0
    # How many elements may run at a time, if the scheduler itself does not keep this limit; None:
    # any number.
    max_workers: int | None = None
    # The pickled initializer and its arguments.
    initializer: bytes | None = None
    # The name of pilots in the scheduler's queue.
    pilot_name: str = "pilot"
    # Outputs go into the run directory, unless the caller gives a key of the output store.
    own_outputs: bool = True
