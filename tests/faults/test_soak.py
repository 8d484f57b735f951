"""Ten minutes of random calls under random faults, by a seed:

    docker exec -e FAULTS_SEED=1 slurmctld pytest -s tests/faults/test_soak.py

    four threads --calls--> executors --futures--> ledger: what each has to come to
    this thread  --faults, one after the other, each undone before the next

FAULTS_MINUTES makes it longer or shorter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import containers
import controller
import pytest

from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteExitException,
    RemoteLostException,
    RemoteNeverStartedException,
    RemoteNodeFailureException,
    RemotePreemptedException,
)
from support import jobs
from support.bad_calls import BAD_CALLS
from support.clusters import SLURM, command, queue
from support.programs import executor_program
from support.waiting import wait_until

_SECONDS = 60 * float(os.environ.get("FAULTS_MINUTES", "10"))
_THREADS = 4
# A requeued job is held back for two minutes, a node may be lost for one, and so on one after the
# other.
_LAST_FUTURE_LIMIT_S = 600.0
# So is one whose results were taken: it begins, finds its executor gone, and leaves.
_END_LIMIT_S = 300.0
# What a fault may end a call with, whatever the call would have come to.
_BY_A_FAULT = (
    RemoteCancelledException,
    RemoteExitException,
    RemoteLostException,
    RemoteNeverStartedException,
    RemoteNodeFailureException,
    RemotePreemptedException,
)

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        "FAULTS_SEED" not in os.environ, reason="minutes of random faults: FAULTS_SEED=n has them"
    ),
    pytest.mark.timeout(_SECONDS + _LAST_FUTURE_LIMIT_S + 3 * _END_LIMIT_S),
]

_logger = logging.getLogger(__name__)


@dataclass
class _Ledger:
    """What was submitted, and what it came to. Only list operations that need no lock."""

    # (future, the name of its bad call or "", what it returns)
    expected: list[tuple[Any, str, Any]] = field(default_factory=list[tuple[Any, str, Any]])
    called_back: Counter[int] = field(default_factory=Counter[int])
    faults: Counter[str] = field(default_factory=Counter[str])
    troubles: list[str] = field(default_factory=list[str])

    def note_callback(self, future: Any) -> None:
        self.called_back.update([id(future)])

    def lost(self) -> list[Any]:
        return [future for future, _, _ in self.expected if not future.done()]

    def wrong(self) -> list[str]:
        found: list[str] = []
        for future, bad, value in self.expected:
            if not future.done():
                continue
            error = future.exception()
            if error is None:
                is_right = not bad and future.result() == value
            elif isinstance(error, _BY_A_FAULT):
                is_right = bool(error.job_id) and "log" in str(error)
            else:
                is_right = bool(bad) and isinstance(error, BAD_CALLS[bad].error)
            if not is_right:
                found.append(f"{bad or value}: {error!r}")
            if self.called_back[id(future)] != 1:
                found.append(f"{bad or value}: called back {self.called_back[id(future)]} times")
        return found


def _random_call(dice: random.Random) -> tuple[Callable[[], Any], str, Any]:
    kind = dice.random()
    number = dice.randrange(1000)
    if kind < 0.1:
        name = dice.choice(sorted(BAD_CALLS))
        return BAD_CALLS[name].step, name, None
    if kind < 0.5:
        return partial(jobs.square_after, number, dice.uniform(0, 8)), "", number * number
    return partial(jobs.square, number), "", number * number


def _work(dice: random.Random, directory: Path, ledger: _Ledger, deadline: float) -> None:
    """Executor after executor, array after array, until the deadline."""
    while time.monotonic() < deadline:
        pilots = {"pilot_jobs": 2} if dice.random() < 0.3 else {}
        with SLURM.new_executor(directory, **pilots) as executor:
            for _ in range(dice.randrange(1, 4)):
                if time.monotonic() > deadline:
                    break
                calls = [_random_call(dice) for _ in range(dice.randrange(1, 25))]
                steps = [step for step, _, _ in calls]
                if dice.random() < 0.5:
                    futures = executor.map_to_futures(jobs.run, steps)
                else:
                    futures = [executor.submit(step) for step in steps]
                for future, (_, bad, value) in zip(futures, calls):
                    ledger.expected.append((future, bad, value))
                    future.add_done_callback(ledger.note_callback)
                for future in futures:
                    future.exception(_LAST_FUTURE_LIMIT_S)


def _guarded_work(*arguments: Any) -> None:
    ledger = arguments[2]
    try:
        _work(*arguments)
    except BaseException as error:
        ledger.troubles.append(repr(error))
        _logger.exception("a thread that submits has ended")


# -- faults, each undone when it returns --


def _some_element(dice: random.Random, *states: str) -> str | None:
    rows = [row.split("|") for row in queue("%i|%T")]
    return dice.choice([i for i, state in rows if state in states] or [None])


def _try(*words: str) -> None:
    """A command on an element that may have ended meanwhile."""
    subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)


def _cancel(dice: random.Random) -> None:
    element = _some_element(dice, "PENDING", "RUNNING")
    if element is not None:
        _try("scancel", element)


def _kill(dice: random.Random) -> None:
    element = _some_element(dice, "RUNNING")
    if element is not None:
        _try("scancel", "--signal=KILL", "--full", element)


def _requeue(dice: random.Random) -> None:
    element = _some_element(dice, "RUNNING")
    if element is not None:
        _try("scontrol", "requeue", element)


def _mend() -> None:
    """As an operator does: some faults make Slurm drain a node or hold a job, or hold it back for
    minutes.
    """
    for row in command("sinfo", "--noheader", "--Node", "--format=%n|%T"):
        node, _, state = row.partition("|")
        if state.startswith("drain"):
            _try("scontrol", "update", f"nodename={node}", "state=resume")
    for row in queue("%i|%r|%S", "--states=PENDING"):
        element, reason, start = row.split("|")
        # Once: each time it is set, it is later.
        if reason == "BeginTime" and start > f"{datetime.now() + timedelta(seconds=10):%FT%T}":
            _try("scontrol", "update", f"jobid={element}", "starttime=now+5")
        elif reason == "launch failed requeued held":
            _try("scontrol", "release", element)


def _hold(dice: random.Random) -> None:
    element = _some_element(dice, "PENDING")
    if element is not None:
        _try("scontrol", "hold", element)
        time.sleep(dice.uniform(0, 5))
        _try("scontrol", "release", element)


def _kill_slurmctld(dice: random.Random) -> None:
    _try("pkill", "-KILL", "-x", controller.PROCESS)
    time.sleep(dice.uniform(0, 20))
    command("slurmctld")
    wait_until(_answers, "slurmctld")


def _answers() -> bool:
    ping = subprocess.run(
        ["scontrol", "ping"], capture_output=True, text=True, timeout=60, check=False
    )
    return "is UP" in ping.stdout


def _pause_node(dice: random.Random) -> None:
    node = dice.choice(["c1", "c2"])
    with contextlib.suppress(containers.DockerError):  # the kernel can't freeze whatever is there
        containers.pause(node)
    time.sleep(dice.uniform(1, 15))
    with contextlib.suppress(containers.DockerError):
        containers.unpause(node)


def _kill_node(dice: random.Random) -> None:
    node = dice.choice(["c1", "c2"])
    containers.kill(node)
    time.sleep(dice.uniform(0, 30))
    containers.start(node)


def _cut_node_off(dice: random.Random) -> None:
    node = dice.choice(["c1", "c2"])
    where = containers.disconnect(node)
    time.sleep(dice.uniform(1, 30))
    containers.connect(node, where)


def _stop_accounting(dice: random.Random) -> None:
    containers.stop("slurmdbd")
    time.sleep(dice.uniform(1, 20))
    containers.start("slurmdbd")


class _FailingCommands:
    """squeue, sacct and sbatch that fail four times of five while there is a file."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._switch = directory / "on"
        for name in ("squeue", "sacct", "sbatch"):
            controller.wrap(
                directory,
                name,
                f'if [ -e "{self._switch}" ] && [ $((RANDOM % 5)) != 0 ]; then\n'
                '    echo "slurm_load_jobs error: '
                'Unable to contact slurm controller (connect failure)" >&2\n'
                "    exit 1\nfi\n"
                'real "$@"',
            )

    def __call__(self, dice: random.Random) -> None:
        self._switch.touch()
        time.sleep(dice.uniform(1, 20))
        self._switch.unlink()


