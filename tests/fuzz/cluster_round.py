"""One round on a cluster strategy, in this process: executor, programs, faults, questions."""

from __future__ import annotations

import gc
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz import leftovers
from fuzz.faults import ON_SLURM, ON_THIS_MACHINE, Faults
from fuzz.ledger import Ledger
from fuzz.program import Handle, Interrupts, Program
from support.clusters import LOCAL, SLURM, Cluster

# From the signal by which a process is killed to its end, on a machine that is busy.
_ENDING_S = 2.0


@dataclass(frozen=True)
class Strategy:
    cluster: Cluster
    with_pilots: bool
    faults: list[str]


STRATEGIES = {
    "local": Strategy(LOCAL, False, ON_THIS_MACHINE),
    "local-pilots": Strategy(LOCAL, True, ON_THIS_MACHINE),
    "slurm": Strategy(SLURM, False, ON_SLURM),
    "slurm-pilots": Strategy(SLURM, True, ON_SLURM),
}


def play(strategy: Strategy, seed: str, directory: Path) -> None:
    """Plays the round of this seed. `directory`: a new one that jobs see, too."""
    logging.basicConfig(filename=directory / "client.log", level=logging.INFO)
    _Round(strategy, seed, directory).play()


class _Round:
    def __init__(self, strategy: Strategy, seed: str, directory: Path):
        self._strategy = strategy
        self._seed = seed
        self._dice = random.Random(seed)
        self._directory = directory
        self._jobs_directory = directory / "cfut"
        grace_s = self._dice.choice([0.5, 2.0])
        os.environ["SIGTERM_WAIT_IN_S"] = str(grace_s)
        is_ended = strategy.cluster is LOCAL and not strategy.with_pilots
        self._ledger = Ledger(directory, grace_s + _ENDING_S if is_ended else None)
        self._closed = threading.Event()
        rate = self._dice.choice([0.0, 0.3, 0.8])
        self._interrupts = Interrupts(self._dice_of("interrupts"), rate)
        self._keywords = self._random_keywords()
        self._ending = self._dice.choice(sorted(_ENDINGS))

    def _random_keywords(self) -> dict[str, Any]:
        dice = self._dice
        keywords: dict[str, Any] = {
            "keep_logs": dice.random() < 0.7,
            "linger_s": dice.choice([0.0, 1.0, 10.0]),
        }
        if dice.random() < 0.7 or self._strategy.cluster is LOCAL:
            keywords["max_workers"] = dice.choice([1, 2, 2, 3, 4])
        if self._strategy.with_pilots:
            keywords["pilot_jobs"] = dice.choice([1, 2, 3])
            keywords["pilot_idle_timeout_s"] = dice.choice([0.2, 1.0, 60.0])
        if dice.random() < 0.2:
            keywords["client_timeout_s"] = dice.choice([30.0, None])
        return keywords

    def play(self) -> None:
        with self._ledger.watching():
            self._play()

    def _play(self) -> None:
        self._new_executor().shutdown()  # with what a process keeps from its first one on
        before = leftovers.descriptors()
        handle = Handle(self._new_executor())
        programs = [self._program(handle, number) for number in range(self._dice.choice([1, 2, 3]))]
        faults = Faults(
            handle, self._ledger, programs, self._jobs_directory, self._dice_of("faults")
        )
        names = self._dice.choices(self._strategy.faults, k=self._dice.randrange(7))
        actions = [self._dice.randrange(3, 12) for _ in programs]
        print(f"{self._keywords} {actions} {names}, then {self._ending}", flush=True)
        threads = [threading.Thread(target=faults.run, args=[names], daemon=True)]
        for program, count in zip(programs[1:], actions[1:]):
            threads.append(threading.Thread(target=program.run, args=[count], daemon=True))
        for thread in threads:
            thread.start()
        began = time.monotonic()
        programs[0].run(actions[0])  # here, where signal handlers run
        if not self._ending.endswith("early"):
            for thread in threads[1:]:
                thread.join()
        programs_s = time.monotonic() - began
        self._end(handle)
        print(
            f"programs took {programs_s:.1f} s, with the end {time.monotonic() - began:.1f} s; "
            f"{len(self._ledger.entries)} calls, {self._interrupts.count} submissions interrupted, "
            f"{len(self._ledger.hits)} jobs hit"
        )
        for thread in threads:
            thread.join()
        for program in programs:
            program.iterators.clear()
        self._look_for_leftovers(before)

    def _new_executor(self) -> Any:
        return self._strategy.cluster.new_executor(self._jobs_directory, **self._keywords)

    def _program(self, handle: Handle, number: int) -> Program:
        # To a pilot a short call is a millisecond, otherwise it is a process.
        widest = self._dice.choice([10, 150]) if self._strategy.with_pilots else 10
        dice = self._dice_of(number)
        return Program(handle, self._ledger, dice, self._interrupts, self._closed, widest)

    def _dice_of(self, part: object) -> random.Random:
        return random.Random(f"{self._seed}.{part}")

    def _end(self, handle: Handle) -> None:
        self._ledger.touch()
        self._closed.set()
        try:
            _ENDINGS[self._ending](handle, self._ledger)
        except BaseException as error:
            self._ledger.trouble(f"the end, {self._ending}, raised {error!r}")
            handle.executor.shutdown(wait=True, cancel_futures=True)
        if self._ending in _WAITING and self._ledger.open():
            count = len(self._ledger.open())
            self._ledger.trouble(f"shutdown has returned, but {count} futures are open")

    # -- after the end --

    def _look_for_leftovers(self, before: dict[int, str]) -> None:
        keeps_logs = self._keywords["keep_logs"]
        gc.collect()
        self._ledger.look_for(
            {
                "open futures": lambda: [entry.call for entry in self._ledger.open()],
                "threads": leftovers.threads,
                "processes": leftovers.children,
                "elements": lambda: self._strategy.cluster.elements_of(self._jobs_directory),
                "files": lambda: leftovers.files(self._jobs_directory, keeps_logs),
                "descriptors": lambda: leftovers.new_descriptors(before),
            }
        )


