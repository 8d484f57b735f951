"""The old import path of `KubernetesExecutor`."""

from cluster_tools.schedulers.kubernetes import KubernetesExecutor

__all__ = ["KubernetesExecutor"]
