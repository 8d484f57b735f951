"""dask-jobqueue: `SLURMCluster` with jobs of one core and one process, `cluster.scale(jobs=...)` and a
`Client`, as its page Example Deployments has it. Calls are sent by `Client.map` with `pure=False`, as
each shall run. `dask.bag` is what Dask's Best Practices advise for many small calls ("fuse many
operations"): the same map over a bag of 100 partitions. `rounds` and `dask_tasks`, of `python -m benchmarks
rounds`: `LocalCluster` on loopback, with processes of one thread each and no dashboard.
"""

from collections.abc import Callable, Sequence

import dask.bag
from dask.distributed import Client, LocalCluster
from dask_jobqueue import SLURMCluster
from driving import (
    PILOTS,
    RPC_PILOTS,
    SLOW_TASK_S,
    SLOW_TASKS,
    TASKS,
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

LEFT_OUT = {
    "elements": "its jobs take task after task: see `pilots`",
    "pool": "not what dask-jobqueue is for",
}
PARTITIONS = 100
FEWER_TASKS = 5_000  # by Client.map 100,000 would take minutes


def make_client(jobs: int) -> Client:
    cluster = SLURMCluster(cores=1, processes=1, memory="300MiB", walltime="00:10:00")
    cluster.scale(jobs=jobs)
    return Client(cluster)


def close(client: Client) -> None:
    client.close()
    client.cluster.close()


def one() -> None:
    with timed("seconds"):
        client = make_client(1)
        client.submit(nothing, 0, pure=False).result()
    close(client)


def pilots() -> None:
    def by_client_map(client: Client, count: int) -> list[object]:
        return client.gather(client.map(nothing, range(count), pure=False))

    def by_bag(client: Client, count: int) -> list[object]:
        bag = dask.bag.from_sequence(range(count), npartitions=PARTITIONS)
        return bag.map(nothing).compute(scheduler=client)

    for variant, count, call in (
        ("Client.map", FEWER_TASKS, by_client_map),
        ("dask.bag", TASKS, by_bag),
    ):
        with timed("cold_s", variant, tasks=count):
            client = make_client(PILOTS)
            check(call(client, count), count)
        with timed("warm_s", variant, tasks=count):
            check(call(client, count), count)
        close(client)


def warm() -> None:
    client = make_client(1)
    time_round_trips(lambda: client.submit(nothing, 0, pure=False).result())
    close(client)


def rpcs() -> None:
    with counted_rpcs():
        client = make_client(RPC_PILOTS)
        client.gather(client.map(pause, [SLOW_TASK_S] * SLOW_TASKS, pure=False))
        close(client)


def make_local() -> Client:
    return Client(
        LocalCluster(
            n_workers=wanted()["workers"],
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        )
    )


def gathering(client: Client) -> Callable[..., list]:
    def call(function: object, arguments: Sequence[object]) -> list[object]:
        submit = client.submit
        return client.gather([submit(function, argument, pure=False) for argument in arguments])

    return call


def rounds() -> None:
    client = make_local()
    time_rounds(gathering(client))
    close(client)


def dask_tasks() -> None:
    client = make_local()
    warm_up(gathering(client))
    time_dask(client)
    close(client)


if __name__ == "__main__":
    drive(one, pilots, warm, rpcs, rounds, dask_tasks)