# -- ends, each of an executor that works still --


class _Left(Exception):
    pass


def _leave(handle: Handle, ledger: Ledger) -> None:
    with handle.executor:
        pass


def _abort(handle: Handle, ledger: Ledger) -> None:
    ledger.cancelled_all = True
    try:
        with handle.executor:
            raise _Left
    except _Left:
        pass


def _cancel(handle: Handle, ledger: Ledger) -> None:
    ledger.cancelled_all = True
    handle.executor.shutdown(cancel_futures=True)


def _cancel_nowait(handle: Handle, ledger: Ledger) -> None:
    ledger.cancelled_all = True
    handle.executor.shutdown(wait=False, cancel_futures=True)


def _shut_down_nowait(handle: Handle, ledger: Ledger) -> None:
    handle.executor.shutdown(wait=False)


def _drop(handle: Handle, ledger: Ledger) -> None:
    """Its calls go on, and with the last of them it ends."""
    handle.executor = None
    gc.collect()


def _shut_down_in_threads(handle: Handle, ledger: Ledger) -> None:
    threads = [threading.Thread(target=handle.executor.shutdown, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


_ENDINGS: dict[str, Callable[[Handle, Ledger], None]] = {
    "leave": _leave,
    "leave early": _leave,
    "abort": _abort,
    "abort early": _abort,
    "cancel": _cancel,
    "cancel early": _cancel,
    "cancel, nowait": _cancel_nowait,
    "nowait": _shut_down_nowait,
    "nowait early": _shut_down_nowait,
    "in threads": _shut_down_in_threads,
    "drop": _drop,
}
# Which come back when all futures are done.
_WAITING = ("leave", "cancel", "in threads")
