"""Slurm; and the old import path of `SlurmExecutor`."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.executors.slurm import SlurmExecutor as SlurmExecutor
else:

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        if name == "SlurmExecutor":
            return import_submodule("cluster_tools", "executors.slurm").SlurmExecutor
        return import_submodule(__name__, name)
