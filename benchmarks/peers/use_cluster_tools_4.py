"""cluster_tools 4.3.3, the version before this one. Nothing is set but where files go, as in its README.

`pilots` is `batching` with four batches.
"""

from driving import (
    ELEMENTS,
    PILOTS,
    POOL_WORKERS,
    SLOW_TASK_S,
    SLOW_TASKS,
    TASKS,
    check,
    counted_rpcs,
    drive,
    timed,
)
from peer_tasks import nothing, pause

import cluster_tools

SLURM = {"cfut_dir": "cfut", "keep_logs": False}
LEFT_OUT = {"warm": "has no jobs that take task after task"}


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
    with timed("cold_s", "batching", tasks=TASKS):
        executor = cluster_tools.get_executor(
            "batching", executor={"name": "slurm", **SLURM}, target_job_count=PILOTS
        )
        check(executor.map(nothing, range(TASKS)), TASKS)
    executor.shutdown()


def rpcs() -> None:
    executor = cluster_tools.get_executor("slurm", **SLURM)
    with counted_rpcs():
        list(executor.map(pause, [SLOW_TASK_S] * SLOW_TASKS))
        executor.shutdown()


def pool() -> None:
    keywords = {"max_workers": POOL_WORKERS, "start_method": "spawn"}
    with cluster_tools.get_executor("multiprocessing", **keywords) as executor:
        list(executor.map(nothing, range(POOL_WORKERS)))  # its processes start
        with timed("seconds", tasks=TASKS):
            check(executor.map(nothing, range(TASKS)), TASKS)


if __name__ == "__main__":
    drive(one, elements, pilots, rpcs, pool)
