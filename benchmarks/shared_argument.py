"""What calls with one large argument cost on warm pilots: passed plainly, and by `executor.share`.

In turns, each time with a new value. What is shared is timed from before `share` to the last
result: with pickling, hashing and writing it. That its bytes arrive is checked by their sum.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import tempfile
import time
from typing import Any

from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import nap
from cluster_tools import get_executor

PILOTS = 2
LIMIT_S = 0.15


class Block:
    """Memory that is pickled as NumPy and Arrow do it: as a buffer."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Block, (pickle.PickleBuffer(self.memory),)


def sampled_sum(block: Block) -> int:
    """The sum of a byte of each page."""
    return sum(memoryview(block.memory)[::4096])


def _seconds(executor: Any, calls: int, size: int, *, shares: bool) -> float:
    block = Block(os.urandom(size))
    expected = sampled_sum(block)
    began = time.perf_counter()
    argument = executor.share(block) if shares else block
    results = list(executor.map(sampled_sum, [argument] * calls))
    took = time.perf_counter() - began
    assert results == [expected] * calls
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    show_machine()
    size = options.megabytes * 1_000_000
    plain: list[float] = []
    shared: list[float] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        get_executor("local", pilot_jobs=PILOTS, cfut_dir=directory) as executor,
    ):
        list(executor.map(nap, [0.5] * PILOTS))
        for _ in range(options.rounds):
            plain.append(_seconds(executor, options.calls, size, shares=False))
            shared.append(_seconds(executor, options.calls, size, shares=True))
    show_head()
    what = f"{options.calls} calls with {options.megabytes} MB on {PILOTS} pilots"
    show(f"{what}, plainly", plain, "s", 3)
    show(f"{what}, shared", shared, "s", 3)
    show_target(f"{what}, shared", statistics.median(shared), LIMIT_S, " s", 3)
