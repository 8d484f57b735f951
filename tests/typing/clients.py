"""Programs of users, as far as a type checker is concerned. Checked by lint.sh, never run."""

from collections.abc import Iterator
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from typing_extensions import assert_type

import cluster_tools
from cluster_tools import (
    BatchingExecutor,
    ClusterExecutor,
    Executor,
    FileOutputStore,
    GridEngineExecutor,
    KubernetesExecutor,
    MultiprocessingExecutor,
    MultiprocessingPickleExecutor,
    OutputStore,
    RemoteException,
    RemoteOutOfMemoryException,
    RemoteResourceLimitException,
    RemoteTimeLimitException,
    SequentialExecutor,
    SequentialPickleExecutor,
    SlurmExecutor,
    get_executor,
)
from cluster_tools.executors.local import LocalExecutor
from cluster_tools.schedulers.cluster_executor import ClusterExecutor as OlderClusterExecutor
from cluster_tools.schedulers.cluster_executor import RemoteException as OlderRemoteException


def square(number: int) -> int:
    return number * number


def strategies_have_their_classes(name: str) -> None:
    assert_type(get_executor("sequential"), SequentialExecutor)
    assert_type(get_executor("debug_sequential"), SequentialExecutor)
    assert_type(get_executor("sequential_with_pickling"), SequentialPickleExecutor)
    assert_type(get_executor("multiprocessing", max_workers=2), MultiprocessingExecutor)
    assert_type(get_executor("multiprocessing_with_pickling"), MultiprocessingPickleExecutor)
    assert_type(get_executor("test_pickling"), MultiprocessingPickleExecutor)
    assert_type(
        get_executor("batching", executor={"name": "slurm"}, batch_size=2), BatchingExecutor
    )
    assert_type(get_executor("local"), LocalExecutor)
    assert_type(get_executor("slurm", job_resources={"mem": "1G"}), SlurmExecutor)
    assert_type(get_executor("gridengine", job_resources={"q": "all.q"}), GridEngineExecutor)
    assert_type(get_executor("kubernetes"), KubernetesExecutor)
    assert_type(get_executor(name), Executor)


def any_executor_is_used_alike(executor: Executor) -> None:
    with executor as entered:
        assert_type(entered.submit(square, 2), Future[int])
    assert_type(executor.map(square, [1, 2], buffersize=2), Iterator[int])
    futures = executor.map_to_futures(square, range(3), output_key_getter=str)
    assert_type(futures, list[Future[int]])
    executor.map_to_futures(square, range(3), output_pickle_path_getter=lambda _: Path("a"))
    for future in executor.as_completed(futures):
        assert_type(executor.forward_log(future), int)
    executor.shutdown(wait=False, cancel_futures=True)


def every_class_is_an_executor() -> list[Executor]:
    sequential = SequentialExecutor()
    slurm = SlurmExecutor(job_resources={"mem": "1G"}, output_store=FileOutputStore("kept"))
    standard: list[StandardExecutor] = [sequential, slurm, MultiprocessingExecutor()]
    pool: ProcessPoolExecutor = MultiprocessingPickleExecutor(2)
    cluster: list[ClusterExecutor] = [slurm, KubernetesExecutor(), LocalExecutor()]
    older: OlderClusterExecutor = slurm
    del standard, pool, older
    return [
        sequential,
        SequentialPickleExecutor(),
        MultiprocessingExecutor(start_method="fork"),
        BatchingExecutor(slurm, target_job_count=3),
        *cluster,
    ]


def failures_have_classes(executor: Executor) -> str:
    try:
        executor.submit(square, 2).result()
    except RemoteOutOfMemoryException as error:
        return error.error
    except RemoteTimeLimitException as error:
        return error.job_id
    except RemoteResourceLimitException:
        return "limit"
    except RemoteException as error:
        older: OlderRemoteException = error
        return older.error
    return cluster_tools.schedulers.cluster_executor.RemoteException.__name__


def a_future_knows_its_job(executor: ClusterExecutor) -> tuple[str, int]:
    future = executor.submit(square, 2)
    assert_type(future.result(), int)
    return future.cluster_jobid, future.cluster_jobindex


class NullStore(OutputStore):
    def default_key(self, job_id: str) -> str:
        return job_id

    def write(self, key: str, data: bytes, *, success: bool) -> None: ...

    def poll(self, keys: object) -> set[str]:
        return set()

    def read(self, key: str) -> bytes:
        raise KeyError(key)

    def delete(self, key: str) -> None: ...


def a_shared_value_has_its_type(executor: Executor) -> None:
    shared = executor.share([1, 2])
    assert_type(shared, list[int])
    assert_type(executor.submit(sum, shared), Future[int])
    assert_type(SequentialExecutor().share("a"), str)
    assert_type(SlurmExecutor().share(3.0), float)
