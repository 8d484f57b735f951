"""Slurm; and the old import path of `SlurmExecutor`."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.executors.slurm import SlurmExecutor as SlurmExecutor

__all__ = ["SlurmExecutor"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        if name == "SlurmExecutor":
            return import_submodule("cluster_tools", "executors.slurm").SlurmExecutor
        return import_submodule(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
