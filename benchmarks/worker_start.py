"""What a job costs beside its call: the worker, run as a job runs it, over a bare interpreter.

Each pair is one `python -c pass` and one worker with a task of its own, in turns, of the same
interpreter. Both are started without a shell, and waited for with wait4, which also tells their CPU
time. The worker does all it does in a job: opens the array, takes the claim, imports the script,
calls a function that does nothing and writes the output. Python may keep compiled files, as it
does for an installed package.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

from benchmarks.accepting import AcceptingExecutor, AcceptingScheduler
from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import identity

LIMIT_MS = 15.0
_PATIENCE_S = 30.0


def run(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU time of a process, in milliseconds."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    began = time.perf_counter()
    pid = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{arguments} failed with status {status}")
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument(
        "--directory", help="on the disk to measure on (default: the temporary one)"
    )
    options = parser.parse_args()
    show_machine()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    bare_command = [sys.executable, "-c", "pass"]
    bare: list[tuple[float, float]] = []
    ours: list[tuple[float, float]] = []
    scheduler = AcceptingScheduler()
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as folder,
        AcceptingExecutor(scheduler, cfut_dir=folder) as executor,
    ):
        futures = executor.map_to_futures(identity, range(options.pairs + 1))
        job_id = getattr(futures[0], "cluster_jobid")  # noqa: B009, it waits for the submission
        for index, future in enumerate(futures):
            words_of_element = [str(index), "0", f"{job_id}_{index}", f"{folder}/log.stdout"]
            command = [*scheduler.requests[0].command, *words_of_element]
            if index == 0:  # warms the caches
                run(bare_command)
                run(command)
            elif index % 2:
                bare.append(run(bare_command))
                ours.append(run(command))
            else:
                ours.append(run(command))
                bare.append(run(bare_command))
            assert future.result(timeout=_PATIENCE_S) == index
    show_head()
    over: list[list[float]] = []
    for kind, name in enumerate(("wall time", "user and system time")):
        show(f"python -c pass, {name}", [times[kind] for times in bare], "ms")
        show(f"the worker, {name}", [times[kind] for times in ours], "ms")
        over.append([mine[kind] - theirs[kind] for mine, theirs in zip(ours, bare)])
        show(f"the worker over its pair, {name}", over[-1], "ms")
    show_target("median over a bare interpreter", statistics.median(over[0]), LIMIT_MS, " ms")
