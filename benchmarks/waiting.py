"""The client's processor time while many calls wait on Slurm for a minute, and that of the commands it runs."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import show_machine, show_target
from benchmarks.tasks import nap
from cluster_tools import get_executor


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    show_machine()
    with tempfile.TemporaryDirectory(dir=Path.home(), ignore_cleanup_errors=True) as directory:
        executor = get_executor("slurm", job_resources={"mem": "10M"}, cfut_dir=directory)
        try:
            futures: list[Any] = executor.map_to_futures(nap, [3600.0] * options.calls)
            assert futures[0].cluster_jobid
            time.sleep(10)  # what the submission costs is not meant
            ours, commands = time.process_time(), _of_children()
            time.sleep(options.seconds)
            ours, commands = time.process_time() - ours, _of_children() - commands
            assert not any(future.done() for future in futures)
        finally:
            executor.__exit__(KeyboardInterrupt, None, None)
    print(f"commands: {100 * commands / options.seconds:.2f}% of a processor")
    part = 100 * ours / options.seconds
    show_target(f"while {options.calls:,} calls wait", part, 1.0, "% of a processor", 2)
