"""executorlib: `SlurmClusterExecutor`, which its page HPC Cluster Executor has for submitting from a login
node: a job per task, by sbatch, with pysqa's own template. `pilots` and `warm` have
`block_allocation=True`, "to accelerate the submission of a series of python functions", with as many
workers as pilots.
"""

import subprocess

from driving import (
    ELEMENTS,
    PILOTS,
    SLOW_TASK_S,
    SLOW_TASKS,
    check,
    counted_rpcs,
    drive,
    time_round_trips,
    timed,
)
from executorlib import SlurmClusterExecutor
from peer_tasks import nothing, pause

FEWER_TASKS = 1_000  # 100,000 would take minutes
LEFT_OUT = {"pool": "not what it is for"}


def partition() -> str:
    """Slurm's default one: pysqa's template has to be given one."""
    command = ["sinfo", "--noheader", "--format=%P"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return next(name for name in names if name.endswith("*")).rstrip("*")


def make_executor() -> SlurmClusterExecutor:
    return SlurmClusterExecutor(cache_directory="cache", resource_dict={"partition": partition()})


def make_blocks(workers: int) -> SlurmClusterExecutor:
    return SlurmClusterExecutor(
        max_workers=workers, block_allocation=True, resource_dict={"partition": partition()}
    )


def one() -> None:
    with timed("seconds"):
        executor = make_executor()
        executor.submit(nothing, 0).result()
    executor.shutdown()


def elements() -> None:
    with timed("seconds"):
        executor = make_executor()
        check(executor.map(nothing, range(ELEMENTS)), ELEMENTS)
    executor.shutdown()


def pilots() -> None:
    with timed("cold_s", tasks=FEWER_TASKS):
        executor = make_blocks(PILOTS)
        check(executor.map(nothing, range(FEWER_TASKS)), FEWER_TASKS)
    with timed("warm_s", tasks=FEWER_TASKS):
        check(executor.map(nothing, range(FEWER_TASKS)), FEWER_TASKS)
    executor.shutdown()


def warm() -> None:
    with make_blocks(1) as executor:
        time_round_trips(lambda: executor.submit(nothing, 0).result())


def rpcs() -> None:
    executor = make_executor()
    with counted_rpcs():
        futures = [executor.submit(pause, SLOW_TASK_S + n / 1e6) for n in range(SLOW_TASKS)]
        for future in futures:
            future.result()


if __name__ == "__main__":
    drive(one, elements, pilots, warm, rpcs)
