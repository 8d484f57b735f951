"""The public classes, one a file. Imported one by one, when asked for."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.executors import batching as batching
    from cluster_tools.executors import cluster as cluster
    from cluster_tools.executors import kubernetes as kubernetes
    from cluster_tools.executors import local as local
    from cluster_tools.executors import multiprocessing_ as multiprocessing_
    from cluster_tools.executors import multiprocessing_pickle as multiprocessing_pickle
    from cluster_tools.executors import sequential as sequential
    from cluster_tools.executors import sequential_pickle as sequential_pickle
    from cluster_tools.executors import slurm as slurm
else:

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        return import_submodule(__name__, name)
