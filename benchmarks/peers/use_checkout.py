"""cluster_tools, built from this checkout. Nothing is set but where files go.

`pilots`: pilot jobs; beside them `batching` with four batches. `warm`: one pilot job. `pool`: `map` without a
chunk size. `rounds` and `dask_tasks`, of `python -m benchmarks rounds`: pilots, or `multiprocessing`.
"""

from driving import (
    ELEMENTS,
    PILOTS,
    POOL_WORKERS,
    SLOW_TASK_S,
    SLOW_TASKS,
    TASKS,
    calling,
    check,
    counted_rpcs,
    drive,
    time_dask,
    time_round_trips,
    time_rounds,
    timed,
    wanted,
    warm_up,
)
from peer_tasks import nothing, pause

import cluster_tools

SLURM = {"cfut_dir": "cfut", "keep_logs": False}
ON_PILOTS = {
    f"pilot_jobs={PILOTS}": ("slurm", {**SLURM, "pilot_jobs": PILOTS}),
    "batching": ("batching", {"executor": {"name": "slurm", **SLURM}, "target_job_count": PILOTS}),
}


def one() -> None:
    with timed("seconds"):
        executor = cluster_tools.get_executor("slurm", **SLURM)
        executor.submit(nothing).result()
    executor.shutdown()


def elements() -> None:
    with timed("seconds"):
        executor = cluster_tools.get_executor("slurm", **SLURM)
        check(executor.map(nothing, range(ELEMENTS)), ELEMENTS)
    executor.shutdown()


def pilots() -> None:
    for variant, (strategy, keywords) in ON_PILOTS.items():
        with timed("cold_s", variant, tasks=TASKS):
            executor = cluster_tools.get_executor(strategy, **keywords)
            check(executor.map(nothing, range(TASKS)), TASKS)
        with timed("warm_s", variant, tasks=TASKS):
            check(executor.map(nothing, range(TASKS)), TASKS)
        executor.shutdown()


def warm() -> None:
    with cluster_tools.get_executor("slurm", **SLURM, pilot_jobs=1) as executor:
        time_round_trips(lambda: executor.submit(nothing).result())


def rpcs() -> None:
    executor = cluster_tools.get_executor("slurm", **SLURM)
    with counted_rpcs():
        list(executor.map(pause, [SLOW_TASK_S] * SLOW_TASKS))
        executor.shutdown()


def pool() -> None:
    with cluster_tools.get_executor("multiprocessing", max_workers=POOL_WORKERS) as executor:
        list(executor.map(nothing, range(POOL_WORKERS)))  # its processes start
        with timed("seconds", tasks=TASKS):
            check(executor.map(nothing, range(TASKS)), TASKS)


def make_warm() -> cluster_tools.Executor:
    strategy, workers = wanted()["strategy"], wanted()["workers"]
    if strategy == "multiprocessing":
        return cluster_tools.get_executor(strategy, max_workers=workers)
    return cluster_tools.get_executor(strategy, **SLURM, pilot_jobs=workers)


def rounds() -> None:
    with make_warm() as executor:
        time_rounds(calling(executor.submit))


def dask_tasks() -> None:
    with make_warm() as executor:
        warm_up(calling(executor.submit))
        time_dask(executor)


if __name__ == "__main__":
    drive(one, elements, pilots, warm, rpcs, pool, rounds, dask_tasks)