class _KilledClients:
    """Clients that are killed: their jobs leave by themselves."""

    def __init__(self, directory: Path):
        self._directory = directory

    def __call__(self, dice: random.Random) -> None:
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        body = """\
        executor = new_executor(client_timeout_s=2)
        executor.map(jobs.say, range(20))
        time.sleep(60)
        """
        with executor_program(SLURM, directory, body) as program:
            time.sleep(dice.uniform(0, 5))
            program.process.kill()


class _StoppedClients:
    """Clients that are stopped for longer than workers wait for them, and go on: they get all their
    results.
    """

    def __init__(self, directory: Path, ledger: _Ledger):
        self._directory = directory
        self._ledger = ledger

    def __call__(self, dice: random.Random) -> None:
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        body = """\
        os.environ["SLURM_MAX_RUNNING_SIZE"] = "2"
        with new_executor(client_timeout_s=2) as executor:
            print(sum(executor.map(jobs.square_after, range(20), [0.5] * 20)))
        """
        with executor_program(SLURM, directory, body) as program:
            time.sleep(dice.uniform(1, 4))
            program.send(signal.SIGSTOP)
            time.sleep(6)
            program.send(signal.SIGCONT)
            program.process.wait(_END_LIMIT_S)
            if program.stdout != "2470\n":
                self._ledger.troubles.append(f"a stopped client printed {program.stdout}")


