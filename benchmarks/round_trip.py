"""One call on Slurm, from `get_executor` to its result, against what Slurm itself needs for a job.

In turns, in one run: `sbatch --wrap true`, from its start until squeue no longer shows it pending
or running (asked all the time); then `get_executor("slurm").submit(f).result()`; then what leaving
`with` adds. Slurm starts a job at once or with its next round, so each begins after a pause of
random length, and it takes many pairs. Run it where sbatch is, in a directory that the nodes share.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cluster_tools
from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import nothing

LIMIT_RATIO = 1.25
LIMIT_LEAVING_S = 0.1
# Longer than a scheduling round of dockered-slurm (sched_interval=1).
_MAX_PAUSE_S = 1.5
_OPTIONS = ["--ntasks=1", "--output=/dev/null"]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def slurm_alone() -> float:
    """Seconds from the start of sbatch until the job has ended."""
    began = time.perf_counter()
    job_id = _output("sbatch", "--parsable", *_OPTIONS, "--wrap", "true")
    while True:
        state = _output("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}")
        if state not in ("PENDING", "CONFIGURING", "RUNNING"):
            return time.perf_counter() - began


def through_us(cfut_dir: str) -> tuple[float, float]:
    """Seconds from `get_executor` to the result, and from there to the end of `with`."""
    began = time.perf_counter()
    with cluster_tools.get_executor("slurm", cfut_dir=cfut_dir, keep_logs=False) as executor:
        executor.submit(nothing).result()
        resolved = time.perf_counter()
    return resolved - began, time.perf_counter() - resolved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--directory", default=".cfut", help="cfut_dir (default: .cfut)")
    options = parser.parse_args()
    show_machine()
    print(_output("sbatch", "--version"))
    Path(options.directory).mkdir(exist_ok=True)
    slurm_alone()  # warms the caches
    through_us(options.directory)
    floor: list[float] = []
    ours: list[float] = []
    leaving: list[float] = []
    for pair in range(options.pairs):
        for turn in (pair % 2, 1 - pair % 2):
            time.sleep(random.uniform(0.0, _MAX_PAUSE_S))
            if turn:
                floor.append(slurm_alone())
            else:
                seconds, seconds_to_leave = through_us(options.directory)
                ours.append(seconds)
                leaving.append(seconds_to_leave)
        print(f"pair {pair + 1} of {options.pairs}", end="\r", file=sys.stderr)
    show_head()
    show("sbatch --wrap true, to its end", floor, "s", 3)
    show("submit(f).result(), with making the executor", ours, "s", 3)
    ratios = [mine / theirs for mine, theirs in zip(ours, floor)]
    show("ratio of each pair", ratios, "", 2)
    show("leaving with", leaving, "s", 3)
    for name, figure in (("means", statistics.fmean), ("medians", statistics.median)):
        show_target(f"ratio of the {name}", figure(ours) / figure(floor), LIMIT_RATIO, "", 2)
    show_target("median of leaving with", statistics.median(leaving), LIMIT_LEAVING_S, " s", 3)
