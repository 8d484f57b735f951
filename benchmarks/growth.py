"""What a call on a pilot costs the client as `map` grows, in time and memory, and what a large value costs.

    for each count: a process of its own --map over a generator--> four warm pilots
                    its peak memory over that before the first call
                    microseconds a call, without what a `map` of one call a pilot takes there

Then `map` with `buffersize`, and an argument and a result of a gigabyte, against writing and reading a file
of the same pickle, in turns.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import identity
from cluster_tools import get_executor

PILOTS = 4
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
BUFFERSIZE = 10_000


def _peak_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _map_seconds(executor: Any, count: int, **keywords: Any) -> float:
    began = time.perf_counter()
    total = sum(executor.map(identity, (number for number in range(count)), **keywords))
    took = time.perf_counter() - began
    assert total == count * (count - 1) // 2
    return took


def _measure(count: int, buffersize: int) -> None:
    """Prints seconds of one call a pilot, seconds of one map and its kilobytes, as JSON.

    Seconds are medians where a map is short: pilots look for work 42 times a second together.
    """
    keywords: dict[str, Any] = {"buffersize": buffersize} if buffersize else {}
    with (
        tempfile.TemporaryDirectory() as directory,
        get_executor(
            "local", max_workers=PILOTS, pilot_jobs=PILOTS, cfut_dir=directory
        ) as executor,
    ):
        _map_seconds(executor, 100)  # warm
        least = statistics.median(_map_seconds(executor, PILOTS) for _ in range(21))
        before = _peak_kilobytes()
        repeats = max(1, 21_000 // count)
        took = statistics.median(_map_seconds(executor, count, **keywords) for _ in range(repeats))
    print(json.dumps((least, took, _peak_kilobytes() - before)))


def _in_process(count: int, buffersize: int = 0) -> tuple[float, float, int]:
    command = [sys.executable, "-m", "benchmarks", "growth", "--measure", str(count)]
    printed = subprocess.run(
        [*command, "--buffersize", str(buffersize)], stdout=subprocess.PIPE, text=True, check=True
    )
    least, seconds, kilobytes = json.loads(printed.stdout)
    return least, seconds, kilobytes


def _file_seconds(value: bytes, directory: Path) -> float:
    """Writing and reading the pickle of a value, twice: there and back."""
    path = directory / "value"
    began = time.perf_counter()
    for _ in range(2):
        with path.open("wb") as file:
            pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)
        with path.open("rb") as file:
            assert len(pickle.load(file)) == len(value)
    took = time.perf_counter() - began
    path.unlink()
    return took


def _call_seconds(executor: Any, value: bytes) -> float:
    began = time.perf_counter()
    assert len(executor.submit(identity, value).result()) == len(value)
    return time.perf_counter() - began


def _measure_value(megabytes: int, rounds: int) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    theirs: list[float] = []
    value = bytes(megabytes << 20)
    with (
        tempfile.TemporaryDirectory() as directory,
        get_executor("local", max_workers=1, pilot_jobs=1, cfut_dir=directory) as executor,
    ):
        for _ in range(rounds + 1):
            ours.append(_call_seconds(executor, value))
            theirs.append(_file_seconds(value, Path(directory)))
    return ours[1:], theirs[1:]  # the first ones bring memory and disk space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1024, help="of the value; 0 leaves it out")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--buffersize", type=int, default=BUFFERSIZE)
    options = parser.parse_args()
    if options.measure is not None:
        _measure(options.measure, options.buffersize)
        return
    show_machine()
    show_head()
    costs: dict[int, float] = {}
    memories: dict[int, float] = {}
    for count in options.counts:
        found = [_in_process(count) for _ in range(options.rounds)]
        show(f"{PILOTS} calls", [1e3 * least for least, _, _ in found], "ms")
        micros = [1e6 * (seconds - least) / count for least, seconds, _ in found]
        costs[count] = statistics.median(micros)
        show(f"{count:,} calls: a call", micros, "us")
        memory = [1024 * kilobytes / count for _, _, kilobytes in found]
        memories[count] = statistics.median(memory)
        show(f"{count:,} calls: memory a call", memory, "bytes", 0)
    most = max(options.counts)
    buffered = [_in_process(most, options.buffersize)[2] / 1024 for _ in range(options.rounds)]
    show(f"{most:,} calls, buffersize={options.buffersize:,}: memory", buffered, "MiB")
    show_target("memory a call", memories[most], 1024, " bytes", 0)
    show_target("memory with buffersize", statistics.median(buffered), 200, " MiB")
    show_target(
        "a call at the dearest over the cheapest count",
        max(costs.values()) / min(costs.values()),
        1.2,
        " times",
        2,
    )
    if options.megabytes:
        ours, theirs = _measure_value(options.megabytes, options.rounds)
        show(f"{options.megabytes} MiB there and back", ours, "s", 2)
        show(f"writing and reading {options.megabytes} MiB twice", theirs, "s", 2)
        ratio = statistics.median(ours) / statistics.median(theirs)
        show_target("there and back over files", ratio, 1.5, " times", 2)
