"""Kubernetes; and an old import path of `KubernetesExecutor`."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.executors.kubernetes import KubernetesExecutor as KubernetesExecutor

__all__ = ["KubernetesExecutor"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        if name == "KubernetesExecutor":
            return import_submodule("cluster_tools", "executors.kubernetes").KubernetesExecutor
        return import_submodule(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
