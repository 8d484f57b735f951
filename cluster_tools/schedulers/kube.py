"""The old import path of `KubernetesExecutor`."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.executors.kubernetes import KubernetesExecutor

__all__ = [
    "KubernetesExecutor",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        import cluster_tools

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(cluster_tools, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
