"""Random faults from outside, in a thread of their own: of jobs' processes and of the client.

Each is noted in the ledger before it is made, with the element that it hits, so that the ledger
accepts what it explains, and nothing else.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fuzz.ledger import Hit, Ledger, Window
from fuzz.program import Handle, Program

# A forked child has one thread, but the locks of all: it may hang, and is ended after so long.
_CHILD_LIMIT_S = 20
# How long a fault waits for a job that begins.
_NEW_LIMIT_S = 2.0
_STARTS_WORKERS = "start_worker.py"


class Faults:
    def __init__(
        self,
        handle: Handle,
        ledger: Ledger,
        programs: list[Program],
        directory: Path,
        dice: random.Random,
    ):
        self._handle = handle
        self._ledger = ledger
        self._programs = programs
        self._directory = directory
        self._dice = dice
        self.made: list[str] = []

    def run(self, names: list[str]) -> None:
        try:
            for name in names:
                time.sleep(self._dice.choice([0.02, 0.1, 0.3, 1.0]) * 2 * self._dice.random())
                self.made.append(name)
                FAULTS[name](self)
                self._ledger.touch()
        except BaseException as error:
            self._ledger.trouble(f"the faults have ended with {error!r}")

    # -- of jobs on this machine --

    def _victims(self) -> list[Hit]:
        """The processes of the executor's jobs."""
        found: list[Hit] = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                element = _element_of(int(name), str(self._directory))
                if element is not None:
                    found.append(Hit(element, int(name)))
        return found

    def _victim(self) -> Hit | None:
        found = self._victims()
        return self._dice.choice(found) if found else None

    def kill(self) -> None:
        victim = self._victim()
        if victim is not None:
            self._ledger.hits.append(victim)
            _send(victim.pid, signal.SIGKILL)

    def kill_at_its_start(self) -> None:
        """Kills a process that is importing, or has just begun its first call."""
        known = {victim.pid for victim in self._victims()}
        deadline = time.monotonic() + _NEW_LIMIT_S
        while time.monotonic() < deadline:
            new = [victim for victim in self._victims() if victim.pid not in known]
            if new:
                time.sleep(self._dice.uniform(0, 0.2))
                self._ledger.hits.append(new[0])
                _send(new[0].pid, signal.SIGKILL)
                return
            time.sleep(0.005)

    def stop_and_kill(self) -> None:
        victim = self._victim()
        if victim is not None:
            self._ledger.hits.append(victim)
            self._stop_for_a_while(victim, signal.SIGKILL)

    def stop_and_go(self) -> None:
        victim = self._victim()
        if victim is not None:
            self._ledger.stopped.append(victim)
            self._stop_for_a_while(victim, signal.SIGCONT)

    def _stop_for_a_while(self, victim: Hit, then: signal.Signals) -> None:
        _send(victim.pid, signal.SIGSTOP)
        time.sleep(self._dice.uniform(0.1, 1.5))
        _send(victim.pid, then)

    # -- of jobs on Slurm --

    def scancel(self) -> None:
        self._scancel()

    def scancel_kill(self) -> None:
        self._scancel("--signal=KILL", "--full")

    def scancel_stop_and_kill(self) -> None:
        element = self._scancel("--signal=STOP", "--full")
        time.sleep(self._dice.uniform(0.1, 1.5))
        if element is not None:
            _command("scancel", "--signal=KILL", "--full", element)

    def _scancel(self, *options: str) -> str | None:
        log = f"{self._directory}/"
        rows = [
            row.split("|")
            for row in _command("squeue", "--me", "--noheader", "--array", "--format=%i|%o|%T")
        ]
        ours = [row for row in rows if len(row) == 3 and log in row[1]]
        # Of a waiting array a signal to one element cancels all, with Slurm 22.05.
        elements = [element for element, _, state in ours if not options or state == "RUNNING"]
        if not elements:
            return None
        element = self._dice.choice(elements)
        self._ledger.hits.append(Hit(element, 0))
        _command("scancel", *options, element)
        return element

    # -- of the client --

    def fork(self) -> None:
        """Forks a child that ends its copies of what its parent goes on with."""
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(_CHILD_LIMIT_S)
                self._end_copies()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def _end_copies(self) -> None:
        for entry in self._ledger.with_futures()[-10:]:
            entry.cancel()
        for program in self._programs:
            for results in program.iterators:
                try:
                    results.close()
                except Exception:  # another thread was in it
                    pass
            program.iterators.clear()
        if self._handle.executor is not None:
            self._handle.executor.shutdown(wait=self._dice.random() < 0.5, cancel_futures=True)
        gc.collect()

    def no_descriptors(self) -> None:
        """For a while this process can open nothing more."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        window = Window(time.monotonic(), lowest)
        self._ledger.windows.append(window)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
        try:
            time.sleep(self._dice.choice([0.05, 0.5, 2.0]))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            window.ended = time.monotonic()

    def no_descriptors_and_kill(self) -> None:
        """Like `no_descriptors`, and meanwhile a job is killed."""
        victim = self._victim()
        if victim is not None:
            self._ledger.hits.append(victim)
            killer = threading.Timer(0.02, _send, [victim.pid, signal.SIGKILL])
            killer.start()
            self.no_descriptors()
            killer.join()


FAULTS: dict[str, Callable[[Faults], None]] = {
    "kill": Faults.kill,
    "kill at its start": Faults.kill_at_its_start,
    "stop and kill": Faults.stop_and_kill,
    "stop and go on": Faults.stop_and_go,
    "scancel": Faults.scancel,
    "scancel --signal=KILL": Faults.scancel_kill,
    "scancel --signal=STOP, then KILL": Faults.scancel_stop_and_kill,
    "fork": Faults.fork,
    "no descriptors": Faults.no_descriptors,
    "no descriptors while a job is killed": Faults.no_descriptors_and_kill,
}
OF_CLIENTS = ["fork", "no descriptors"]
ON_THIS_MACHINE = [
    *OF_CLIENTS,
    *["kill", "stop and kill", "stop and go on"] * 2,
    "kill at its start",
    *["no descriptors while a job is killed"] * 2,
]
ON_SLURM = [
    *OF_CLIENTS,
    "scancel",
    "scancel --signal=KILL",
    "scancel --signal=STOP, then KILL",
]


def _element_of(pid: int, directory: str) -> str | None:
    """The element that a process is, if it is a worker of an executor with this directory."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (OSError, UnicodeDecodeError):
        return None
    log = f"{directory}/"
    if not any(word.endswith(_STARTS_WORKERS) for word in words):
        return None
    for before, word in itertools.pairwise(words):
        if word.startswith(log) and word.endswith(".log.stdout"):
            return before
    return None


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _command(*words: str) -> list[str]:
    """The lines that it prints; none where it fails, as for a job that has ended."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.splitlines()
