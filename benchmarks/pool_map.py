"""What `map` of many calls that do nothing costs on a warm pool of two workers under spawn.

Each round measures every side once, in another order: `MultiprocessingExecutor.map` without
`chunksize`, the standard library's pool at several chunk sizes, and joblib's loky with the batches
that it chooses, where joblib is installed (`pip install joblib`). The standard library's figure is
that of the chunk size with the least median.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import identity
from cluster_tools import MultiprocessingExecutor

WORKERS = 2
CHUNKSIZES = (1, 100, 1000, 5000, 12500)


def joblib_map(stack: ExitStack) -> Callable[[Sequence[int]], list[Any]] | None:
    """`map` on loky, or None where there is no joblib."""
    try:
        import joblib  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    parallel = stack.enter_context(
        joblib.Parallel(n_jobs=WORKERS, backend="loky", batch_size="auto")
    )
    return lambda items: parallel(joblib.delayed(identity)(item) for item in items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--skip-one-by-one", action="store_true", help="leave chunksize=1 out, which takes long"
    )
    options = parser.parse_args()
    items = range(options.calls)
    show_machine()
    with ExitStack() as stack:
        ours = stack.enter_context(MultiprocessingExecutor(WORKERS, start_method="spawn"))
        spawn = multiprocessing.get_context("spawn")
        theirs = stack.enter_context(ProcessPoolExecutor(WORKERS, spawn))
        sides: dict[str, Callable[[Sequence[int]], list[Any]]] = {
            "cluster_tools, no chunksize": lambda items: list(ours.map(identity, items))
        }
        for size in CHUNKSIZES[options.skip_one_by_one :]:
            sides[f"standard library, chunksize={size}"] = lambda items, size=size: list(
                theirs.map(identity, items, chunksize=size)
            )
        if (loky := joblib_map(stack)) is not None:
            sides["joblib, loky"] = loky
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for round_number in range(options.rounds + 1):
            for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
                began = time.perf_counter()
                results = sides[name](items)
                took = time.perf_counter() - began
                assert results == list(items)
                if round_number:  # the first warms up
                    seconds[name].append(took)
    show_head()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        show(f"{options.calls:,} calls, {name}", [value * 1000 for value in values], "ms")
    our_name, *standard = [name for name in names if not name.startswith("joblib")]
    best = min(standard, key=medians.__getitem__)
    show_target(f"median over {best}", medians[our_name] / medians[best], 1.0, " times", 2)
    if loky is None:
        print("joblib is not installed: its figure is left out")
    else:
        ratio = medians[our_name] / medians["joblib, loky"]
        show_target("median over joblib, loky", ratio, 1.0, " times", 2)
