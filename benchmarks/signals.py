"""Signals every few milliseconds while futures resolve: nothing may stand still.

A process works with executors while it is sent signals, and says after each step that it is alive;
where it is silent for too long, that is a deadlock: the stacks of its threads are shown. Two ways of
working, half of the time each:

handlers  SIGUSR1 to a handler of the script's own, which asks, cancels and adds callbacks, in the
          middle of whatever the main thread is doing with futures of `local`.
ends      SIGINT and SIGTERM, each of which ends all executors of the process. Their jobs are done
          as soon as they are submitted, so that some signals come while results do. The script's own
          handlers, which come after ours, go on.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import cluster_tools
from benchmarks.accepting import AcceptingExecutor, AcceptingScheduler
from benchmarks.figures import show_machine
from benchmarks.tasks import identity
from cluster_tools.format import outputs, run_files
from cluster_tools.schedulers.base import ArrayRequest

_SILENCE_S = 30.0
_STEP_TASKS = 8
_SIGNALS = {"handlers": [signal.SIGUSR1], "ends": [signal.SIGINT, signal.SIGTERM]}


class AnsweringScheduler(AcceptingScheduler):
    """Writes the outputs of an array's tasks before `submit` returns: None for each."""

    def submit(self, request: ArrayRequest) -> str:
        array_file, first = request.command[-3:-1]
        output = pickle.dumps((True, None))
        record = outputs.encode_record("none", (0, 0, 0, 0), 1, None)
        ends = outputs.encode_footer(len(output), len(record))
        for task in range(int(first), int(first) + request.count):
            shard = run_files.shard_path(os.path.dirname(array_file), task)
            os.makedirs(shard, exist_ok=True)
            path = os.path.join(shard, run_files.output_name(task))
            with open(f"{path}.tmp", "wb") as file:
                file.write(output + record + ends)
            os.rename(f"{path}.tmp", path)
        return super().submit(request)


def count_outcomes(futures: list[Future[Any]], outcomes: Counter[str]) -> None:
    for future in futures:
        try:
            future.result(timeout=_SILENCE_S)
            outcomes["results"] += 1
        except CancelledError:
            outcomes["cancelled"] += 1
        except Exception as exc:  # it should be none: shown with the rest
            outcomes[type(exc).__name__] += 1


def work_with_handlers(cfut_dir: str, outcomes: Counter[str]) -> None:
    """Steps on one executor, whose futures a signal handler touches at any moment."""
    futures: list[Future[Any]] = []

    def touch(signum: int, frame: object) -> None:
        outcomes["signals"] += 1
        for future in futures:
            future.done()
            future.running()
            future.add_done_callback(lambda _: None)
        if futures and random.random() < 0.05:
            random.choice(futures).cancel()

    signal.signal(signal.SIGUSR1, touch)
    with cluster_tools.get_executor("local", cfut_dir=cfut_dir, keep_logs=False) as executor:
        while True:
            futures += [executor.submit(identity, n) for n in range(_STEP_TASKS)]
            futures += executor.map_to_futures(identity, range(_STEP_TASKS))
            wait(futures, timeout=_SILENCE_S)
            count_outcomes(futures, outcomes)
            futures.clear()
            print(dict(outcomes), flush=True)


def work_with_ends(cfut_dir: str, outcomes: Counter[str]) -> None:
    """Steps on executors that a signal ends at any moment; then comes the next executor."""

    def go_on(signum: int, frame: object) -> None:
        outcomes["signals"] += 1

    for signum in _SIGNALS["ends"]:
        signal.signal(signum, go_on)
    while True:
        outcomes["executors"] += 1
        futures: list[Future[Any]] = []
        with AcceptingExecutor(AnsweringScheduler(), cfut_dir=cfut_dir) as executor:
            try:
                for _ in range(_STEP_TASKS):
                    futures.append(executor.submit(identity, None))
                futures += executor.map_to_futures(identity, range(_STEP_TASKS))
            except RuntimeError:  # it has ended
                pass
            count_outcomes(futures, outcomes)
        print(dict(outcomes), flush=True)


def work(way: str) -> None:
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    with tempfile.TemporaryDirectory() as folder:
        steps = work_with_handlers if way == "handlers" else work_with_ends
        steps(folder, Counter())


def torment(way: str, seconds: float, mean_gap_s: float) -> bool:
    """Whether the process was alive all the time."""
    command = [sys.executable, "-m", "benchmarks", "signals", "--work", way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        lines = process.stdout.fileno()
        last_line, sent = b"", 0
        heard = time.monotonic()
        end = None  # counts from its first step on: before, it has no handlers
        alive = True
        while end is None or time.monotonic() < end:
            if select.select([lines], [], [], 0)[0]:
                piece = os.read(lines, 1 << 16)
                if not piece:
                    print(f"{way}: the process has ended, status {process.wait()}")
                    return False
                last_line = piece.splitlines()[-1]
                heard = time.monotonic()
                end = end or heard + seconds
            if time.monotonic() - heard > _SILENCE_S:
                alive = False
                print(f"{way}: DEADLOCK, nothing for {_SILENCE_S:g} s. Its threads:", flush=True)
                process.send_signal(signal.SIGUSR2)
                time.sleep(1.0)
                break
            time.sleep(random.expovariate(1 / mean_gap_s))
            if end is not None:
                process.send_signal(random.choice(_SIGNALS[way]))
                sent += 1
        print(f"{way}: {sent} signals in {seconds:g} s, {last_line.decode()}", flush=True)
        process.kill()
        return alive


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--gap", type=float, default=4.0, help="mean milliseconds between signals")
    parser.add_argument("--work", choices=list(_SIGNALS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    show_machine()
    ways = [torment(way, options.seconds / 2, options.gap / 1000) for way in _SIGNALS]
    print("no deadlock" if all(ways) else "it stood still or ended")
    sys.exit(not all(ways))
