"""What all drivers share: the sizes of the rows, timing, and figures as lines of JSON on stdout.

A driver is a script with a function per row that it takes part in, named after the row, and says in
its docstring how the peer is set up and who advises that. `LEFT_OUT` says why it lacks a row. It knows
its peer, and nothing of the other drivers or of what becomes of its figures.

Some peers import the script in each of their jobs. What only measuring needs is imported where it is used,
so that such a job takes what that of a user's script of one function takes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager

from peer_tasks import ended_after, nothing

ELEMENTS = 100  # of the row `elements`
PILOTS = 4
TASKS = 100_000  # of the rows `pilots` and `pool`; of fewer, a driver says how many
ROUND_TRIPS = 200  # of the row `warm`
SLOW_TASKS = 64  # of the row `rpcs`
SLOW_TASK_S = 2.0
RPC_PILOTS = 8  # of those that need some in the row `rpcs`
POOL_WORKERS = 2
_TRAILING_S = 3.0  # until slurmctld has heard of the last job's end too
_WARM_UP_LIMIT_S = 90.0
_NAP_S = 0.3  # of a call that warms up: so long that each idle worker begins one meanwhile


def tell(variant: str = "", **figures: float) -> None:
    import json

    print(json.dumps({"variant": variant, **figures}), flush=True)


@contextmanager
def timed(figure: str, variant: str = "", **also: float) -> Generator[None]:
    """Seconds of the block, and other figures with it. Nothing is told of a block that raises."""
    began = time.perf_counter()
    yield
    tell(variant, **{figure: time.perf_counter() - began}, **also)


def check(results: Iterable[object], count: int) -> None:
    """Reads the results: they have to be the first `count` numbers."""
    assert list(results) == list(range(count)), f"not the {count} numbers in order"


def time_round_trips(call: Callable[[], object]) -> None:
    """Of each of many calls, one after another."""
    call()
    for _ in range(ROUND_TRIPS):
        with timed("round_trip_s"):
            call()


def wanted() -> dict:
    """What rows of `python -m benchmarks rounds` are asked for: the second word, as JSON."""
    import json

    return json.loads(sys.argv[2])


def calling(submit: Callable[..., object]) -> Callable[..., list]:
    """`call` of `time_rounds`, by the `submit` of an executor."""

    def call(function: object, arguments: Sequence[object]) -> list[object]:
        futures = [submit(function, argument) for argument in arguments]
        return [future.result() for future in futures]

    return call


def warm_up(call: Callable[..., list]) -> None:
    """Returns when each worker has run a call. `call`: as for `time_rounds`."""
    workers = wanted()["workers"]
    end = time.monotonic() + _WARM_UP_LIMIT_S
    seen: set[int] = set()
    while len(seen) < workers:
        if time.monotonic() > end:
            raise TimeoutError(f"{len(seen)} of {workers} workers in {_WARM_UP_LIMIT_S:g} s")
        seen.update(process for process, _ in call(ended_after, [_NAP_S] * workers))


def time_rounds(call: Callable[..., list]) -> None:
    """Tells how long each round took, a variant for each think time.

    `call(function, arguments)` submits a call for each argument, then returns all results. wanted():
    `workers`, `calls` in a round, and `rounds`: pairs of a think time in seconds and a number.
    """
    warm_up(call)
    numbers = range(wanted()["calls"])
    for think_s, count in wanted()["rounds"]:
        seconds: list[float] = []
        call(nothing, numbers)
        for _ in range(count):
            time.sleep(think_s)
            began = time.perf_counter()
            results = call(nothing, numbers)
            seconds.append(time.perf_counter() - began)
            check(results, len(numbers))
        for taken in seconds:
            tell(f"{think_s:g}", round_s=taken)


def time_dask(scheduler: object) -> None:
    """As `time_rounds`, of `calls` dask tasks that are computed at once."""
    import dask

    for think_s, count in wanted()["rounds"]:
        for number in range(count + 1):
            tasks = [dask.delayed(nothing, pure=False)(n) for n in range(wanted()["calls"])]
            time.sleep(think_s)
            began = time.perf_counter()
            results = dask.compute(*tasks, scheduler=scheduler)
            taken = time.perf_counter() - began
            check(results, len(tasks))
            if number:  # the first warms up
                tell(f"{think_s:g}", round_s=taken)


def rpcs() -> int:
    """How many requests slurmctld has had so far, by sdiag's count per message type."""
    import subprocess

    lines = subprocess.run(
        ["sdiag"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if "by message type" in line)
    total = 0
    for line in lines[first + 1 :]:
        if "count:" not in line:
            break
        total += int(line.split("count:")[1].split()[0])
    return total


@contextmanager
def counted_rpcs(variant: str = "") -> Generator[None]:
    before = rpcs()
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    time.sleep(_TRAILING_S)
    tell(variant, rpcs=rpcs() - before - 1, seconds=seconds)  # less one of the two sdiag


def drive(*rows: Callable[[], None]) -> None:
    """Runs the row that the command line names; with `about`, tells what the driver says of itself."""
    import json
    import traceback

    driver = sys.modules["__main__"]
    by_name = {row.__name__: row for row in rows}
    if sys.argv[1] == "about":
        left_out = getattr(driver, "LEFT_OUT", {})
        print(json.dumps({"about": driver.__doc__, "rows": list(by_name), "left_out": left_out}))
        return
    try:
        by_name[sys.argv[1]]()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without waiting for what a peer's threads may never see
