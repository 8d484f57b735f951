"""The old import path of the cluster executors' base class and exceptions."""

from cluster_tools.cluster.executor import ClusterExecutor
from cluster_tools.errors import (
    RemoteException,
    RemoteOutOfMemoryException,
    RemoteResourceLimitException,
    RemoteTimeLimitException,
)

__all__ = [
    "ClusterExecutor",
    "RemoteException",
    "RemoteOutOfMemoryException",
    "RemoteResourceLimitException",
    "RemoteTimeLimitException",
]
