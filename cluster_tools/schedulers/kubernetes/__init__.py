"""Kubernetes; and an old import path of `KubernetesExecutor`."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.executors.kubernetes import KubernetesExecutor as KubernetesExecutor
else:

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        if name == "KubernetesExecutor":
            return import_submodule("cluster_tools", "executors.kubernetes").KubernetesExecutor
        return import_submodule(__name__, name)
