"""parsl: `HighThroughputExecutor` over `SlurmProvider`, a block per pilot with one worker, all asked for at
the start (`init_blocks`), `strategy="none"`, since nothing shall scale, as its page Example
configurations has it; no monitoring. Blocks share nodes (`exclusive=False`). Where many short tasks
wait, `prefetch_capacity` is 100: the executor's reference says to keep 0 for few or long ones.
"""

import parsl
from driving import (
    PILOTS,
    RPC_PILOTS,
    SLOW_TASK_S,
    SLOW_TASKS,
    check,
    counted_rpcs,
    drive,
    time_round_trips,
    timed,
)
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import SlurmProvider
from peer_tasks import nothing, pause

FEWER_TASKS = 10_000  # 100,000 would take minutes
LEFT_OUT = {
    "elements": "its jobs take task after task: see `pilots`",
    "pool": "not what HighThroughputExecutor over Slurm is for",
}
nothing_app, pause_app = parsl.python_app(nothing), parsl.python_app(pause)


def load(blocks: int, prefetch: int = 0) -> None:
    provider = SlurmProvider(
        exclusive=False,
        cores_per_node=1,
        init_blocks=blocks,
        min_blocks=blocks,
        max_blocks=blocks,
        walltime="00:10:00",
    )
    executor = HighThroughputExecutor(
        max_workers_per_node=1, provider=provider, prefetch_capacity=prefetch
    )
    parsl.load(Config(executors=[executor], strategy="none"))


def one() -> None:
    with timed("seconds"):
        load(1)
        nothing_app(0).result()
    parsl.dfk().cleanup()


def pilots() -> None:
    with timed("cold_s", tasks=FEWER_TASKS):
        load(PILOTS, prefetch=100)
        futures = [nothing_app(n) for n in range(FEWER_TASKS)]
        check([future.result() for future in futures], FEWER_TASKS)
    with timed("warm_s", tasks=FEWER_TASKS):
        futures = [nothing_app(n) for n in range(FEWER_TASKS)]
        check([future.result() for future in futures], FEWER_TASKS)
    parsl.dfk().cleanup()


def warm() -> None:
    load(1)
    time_round_trips(lambda: nothing_app(0).result())
    parsl.dfk().cleanup()


def rpcs() -> None:
    with counted_rpcs():
        load(RPC_PILOTS)
        for future in [pause_app(SLOW_TASK_S) for _ in range(SLOW_TASKS)]:
            future.result()
        parsl.dfk().cleanup()


if __name__ == "__main__":
    drive(one, pilots, warm, rpcs)
