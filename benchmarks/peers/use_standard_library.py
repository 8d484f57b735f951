"""The standard library: `ProcessPoolExecutor.map` with each of the chunk sizes 1, 100, 1,000, 10,000 and
50,000, as its page advises large ones for long iterables; and `multiprocessing.Pool.map`, which
chooses a size by itself. Both by spawn. `rounds`, of `python -m benchmarks rounds`: `ProcessPoolExecutor`.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from driving import POOL_WORKERS, TASKS, calling, check, drive, time_rounds, timed, wanted
from peer_tasks import nothing

LEFT_OUT = dict.fromkeys(("one", "elements", "pilots", "warm", "rpcs"), "runs on one machine")
SPAWN = multiprocessing.get_context("spawn")


def pool() -> None:
    with ProcessPoolExecutor(POOL_WORKERS, mp_context=SPAWN) as executor:
        list(executor.map(nothing, range(POOL_WORKERS)))  # its processes start
        for size in (1, 100, 1_000, 10_000, 50_000):
            with timed("seconds", f"chunksize={size}", tasks=TASKS):
                check(executor.map(nothing, range(TASKS), chunksize=size), TASKS)
    with SPAWN.Pool(POOL_WORKERS) as processes:
        processes.map(nothing, range(POOL_WORKERS))
        with timed("seconds", "Pool.map", tasks=TASKS):
            check(processes.map(nothing, range(TASKS)), TASKS)


def rounds() -> None:
    with ProcessPoolExecutor(wanted()["workers"], mp_context=SPAWN) as executor:
        time_rounds(calling(executor.submit))


if __name__ == "__main__":
    drive(pool, rounds)
