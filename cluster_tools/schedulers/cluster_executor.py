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

    def __getattr__(name: str) -> object:
        import cluster_tools

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(cluster_tools, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
