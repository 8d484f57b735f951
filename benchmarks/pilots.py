"""What calls cost on pilots of this machine: many that do nothing, few that take a second, one alone.

Each round takes its executor anew (`cold`: with the start of the pilots) and uses it once more (`warm`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import identity, nap
from cluster_tools import get_executor

PILOTS = 4


def _new_executor(directory: str) -> Any:
    return get_executor("local", max_workers=PILOTS, pilot_jobs=PILOTS, cfut_dir=directory)


def _map_seconds(executor: Any, calls: int) -> float:
    began = time.perf_counter()
    results = list(executor.map(identity, range(calls)))
    took = time.perf_counter() - began
    assert results == list(range(calls))
    return took


def _nap_seconds(executor: Any, calls: int) -> float:
    """From the begin of the first one."""
    begins = list(executor.map(nap, [1.0] * calls))
    return time.time() - min(begins)


def _latencies(executor: Any, calls: int) -> list[float]:
    taken: list[float] = []
    for number in range(calls):
        began = time.perf_counter()
        assert executor.submit(identity, number).result() == number
        taken.append(1000 * (time.perf_counter() - began))
        time.sleep(0.1)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, help="that do nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--naps", type=int, default=64, help="calls of a second; 0 leaves them out")
    parser.add_argument("--single", type=int, default=200, help="calls one after the other")
    options = parser.parse_args()
    show_machine()
    cold: list[float] = []
    warm: list[float] = []
    naps: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(options.rounds):
            with _new_executor(directory) as executor:
                cold.append(_map_seconds(executor, options.calls))
                warm.append(_map_seconds(executor, options.calls))
            if options.naps:
                with _new_executor(directory) as executor:
                    naps.append(_nap_seconds(executor, options.naps))
        with _new_executor(directory) as executor:
            _map_seconds(executor, 10 * PILOTS)
            single = _latencies(executor, options.single)
    show_head()
    show(f"{options.calls:,} calls on {PILOTS} pilots, cold", cold, "s", 2)
    show(f"{options.calls:,} calls on {PILOTS} pilots, warm", warm, "s", 2)
    if naps:
        show(f"{options.naps} calls of 1 s on {PILOTS} pilots", naps, "s", 2)
    show("one call on a warm pilot", single, "ms")
    show_target(f"{options.calls:,} calls, cold", statistics.median(cold), 5.0, " s", 2)
    rate = options.calls / statistics.median(warm)
    show_target("30,000 calls a second, warm: seconds for so many", 30_000 / rate, 1.0, " s", 2)
    if naps:
        show_target(f"{options.naps} calls of 1 s", max(naps), 17.5, " s", 2)
    show_target("one call, median", statistics.median(single), 30.0, " ms")
    show_target("one call, 99 of 100", sorted(single)[int(0.99 * len(single))], 100.0, " ms")
