"""submitit: `AutoExecutor`; many tasks by `map_array`, one array, as its documentation's page Examples
says under Job arrays. Each row both as it is by default, which starts jobs by srun, and with
`slurm_use_srun=False`, which the source says suffices for jobs like these.
"""

import submitit
from driving import ELEMENTS, SLOW_TASK_S, SLOW_TASKS, check, counted_rpcs, drive, timed
from peer_tasks import nothing, pause

LEFT_OUT = {
    "pilots": "has no jobs that take task after task",
    "warm": "has no jobs that take task after task",
    "pool": "has no pool of processes",
}


WITH_SRUN = {"": True, "use_srun=False": False}


def make_executor(srun: bool) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder="logs/%j")
    executor.update_parameters(timeout_min=5, slurm_array_parallelism=ELEMENTS, slurm_use_srun=srun)
    return executor


def one() -> None:
    for variant, srun in WITH_SRUN.items():
        with timed("seconds", variant):
            make_executor(srun).submit(nothing, 0).result()


def elements() -> None:
    for variant, srun in WITH_SRUN.items():
        with timed("seconds", variant):
            jobs = make_executor(srun).map_array(nothing, range(ELEMENTS))
            check((job.result() for job in jobs), ELEMENTS)


def rpcs() -> None:
    for variant, srun in WITH_SRUN.items():
        executor = make_executor(srun)
        with counted_rpcs(variant):
            for job in executor.map_array(pause, [SLOW_TASK_S] * SLOW_TASKS):
                job.result()


if __name__ == "__main__":
    drive(one, elements, rpcs)
