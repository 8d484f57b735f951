"""The executor for Kubernetes. Imports its scheduler, which needs the extra `kubernetes`, late."""

from __future__ import annotations

from cluster_tools.executors.cluster import ClusterExecutor
from cluster_tools.schedulers.base import Options, Scheduler
from cluster_tools.schedulers.kubernetes.manifest import parse_resources
from cluster_tools.schedulers.kubernetes.script import WORKER_START


class KubernetesExecutor(ClusterExecutor):
    """Runs calls as pods of Indexed Jobs.

    `job_resources`: at least `{"image": ...}`; the README's section on Kubernetes has all keys. The
    other arguments are those of `ClusterExecutor`. The interpreter is one of the image: the key
    `python_executable` of `job_resources`, else the argument of that name, else `python`.

    Raises: ImportError without the extra `kubernetes`; RuntimeError without a configuration.
    """

    def _make_scheduler(self, options: Options) -> Scheduler:
        resources = parse_resources(options.job_resources)
        from cluster_tools.schedulers.kubernetes.scheduler import KubernetesScheduler

        self._python = resources.python_executable
        return KubernetesScheduler(options, resources)

    def _worker_words(self, python_executable: str | None) -> list[str]:
        return [self._python or python_executable or "python", "-c", WORKER_START]
