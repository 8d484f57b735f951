"""What a round of calls costs on warm workers, with and without think time between the rounds.

Search, tuning and dask's schedulers send a few calls, wait for their results, think and send the
next: there each round's latency counts, and how many calls a second fit in a long `map` says nothing.
Each side (pilots of this package, its `multiprocessing`, and peers on this machine) runs in a process
of its own, in turns, which starts its workers, has each of them run a call, and then times rounds.
A turn's ratio is that of its medians.

    one-1, one-16   one call, `submit(f).result()`, on 1 and on 16 workers
    sixteen         16 calls: 16 times `submit`, then all results, on 4 workers
    dask            400 dask tasks of nothing, `dask.compute(*tasks, scheduler=executor)`, on 2 workers;
                    of this package where this Python has dask
    idle            system calls for files of idle pilots of `local`, where there is strace

With `--strategy slurm` the pilots are Slurm's, and the figures to reach, which are those of one machine,
are not compared. Run it where sbatch is, in a checkout that the nodes share.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
from collections import defaultdict
from typing import Any, NamedTuple

from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.idle_pilots import show_idle
from benchmarks.report import percentile
from benchmarks.round_sides import PEERS, LeftOut, Side, our_side, peer_side, run_driver

_IDLE_PILOTS = (4, 16)
_IDLE_S = 10
# Of fewer rounds the 99th percentile is hardly more than the slowest.
_ENOUGH_FOR_PERCENTILE = 200


class Row(NamedTuple):
    title: str
    workers: int
    calls: int
    median_limit_ms: float
    percentile_limit_ms: float | None = None
    driver_row: str = "rounds"
    drivers: tuple[str, ...] = ()  # all, if empty


ROWS = {
    "one-1": Row("1 call, 1 worker", 1, 1, 2.5, 10.0),
    "one-16": Row("1 call, 16 workers", 16, 1, 2.5, 10.0),
    "sixteen": Row("16 calls, 4 workers", 4, 16, 5.0),
    "dask": Row(
        "400 dask tasks, 2 workers",
        2,
        400,
        600.0,
        driver_row="dask_tasks",
        drivers=("use_checkout", "use_dask"),
    ),
}


class Measured:
    """The rounds of one row: a list for each turn, in milliseconds."""

    def __init__(self) -> None:
        # Think time -> side's name -> turns.
        self.turns: defaultdict[float, defaultdict[str, list[list[float]]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def add(self, side: str, by_think_time: dict[float, list[float]]) -> None:
        for think_s, taken in by_think_time.items():
            self.turns[think_s][side].append(taken)

    def rounds(self, think_s: float, side: str) -> list[float]:
        return [taken for turn in self.turns[think_s][side] for taken in turn]

    def ratios(self, think_s: float, ours: str, theirs: str) -> list[float]:
        """Of each turn's medians, as long as both had turns."""
        turns = self.turns[think_s]
        pairs = zip(turns.get(ours, []), turns.get(theirs, []))
        return [statistics.median(mine) / statistics.median(other) for mine, other in pairs]


