"""The old import path of the cluster executors' base class and exceptions."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.errors import (
        RemoteException,
        RemoteOutOfMemoryException,
        RemoteResourceLimitException,
        RemoteTimeLimitException,
    )
    from cluster_tools.executors.cluster import ClusterExecutor

__all__ = [
    "ClusterExecutor",
    "RemoteException",
    "RemoteOutOfMemoryException",
    "RemoteResourceLimitException",
    "RemoteTimeLimitException",
]

if not TYPE_CHECKING:
    from cluster_tools._lazy import old_import_path

    __getattr__, __dir__ = old_import_path(__name__, __all__)
