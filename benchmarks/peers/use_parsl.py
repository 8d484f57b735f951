"""parsl: `HighThroughputExecutor` over `SlurmProvider`, a block per pilot with one worker, all asked for at
the start (`init_blocks`), `strategy="none"`, since nothing shall scale, as its page Example
configurations has it; no monitoring. Blocks share nodes (`exclusive=False`). Where many short tasks
wait, `prefetch_capacity` is 100: the executor's reference says to keep 0 for few or long ones.
`rounds`, of `python -m benchmarks rounds`: `LocalProvider` on loopback, all workers in one block, as its
configuration `htex_local` has it; no encryption, which loopback does not need.
"""

import parsl
from driving import (
    PILOTS,
    RPC_PILOTS,
    SLOW_TASK_S,
    SLOW_TASKS,
    calling,
    check,
    counted_rpcs,
    drive,
    time_round_trips,
    time_rounds,
    timed,
    wanted,
)
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider, SlurmProvider
from peer_tasks import ended_after, nothing, pause

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


def rounds() -> None:
    executor = HighThroughputExecutor(
        address="127.0.0.1",
        cores_per_worker=0.01,  # as many workers as are asked for
        max_workers_per_node=wanted()["workers"],
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        encrypted=False,
    )
    parsl.load(Config(executors=[executor], strategy="none"))
    apps = {nothing: nothing_app, ended_after: parsl.python_app(ended_after)}
    time_rounds(calling(lambda function, argument: apps[function](argument)))
    parsl.dfk().cleanup()


if __name__ == "__main__":
    drive(one, pilots, warm, rpcs, rounds)
