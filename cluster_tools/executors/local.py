"""The executor whose jobs are subprocesses on this machine."""

from __future__ import annotations

from cluster_tools.executors.cluster import ClusterExecutor
from cluster_tools.schedulers.base import Options, Scheduler
from cluster_tools.schedulers.local import LocalScheduler


class LocalExecutor(ClusterExecutor):
    """Runs calls as subprocesses on this machine, just as a cluster would run them as jobs.

    For trying things without a cluster. The default of `max_workers` is the number of processors
    that this process may use, or `pilot_jobs` if that is more. The other arguments are those of
    `ClusterExecutor`.
    """

    def _make_scheduler(self, options: Options) -> Scheduler:
        return LocalScheduler(options)
