"""The executor of Grid Engine."""

from __future__ import annotations

from typing import Any

from cluster_tools.caller import warn_caller
from cluster_tools.executors.cluster import ClusterExecutor
from cluster_tools.file_system import is_on_one_machine_only
from cluster_tools.schedulers.base import Options, Scheduler
from cluster_tools.schedulers.gridengine import GridEngineScheduler


class GridEngineExecutor(ClusterExecutor):
    """Runs calls as jobs of Grid Engine: Sun's, Son of Grid Engine, Open or Altair's.

    `job_resources`: options and resources of qsub, by their names. Names that are no options of
    qsub are resources: `{"q": "long.q", "pe": "smp 4", "h_vmem": "4G", "h_rt": "1:00:00"}` becomes
    `-q long.q -pe smp 4 -l h_vmem=4G -l h_rt=1:00:00`. Values of False and None are left out.

    The other arguments are those of `ClusterExecutor`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if is_on_one_machine_only(self.cfut_dir):
            warn_caller(
                f"cfut_dir {self.cfut_dir} seems to be on a disk that the nodes of a cluster do "
                "not share"
            )

    def _make_scheduler(self, options: Options) -> Scheduler:
        return GridEngineScheduler(options)
