"""How much of its workers' time a pool gives to calls of 5 ms, against the standard library's.

Efficiency: the calls' own time, over the time until all results are there, times the workers. The
pools are warm. Each round measures every row once, in another order, and a ratio is that of two
rows of one round. So a machine with other work spoils the efficiencies, but hardly the ratios.

`burns` computes until it has used 5 ms of processor time, so a client that computes takes time from
its workers. `naps` sleeps for 5 ms. A round is so many calls by `submit`, all awaited.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import burn, pause, unchanged
from cluster_tools import MultiprocessingExecutor

CALL_S = 0.005
CHUNKSIZES = (1, 4, 20, 100)
ROUND_SIZES = (1, 16)
# Rounds take milliseconds: many of them make one figure.
ROUNDS_IN_A_FIGURE = 50

Run = Callable[[Callable[[float], float], Sequence[float]], None]


class Row(NamedTuple):
    """A way to run many calls on a pool that is warm.

    Arguments:
        name: The package, a comma, and the method with what is set.
        run: Has each item computed by the function, and returns when all results are there.
        processor_s: Seconds of processor time that the pool's processes have used until now,
            without the client's; None where that is not known.
    """

    name: str
    run: Run
    processor_s: Callable[[], float] | None


def submit_and_wait(executor: Any, fn: Callable[[float], float], items: Sequence[float]) -> None:
    futures = [executor.submit(fn, item) for item in items]
    wait(futures)
    assert [future.result() for future in futures] == items


def _map(executor: Any, fn: Any, items: Sequence[float], **options: int) -> None:
    assert list(executor.map(fn, items, **options)) == items


def _map_to_futures(executor: Any, fn: Any, items: Sequence[float]) -> None:
    assert [future.result() for future in executor.map_to_futures(fn, items)] == items


def _processor_s(executor: Any) -> float:
    """Of the workers of a pool of the standard library; Linux only."""
    ticks = 0
    for process in executor._processes.values():
        with open(f"/proc/{process.pid}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


# A contender is a function that makes its rows. Those of `local` pilots, loky, dask and parsl fit.


@contextmanager
def cluster_tools_rows(workers: int) -> Generator[list[Row]]:
    with MultiprocessingExecutor(workers, start_method="spawn") as executor:
        used = partial(_processor_s, executor)
        yield [
            Row("cluster_tools, map", partial(_map, executor), used),
            Row("cluster_tools, map_to_futures", partial(_map_to_futures, executor), used),
            Row("cluster_tools, submit", partial(submit_and_wait, executor), used),
        ]


@contextmanager
def standard_library_rows(workers: int) -> Generator[list[Row]]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn) as executor:
        used = partial(_processor_s, executor)
        yield [
            *(
                Row(f"standard library, map({size})", partial(_map, executor, chunksize=size), used)
                for size in CHUNKSIZES
            ),
            Row("standard library, submit", partial(submit_and_wait, executor), used),
        ]


CONTENDERS = (cluster_tools_rows, standard_library_rows)


class Sample(NamedTuple):
    seconds: float
    client_us: float
    workers_us: float


def _measure(row: Row, fn: Callable[[float], float], items: list[float]) -> Sample:
    """Seconds, and microseconds of processor time per call beyond the call's own."""
    used = row.processor_s or (lambda: float("nan"))
    before, client_before, began = used(), time.process_time(), time.perf_counter()
    row.run(fn, items)
    seconds = time.perf_counter() - began
    per_call = 1e6 / len(items)
    own = sum(items) if fn is burn else 0.0
    return Sample(
        seconds,
        (time.process_time() - client_before) * per_call,
        (used() - before - own) * per_call,
    )


def _measure_all(
    rows: Sequence[Row], rounds: int, measure: Callable[[Row], Sample]
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {row.name: [] for row in rows}
    for number in range(rounds):
        turn = number % len(rows)
        for row in (*rows[turn:], *rows[:turn]):
            samples[row.name].append(measure(row))
    return samples


def _seconds(samples: dict[str, list[Sample]], name: str) -> list[float]:
    return [sample.seconds for sample in samples[name]]


def _show_ratios(samples: dict[str, list[Sample]], name: str, other: str, limit: float) -> None:
    """Of the seconds of two rows, round by round."""
    pairs = zip(_seconds(samples, name), _seconds(samples, other))
    ratios = [ours / theirs for ours, theirs in pairs]
    show(f"  seconds of {name.partition(', ')[2]} over {other}", ratios, "times", 3)
    show_target("  median", statistics.median(ratios), limit, " times", 3)


def _show_efficiency(
    kind: Callable[[float], float], calls: int, workers: int, rows: Sequence[Row], rounds: int
) -> None:
    items = [CALL_S] * calls
    samples = _measure_all(rows, rounds, lambda row: _measure(row, kind, items))
    print(f"\n{calls:,} calls of {1000 * CALL_S:g} ms, {kind.__name__}, {workers} workers")
    show_head()
    for name, taken in samples.items():
        best = [sum(items) / workers / sample.seconds for sample in taken]
        show(f"{name}: efficiency", best, "", 3)
        show("  processor time a call, client", [sample.client_us for sample in taken], "us", 0)
        show("  beyond the call, workers", [sample.workers_us for sample in taken], "us", 0)
    theirs = [name for name in samples if name.startswith("standard library, map")]
    best_map = min(theirs, key=lambda name: statistics.median(_seconds(samples, name)))
    for row in rows:
        if row.name.startswith("cluster_tools"):
            _show_ratios(samples, row.name, best_map, 1.0)
    _show_ratios(samples, "cluster_tools, submit", "standard library, submit", 1.0)


def _show_rounds(rows: Sequence[Row], rounds: int) -> None:
    """Rounds of few calls that do nothing, one after another."""
    rows = [row for row in rows if row.name.endswith("submit")]
    for size in ROUND_SIZES:
        items = [0.0] * size

        def measure(row: Row, items: list[float] = items) -> Sample:
            many = Row(row.name, lambda fn, _: _repeat(row.run, fn, items), row.processor_s)
            return _measure(many, unchanged, items * ROUNDS_IN_A_FIGURE)

        samples = _measure_all(rows, rounds, measure)
        print(f"\nrounds of {size} calls that do nothing, mean of {ROUNDS_IN_A_FIGURE}")
        show_head()
        for name in samples:
            mean = [1e6 * seconds / ROUNDS_IN_A_FIGURE for seconds in _seconds(samples, name)]
            show(name, mean, "us", 0)
        _show_ratios(samples, "cluster_tools, submit", "standard library, submit", 1.03)


def _repeat(run: Run, fn: Callable[[float], float], items: Sequence[float]) -> None:
    for _ in range(ROUNDS_IN_A_FIGURE):
        run(fn, items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kinds", nargs="*", choices=("burns", "naps"), default=["burns", "naps"])
    options = parser.parse_args()
    kinds = {"burns": burn, "naps": pause}
    show_machine()
    with ExitStack() as stack:
        rows: list[Row] = []
        for make_rows in CONTENDERS:
            rows += stack.enter_context(make_rows(options.workers))
        for row in rows:  # their processes start, and import what they need
            row.run(pause, [CALL_S] * 10 * options.workers)
            row.run(burn, [CALL_S] * options.workers)
        _show_rounds(rows, 3 * options.rounds)
        for kind in options.kinds:
            _show_efficiency(kinds[kind], options.calls, options.workers, rows, options.rounds)
