"""Kubernetes: announced, not there yet."""

from __future__ import annotations

from typing import Any

from cluster_tools.cluster.executor import ClusterExecutor
from cluster_tools.schedulers.base import Options, Scheduler


class KubernetesExecutor(ClusterExecutor):
    """Will run calls as elements of Indexed Jobs.

    Raises: ImportError without the extra `kubernetes`; NotImplementedError with it.
    """

    def __init__(self, **kwargs: Any):
        try:
            import kubernetes as _client  # pyright: ignore[reportMissingImports, reportUnusedImport] # noqa: F401
        except ImportError as exc:
            raise ImportError(
                "the strategy kubernetes is not part of this version yet, and will need the extra of "
                "that name: pip install 'cluster_tools[kubernetes]'"
            ) from exc
        raise NotImplementedError("the strategy kubernetes is not part of this version yet")

    def _make_scheduler(self, options: Options) -> Scheduler:
        raise NotImplementedError
