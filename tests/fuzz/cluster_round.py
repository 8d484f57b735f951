"""One round on a cluster strategy, in this process: an executor, programs in threads, faults, questions."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters import LOCAL, SLURM, Cluster
from fuzz import leftovers
from fuzz.faults import ON_SLURM, ON_THIS_MACHINE, Faults
from fuzz.ledger import Ledger
from fuzz.program import LIMIT_S, Interrupts, Program
from waiting import wait_until

# More than what a program waits for, so that it says itself what it has waited for.
STANDSTILL_S = LIMIT_S + 15


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


def play(strategy: Strategy, seed: str, directory: Path) -> list[str]:
    """Plays the round of this seed. Returns: complaints.

    `directory`: a new one that jobs see, too. What is said of the round is in its file `log`.
    """
    os.environ["SIGTERM_WAIT_IN_S"] = random.Random(f"{seed}.grace").choice(["0.5", "2"])
    logging.basicConfig(filename=directory / "client.log", level=logging.INFO)
    return _Round(strategy, seed, directory).play()


class _Round:
    def __init__(self, strategy: Strategy, seed: str, directory: Path):
        self._strategy = strategy
        self._seed = seed
        self._dice = random.Random(seed)
        self._directory = directory
        self._jobs_directory = directory / "cfut"
        self._ledger = Ledger(directory / "notes")
        self._closed = threading.Event()
        self._interrupts = Interrupts()
        self._keywords = self._random_keywords()
        self._ending = self._dice.choice(sorted(_ENDINGS))
        self._over = threading.Event()
        threading.excepthook = self._note_thread
        sys.unraisablehook = self._note_unraisable

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

    def play(self) -> list[str]:
        self._new_executor().shutdown()  # with what a process keeps from its first one on
        before = leftovers.descriptors()
        executor = self._new_executor()
        signal.signal(signal.SIGUSR2, self._interrupts.handler)
        programs = [
            Program(executor, self._ledger, self._dice_of(number), self._interrupts, self._closed)
            for number in range(self._dice.choice([1, 2, 3]))
        ]
        faults = Faults(
            executor, self._ledger, programs, self._jobs_directory, self._dice_of("faults")
        )
        names = self._dice.choices(self._strategy.faults, k=self._dice.randrange(7))
        actions = [self._dice.randrange(3, 12) for _ in programs]
        print(f"{self._keywords} {actions} {names}, then {self._ending}", flush=True)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        threads = [threading.Thread(target=faults.run, args=[names], daemon=True)]
        for program, count in zip(programs[1:], actions[1:]):
            threads.append(threading.Thread(target=program.run, args=[count], daemon=True))
        for thread in threads:
            thread.start()
        programs[0].run(actions[0])  # here, where signal handlers run
        if not self._ending.endswith("early"):
            for thread in threads[1:]:
                thread.join()
        self._end(executor)
        for thread in threads:
            thread.join()
        for program in programs:
            program.iterators.clear()
        self._wait(lambda: not self._ledger.open(), "all futures are done")
        self._look_for_leftovers(before)
        self._over.set()
        return self._ledger.complaints()

    def _new_executor(self) -> Any:
        return self._strategy.cluster.new_executor(self._jobs_directory, **self._keywords)

    def _dice_of(self, part: object) -> random.Random:
        return random.Random(f"{self._seed}.{part}")

    def _end(self, executor: Any) -> None:
        self._ledger.touch()
        self._closed.set()
        try:
            _ENDINGS[self._ending](executor, self._ledger)
        except BaseException as error:
            self._ledger.trouble(f"the end, {self._ending}, raised {error!r}")
            executor.shutdown(wait=True, cancel_futures=True)
        is_waited_for = not self._ending.endswith("early") and "abort" not in self._ending
        if is_waited_for and "nowait" not in self._ending and self._ledger.open():
            count = len(self._ledger.open())
            self._ledger.trouble(f"shutdown has returned, but {count} futures are open")

    # -- after the end --

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        try:
            wait_until(condition, what)
        except TimeoutError:
            self._ledger.trouble(f"in the end {what}, but not after {LIMIT_S} s")

    def _look_for_leftovers(self, before: dict[int, str]) -> None:
        keeps_logs = self._keywords["keep_logs"]
        looks: dict[str, Callable[[], object]] = {
            "threads": leftovers.threads,
            "processes": leftovers.children,
            "files": lambda: leftovers.files(self._jobs_directory, keeps_logs),
            "descriptors": lambda: [
                (fd, what) for fd, what in leftovers.descriptors().items() if before.get(fd) != what
            ],
        }
        gc.collect()
        for name, look in looks.items():
            try:
                wait_until(lambda look=look: not look(), name)
            except TimeoutError:
                self._ledger.trouble(f"nothing is left in the end, but {name}: {look()}")

    def _watch(self) -> None:
        """Ends the process with what is known, when nothing comes to an end any more."""
        while not self._over.wait(1.0):
            if time.monotonic() > self._ledger.last_event + STANDSTILL_S:
                with open(self._directory / "stacks", "w") as file:
                    faulthandler.dump_traceback(file)
                self._ledger.trouble(f"it goes on, but nothing happens for {STANDSTILL_S} s")
                write_complaints(self._directory, self._ledger.complaints())
                os._exit(1)

    def _note_thread(self, args: threading.ExceptHookArgs) -> None:
        name = "?" if args.thread is None else args.thread.name
        self._ledger.trouble(f"the thread {name} has ended with {args.exc_value!r}")

    def _note_unraisable(self, args: Any) -> None:
        if not isinstance(args.exc_value, KeyboardInterrupt):  # ours, where it can go nowhere
            self._ledger.trouble(f"{args.err_msg} {args.object!r}: {args.exc_value!r}")


def write_complaints(directory: Path, complaints: list[str]) -> None:
    (directory / "complaints").write_text("".join(f"- {line}\n" for line in complaints))


# -- ends, each of an executor that works still --


class _Left(Exception):
    pass


def _leave(executor: Any, ledger: Ledger) -> None:
    with executor:
        pass


def _abort(executor: Any, ledger: Ledger) -> None:
    ledger.aborted = True
    try:
        with executor:
            raise _Left
    except _Left:
        pass


def _cancel(executor: Any, ledger: Ledger) -> None:
    ledger.cancelled_all_at = time.monotonic()
    executor.shutdown(cancel_futures=True)


def _cancel_nowait(executor: Any, ledger: Ledger) -> None:
    ledger.cancelled_all_at = time.monotonic()
    executor.shutdown(wait=False, cancel_futures=True)


def _shut_down_nowait(executor: Any, ledger: Ledger) -> None:
    executor.shutdown(wait=False)


def _shut_down_in_threads(executor: Any, ledger: Ledger) -> None:
    threads = [threading.Thread(target=executor.shutdown, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


_ENDINGS: dict[str, Callable[[Any, Ledger], None]] = {
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
}
