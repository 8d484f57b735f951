"""Whether a done-callback that blocks on one executor delays another executor's results.

One executor's results are timed one after the other, with and without a callback that blocks on the
other executor; half of the undisturbed ones come before, half after.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import cluster_tools
from benchmarks.figures import show, show_head, show_machine, show_target
from benchmarks.tasks import identity

_PATIENCE_S = 60.0
# Of medians: that of the undisturbed ones differs by as much from one minute to the next.
LIMIT_MORE_S = 0.05


def round_trips(executor: Any, go_on: Callable[[], bool]) -> list[float]:
    """How long each call took, one after the other, while `go_on()`."""
    seconds: list[float] = []
    while go_on():
        began = time.perf_counter()
        executor.submit(identity, len(seconds)).result(timeout=_PATIENCE_S)
        seconds.append(time.perf_counter() - began)
    return seconds


def for_seconds(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the callback blocks")
    parser.add_argument("--strategy", default="local", help="local (the default) or slurm")
    parser.add_argument("--directory", help="for cfut_dir (default: the temporary one)")
    options = parser.parse_args()
    show_machine()
    blocking, over = threading.Event(), threading.Event()

    def block(_: object) -> None:
        blocking.set()
        time.sleep(options.seconds)
        over.set()

    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        settings: dict[str, Any] = {"cfut_dir": folder, "keep_logs": False}
        with (
            cluster_tools.get_executor(options.strategy, **settings) as blocked,
            cluster_tools.get_executor(options.strategy, **settings) as other,
        ):
            without = round_trips(other, for_seconds(options.seconds / 2))
            blocked.submit(identity, None).add_done_callback(block)
            if not blocking.wait(_PATIENCE_S):
                raise TimeoutError("the callback was not called")
            beside = round_trips(other, lambda: not over.is_set())
            without += round_trips(other, for_seconds(options.seconds / 2))
    show_head()
    show("submit(f).result(), undisturbed", without, "s", 3)
    show("beside a callback that blocks", beside, "s", 3)
    more = statistics.median(beside) - statistics.median(without)
    show_target("difference of the medians", more, LIMIT_MORE_S, " s", 3)