def wanted(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """What a driver is asked for in a turn; rounds in `seconds` of think time, at most `rounds`."""
    most = options.rounds if row.driver_row == "rounds" else max(1, options.rounds // 20)
    counts = [
        (think_s, most if not think_s else max(1, min(most, int(options.seconds / think_s))))
        for think_s in options.think
    ]
    return {"workers": row.workers, "calls": row.calls, "rounds": counts}


def measure(row: Row, sides: list[Side], options: argparse.Namespace) -> tuple[Measured, list[str]]:
    """The row's figures, and who is left out and why."""
    measured = Measured()
    left_out: list[str] = []
    sides = [side for side in sides if not row.drivers or side.driver in row.drivers]
    if row.driver_row == "dask_tasks" and not importlib.util.find_spec("dask"):
        left_out.append(f"this package: {sys.executable} has no dask")
        sides = [side for side in sides if not side.is_ours]
    for turn in range(options.turns):
        first = turn % max(1, len(sides))
        for side in sides[first:] + sides[:first]:
            print(f"{row.title}, turn {turn + 1}: {side.name}", file=sys.stderr, flush=True)
            try:
                taken = run_driver(side, row.driver_row, wanted(row, options), options.directory)
                measured.add(side.name, taken)
            except LeftOut as exc:
                left_out.append(f"{side.name} from turn {turn + 1} on: {exc}")
                sides.remove(side)
    return measured, left_out


def show_rounds(name: str, taken: list[float]) -> None:
    """As `figures.show`, with the 99th percentile."""
    figures = (min(taken), statistics.median(taken), percentile(taken, 99), max(taken))
    shown = " ".join(f"{figure:8.2f}" for figure in figures)
    print(f"{name:<58} {shown} ms  ({len(taken)})", flush=True)


def show_row(row: Row, measured: Measured, sides: list[Side]) -> None:
    """The rounds of each side."""
    print(f"\n{'':<58} {'min':>8} {'median':>8} {'99%':>8} {'max':>8}")
    for think_s, turns in measured.turns.items():
        apart = f"{row.title}, {1000 * think_s:g} ms apart"
        for side in filter(lambda side: side.name in turns, sides):
            show_rounds(f"{apart}: {side.name}", measured.rounds(think_s, side.name))


def show_ratios(measured: Measured, sides: list[Side]) -> None:
    """Each of ours over each peer."""
    peers = [side.name for side in sides if not side.is_ours]
    if peers:
        show_head()
    for think_s in measured.turns:
        for ours in filter(lambda side: side.is_ours, sides):
            for theirs in peers:
                if ratios := measured.ratios(think_s, ours.name, theirs):
                    name = f"{ours.name} over {theirs}, {1000 * think_s:g} ms apart"
                    show(name, ratios, "times", 2)


def show_limits(row: Row, measured: Measured) -> None:
    """Whether the pilots of `local` reach their figures, whatever the think time."""
    for think_s in measured.turns:
        taken = measured.rounds(think_s, "local")
        if not taken:
            continue
        apart = f"{row.title}, {1000 * think_s:g} ms apart, local"
        show_target(f"{apart}: median", statistics.median(taken), row.median_limit_ms, " ms", 2)
        if row.percentile_limit_ms is not None and len(taken) >= _ENOUGH_FOR_PERCENTILE:
            slowest = percentile(taken, 99)
            show_target(f"{apart}: 99 of 100", slowest, row.percentile_limit_ms, " ms", 2)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "idle"], default=[*ROWS, "idle"])
    parser.add_argument("--strategy", choices=["local", "slurm"], default="local", help="of pilots")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=["none", "all", *PEERS],
        default=["all"],
        metavar="PEER",
        help=f"none, all, or some of {', '.join(PEERS)} (default: all)",
    )
    parser.add_argument("--turns", type=int, default=3, help="of each side in each row")
    parser.add_argument(
        "--rounds", type=int, default=200, help="at most, in a turn; of dask tasks a twentieth"
    )
    parser.add_argument(
        "--think", type=float, nargs="+", default=[0.0, 0.05, 1.0], help="seconds between rounds"
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="that the rounds of a turn are apart in all"
    )
    parser.add_argument(
        "--directory", default=".benchmarks", help="below the checkout: environments and files"
    )
    return parser.parse_args()


def main() -> None:
    options = parse()
    show_machine()
    sides = [our_side(options.strategy), our_side("multiprocessing")]
    for name in PEERS:
        if "all" in options.peers or name in options.peers:
            try:
                sides.append(peer_side(name, options.directory))
            except LeftOut as exc:
                print(f"{PEERS[name]} is left out: {exc}", flush=True)
    for name in options.rows:
        if name == "idle" and options.strategy == "slurm":
            print("idle is left out: Slurm's pilots may be on other machines")
        elif name == "idle":
            print()
            show_head()
            for pilots in _IDLE_PILOTS:
                show_idle(pilots, _IDLE_S)
        else:
            measured, left_out = measure(ROWS[name], sides, options)
            show_row(ROWS[name], measured, sides)
            show_ratios(measured, sides)
            show_limits(ROWS[name], measured)
            for why in left_out:
                print(f"left out: {why}")
            print(f"load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
