"""submitit: `AutoExecutor`; many tasks by `map_array`, one array, as its documentation's page Examples
says under Job arrays. Jobs start by srun, its default. It asks for one CPU and no memory beyond the
partition's default, as all do here.
"""

import submitit
from driving import ELEMENTS, SLOW_TASK_S, SLOW_TASKS, check, counted_rpcs, drive, timed
from peer_tasks import nothing, pause

LEFT_OUT = {
    "pilots": "has no jobs that take task after task",
    "warm": "has no jobs that take task after task",
    "pool": "has no pool of processes",
}


def make_executor() -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder="logs/%j")
    executor.update_parameters(timeout_min=5, slurm_array_parallelism=ELEMENTS)
    return executor


def one() -> None:
    with timed("seconds"):
        make_executor().submit(nothing, 0).result()


def elements() -> None:
    with timed("seconds"):
        jobs = make_executor().map_array(nothing, range(ELEMENTS))
        check((job.result() for job in jobs), ELEMENTS)


def rpcs() -> None:
    executor = make_executor()
    with counted_rpcs():
        for job in executor.map_array(pause, [SLOW_TASK_S] * SLOW_TASKS):
            job.result()


if __name__ == "__main__":
    drive(one, elements, rpcs)
