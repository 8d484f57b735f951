"""What `map_to_futures` of many tasks costs the client: time, files and memory.

The scheduler takes every array and never runs it. Each round is a process of its own. Memory is the
process's greatest resident set after the call less its resident set before it, futures included.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks.accepting import AcceptingExecutor, AcceptingScheduler
from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import identity

LIMIT_S = 1.0
LIMIT_FILES = 4
LIMIT_MB = 100.0
_MB = 1e6


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(task_count: int, directory: str | None) -> dict[str, float]:
    scheduler = AcceptingScheduler()
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        executor = AcceptingExecutor(scheduler, cfut_dir=folder)
        executor.submit(identity, None)  # starts what only the first call starts
        items = range(task_count)
        gc.collect()
        before = resident_bytes()
        began = time.perf_counter()
        futures = executor.map_to_futures(identity, items)
        returned = time.perf_counter() - began
        futures[-1].cluster_jobid  # type: ignore[attr-defined] # noqa: B018, waits for the submission
        submitted = time.perf_counter() - began
        after, peak = resident_bytes(), peak_bytes()
        files = sum(len(names) for _, _, names in os.walk(folder)) - 1  # that of the first call
        began = time.perf_counter()
        executor.shutdown(cancel_futures=True)
        cancelled = time.perf_counter() - began
    return {
        "returned_s": returned,
        "submitted_s": submitted,
        "files": files,
        "peak_mb": (peak - before) / _MB,
        "kept_mb": (after - before) / _MB,
        "cancelled_s": cancelled,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", help="for cfut_dir (default: the temporary one)")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(measure(options.tasks, options.directory)))
        return
    show_machine()
    command = [sys.executable, "-m", "benchmarks", "many_tasks", "--once"]
    command += ["--tasks", str(options.tasks)]
    if options.directory:
        command += ["--directory", options.directory]
    rounds: list[dict[str, float]] = [
        json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        for _ in range(options.rounds)
    ]

    def all_of(name: str) -> list[float]:
        return [figures[name] for figures in rounds]

    show_head()
    show(
        f"map_to_futures of {options.tasks:,} tasks, until it returns", all_of("returned_s"), "s", 2
    )
    show("until all are submitted", all_of("submitted_s"), "s", 2)
    show("files", all_of("files"), "", 0)
    show("more memory, at the peak", all_of("peak_mb"), "MB")
    show("more memory, afterwards", all_of("kept_mb"), "MB")
    show("shutdown(cancel_futures=True) of all of them", all_of("cancelled_s"), "s", 2)
    show_target("greatest time until it returns", max(all_of("returned_s")), LIMIT_S, " s", 2)
    show_target("files", max(all_of("files")), LIMIT_FILES, "", 0)
    show_target("greatest memory", max(all_of("peak_mb")), LIMIT_MB, " MB")
