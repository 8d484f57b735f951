"""Executors like those of `concurrent.futures`, for one process, one machine or a cluster.

Has the public names, and imports the module of each only when it is used: so `import cluster_tools`
is fast in every job, and needs no scheduler's client.
"""

# Type checkers take this for true. Importing `typing` would take half of a job's import time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from cluster_tools import executors as executors
    from cluster_tools import schedulers as schedulers
    from cluster_tools._factory import get_executor
    from cluster_tools.errors import (
        RemoteException,
        RemoteOutOfMemoryException,
        RemoteResourceLimitException,
        RemoteTimeLimitException,
    )
    from cluster_tools.executor_protocol import Executor
    from cluster_tools.executors.batching import BatchingExecutor
    from cluster_tools.executors.cluster import ClusterExecutor
    from cluster_tools.executors.gridengine import GridEngineExecutor
    from cluster_tools.executors.kubernetes import KubernetesExecutor
    from cluster_tools.executors.local import LocalExecutor
    from cluster_tools.executors.multiprocessing_ import MultiprocessingExecutor
    from cluster_tools.executors.multiprocessing_pickle import MultiprocessingPickleExecutor
    from cluster_tools.executors.sequential import SequentialExecutor
    from cluster_tools.executors.sequential_pickle import SequentialPickleExecutor
    from cluster_tools.executors.slurm import SlurmExecutor
    from cluster_tools.output_store import FileOutputStore, OutputStore

__version__ = "5.0.0"

__all__ = [
    "BatchingExecutor",
    "ClusterExecutor",
    "Executor",
    "FileOutputStore",
    "GridEngineExecutor",
    "KubernetesExecutor",
    "LocalExecutor",
    "MultiprocessingExecutor",
    "MultiprocessingPickleExecutor",
    "OutputStore",
    "RemoteException",
    "RemoteOutOfMemoryException",
    "RemoteResourceLimitException",
    "RemoteTimeLimitException",
    "SequentialExecutor",
    "SequentialPickleExecutor",
    "SlurmExecutor",
    "get_executor",
]

_MODULE_OF = {
    "BatchingExecutor": "executors.batching",
    "ClusterExecutor": "executors.cluster",
    "Executor": "executor_protocol",
    "FileOutputStore": "output_store",
    "GridEngineExecutor": "executors.gridengine",
    "KubernetesExecutor": "executors.kubernetes",
    "LocalExecutor": "executors.local",
    "MultiprocessingExecutor": "executors.multiprocessing_",
    "MultiprocessingPickleExecutor": "executors.multiprocessing_pickle",
    "OutputStore": "output_store",
    "RemoteException": "errors",
    "RemoteOutOfMemoryException": "errors",
    "RemoteResourceLimitException": "errors",
    "RemoteTimeLimitException": "errors",
    "SequentialExecutor": "executors.sequential",
    "SequentialPickleExecutor": "executors.sequential_pickle",
    "SlurmExecutor": "executors.slurm",
    "get_executor": "_factory",
}


if not TYPE_CHECKING:  # a type checker would conclude that every name exists

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        if name not in _MODULE_OF:
            return import_submodule(__name__, name)
        value = getattr(import_submodule(__name__, _MODULE_OF[name]), name)
        globals()[name] = value  # so the next access does not call this
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
