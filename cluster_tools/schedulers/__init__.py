"""The schedulers, and the old import paths. Imported one by one, when asked for."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.schedulers import base as base
    from cluster_tools.schedulers import cluster_executor as cluster_executor
    from cluster_tools.schedulers import kube as kube
    from cluster_tools.schedulers import kubernetes as kubernetes
    from cluster_tools.schedulers import local as local
    from cluster_tools.schedulers import slurm as slurm
else:

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        return import_submodule(__name__, name)