def _is_over(directory: Path) -> bool:
    _mend()
    return not SLURM.elements_of(directory)


def _wait_long(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _END_LIMIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert condition(), what


def test_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = os.environ["FAULTS_SEED"]
    dice = random.Random(seed)
    threads_before = set(threading.enumerate())
    ledger = _Ledger()
    directory = tmp_path / "cfut"
    commands = _FailingCommands(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(commands.directory), prepend=os.pathsep)
    faults: dict[str, Callable[[random.Random], None]] = {
        "scancel of an element": _cancel,
        "scancel --signal=KILL of an element": _kill,
        "requeue of an element": _requeue,
        "an element held and released": _hold,
        "slurmctld killed and started": _kill_slurmctld,
        "a node paused": _pause_node,
        "a node killed and started": _kill_node,
        "a node cut off": _cut_node_off,
        "slurmdbd stopped and started": _stop_accounting,
        "commands that fail four times of five": commands,
        "a client killed": _KilledClients(tmp_path),
        "a client stopped and continued": _StoppedClients(tmp_path, ledger),
    }
    deadline = time.monotonic() + _SECONDS
    workers = [
        threading.Thread(
            target=_guarded_work,
            args=(random.Random(f"{seed}.{number}"), directory, ledger, deadline),
        )
        for number in range(_THREADS)
    ]
    for worker in workers:
        worker.start()
    while time.monotonic() < deadline:
        time.sleep(dice.uniform(1, 6))
        name = dice.choice(sorted(faults))
        _logger.info("fault: %s", name)
        faults[name](dice)
        ledger.faults[name] += 1
        _mend()
    limit = time.monotonic() + _LAST_FUTURE_LIMIT_S
    while any(worker.is_alive() for worker in workers) and time.monotonic() < limit:
        _mend()
        time.sleep(5)
    lost, wrong = ledger.lost(), ledger.wrong()
    ends = Counter(type(future.exception()).__name__ for future, _, _ in ledger.expected)
    print(
        f"\nseed {seed}: {len(ledger.expected)} tasks, {sum(ledger.faults.values())} faults, "
        f"{len(lost)} lost, {len(wrong)} wrong\n{dict(ledger.faults)}\n{dict(ends)}"
    )
    assert (lost, wrong, ledger.troubles) == ([], [], [])
    _wait_long(lambda: _is_over(tmp_path), "an empty queue")
    _wait_long(lambda: set(threading.enumerate()) <= threads_before, "the end of all threads")
    left = [path for path in directory.iterdir() if not path.name.endswith(".log.stdout")]
    assert left == []
