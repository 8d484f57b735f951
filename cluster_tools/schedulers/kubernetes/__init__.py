"""Kubernetes; and an old import path of `KubernetesExecutor`."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.executors.kubernetes import KubernetesExecutor as KubernetesExecutor

__all__ = ["KubernetesExecutor"]

if not TYPE_CHECKING:
    from cluster_tools._lazy import old_import_path

    __getattr__, __dir__ = old_import_path(__name__, __all__)
