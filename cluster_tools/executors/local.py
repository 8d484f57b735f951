"""The executor whose jobs are subprocesses of this machine."""

from __future__ import annotations

from cluster_tools.executors.cluster import ClusterExecutor
from cluster_tools.schedulers.base import Options, Scheduler
from cluster_tools.schedulers.local import LocalScheduler


class LocalExecutor(ClusterExecutor):
    """Runs calls as subprocesses of this machine, the way a cluster would run them as jobs.

    For trying things without a cluster. Without `max_workers` as many run at a time as there are processors
    that this process may use, or as `pilot_jobs` says where that is more. The other arguments are those of
    `ClusterExecutor`.
    """

    def _make_scheduler(self, options: Options) -> Scheduler:
        return LocalScheduler(options)
