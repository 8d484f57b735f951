"""joblib: `Parallel` with the backend loky, its default, which chooses batches by itself
(`batch_size="auto"`), in its `with`, which keeps the workers, as its page Embarrassingly parallel
for loops advises. `rounds`, of `python -m benchmarks rounds`: the executor below that, loky's reusable one.
"""

from driving import POOL_WORKERS, TASKS, calling, check, drive, time_rounds, timed, wanted
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from peer_tasks import nothing

LEFT_OUT = dict.fromkeys(("one", "elements", "pilots", "warm", "rpcs"), "runs on one machine")


def pool() -> None:
    with Parallel(n_jobs=POOL_WORKERS) as parallel:
        parallel(delayed(nothing)(n) for n in range(POOL_WORKERS))  # its processes start
        with timed("seconds", tasks=TASKS):
            check(parallel(delayed(nothing)(n) for n in range(TASKS)), TASKS)


def rounds() -> None:
    executor = get_reusable_executor(max_workers=wanted()["workers"])
    time_rounds(calling(executor.submit))
    executor.shutdown()


if __name__ == "__main__":
    drive(pool, rounds)
