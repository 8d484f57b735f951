"""The command line of the fuzzers; the package's docstring says what they do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzz import cluster_round, pool_round, rounds

_STRATEGIES = ["multiprocessing", *cluster_round.STRATEGIES]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("strategy", choices=_STRATEGIES)
    parser.add_argument("--seed", default="0", help="any word; default: 0")
    parser.add_argument("--seconds", type=float, default=60.0, help="default: 60")
    parser.add_argument("--round", type=int, help="this one only")
    parser.add_argument(
        "--directory", type=_absolute, help="where rounds work; on Slurm a shared one"
    )
    parser.add_argument("--play", type=int, help=argparse.SUPPRESS)  # in a round's own process
    options = parser.parse_args()
    if options.play is not None:
        _play(options.strategy, f"{options.seed}.{options.play}", options.directory)
        return 0
    if options.round is not None:
        failure = rounds.play(options.strategy, options.seed, options.round, options.directory)
        failures = [] if failure is None else [failure]
    else:
        failures = rounds.failures(
            options.strategy, options.seed, options.seconds, directory=options.directory
        )
    has_failed = False
    for failure in failures:
        has_failed = True
        print(failure, flush=True)
    return int(has_failed)


def _absolute(path: str) -> Path:
    return Path(path).resolve()


def _play(strategy: str, seed: str, directory: Path) -> None:
    if strategy == "multiprocessing":
        pool_round.play(seed, directory)
    else:
        cluster_round.play(cluster_round.STRATEGIES[strategy], seed, directory)


if __name__ == "__main__":
    sys.exit(main())
