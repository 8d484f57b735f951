"""Ten minutes of random calls under random faults, by a seed:

    docker exec -e FAULTS_SEED=1 slurmctld pytest -s tests/faults/test_soak.py

    four threads --calls--> executors --futures--> ledger: what each has to come to
    this thread  --faults, one after the other, each undone before the next
    each call    --where and when it began--> a file, which says whether one began twice

FAULTS_MINUTES makes it longer or shorter.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
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


@dataclass(eq=False)
class _Call:
    """A call and what it has to come to.

    Attributes:
        bad: The name of its bad call, or "".
        value: What it returns, if it is not bad.
    """

    step: Callable[[], Any]
    bad: str
    value: Any
    name: str
    future: Any = None

    def is_wrong(self) -> bool:
        error = self.future.exception()
        if error is None:
            return bool(self.bad) or self.future.result() != self.value
        if isinstance(error, _BY_A_FAULT):
            return not error.job_id or "log" not in str(error)
        return not self.bad or not isinstance(error, BAD_CALLS[self.bad].error)


@dataclass
class _Ledger:
    """What was submitted, and what it came to. Only list operations that need no lock.

    Attributes:
        runs: A file with a line for each time that a call has begun: see `jobs.run_and_note`. The
            nodes are containers of one machine, whose kernel appends each line as a whole.
    """

    runs: Path
    calls: list[_Call] = field(default_factory=list[_Call])
    called_back: Counter[int] = field(default_factory=Counter[int])
    faults: Counter[str] = field(default_factory=Counter[str])
    troubles: list[str] = field(default_factory=list[str])

    def note_callback(self, future: Any) -> None:
        self.called_back.update([id(future)])

    def lost(self) -> list[_Call]:
        return [call for call in self.calls if not call.future.done()]

    def wrong(self) -> list[str]:
        found: list[str] = []
        for call in self.calls:
            if not call.future.done():
                continue
            what = f"{call.name}, {call.bad or call.value}"
            if call.is_wrong():
                found.append(f"{what}: {call.future.exception()!r}")
            if self.called_back[id(call.future)] != 1:
                found.append(f"{what}: called back {self.called_back[id(call.future)]} times")
        return found

    def run_twice(self) -> list[str]:
        """The lines of calls that began more often than they may: once in each run of one job.

        Slurm runs a job again that it requeues, as when its node is lost. Of the calls of other
        clients, too.
        """
        found: list[str] = []
        for lines in self._runs().values():
            jobs_of_call, restarts = zip(*(line.split()[1:3] for line in lines), strict=True)
            if len({*jobs_of_call}) > 1 or len({*restarts}) < len(lines):
                found += lines
        return found

    def not_noted(self) -> list[str]:
        """The calls that have returned and left no line: if there are any, `run_twice` is blind."""
        runs = self._runs()
        return [
            call.name
            for call in self.calls
            if call.future.done() and not call.future.exception() and call.name not in runs
        ]

    def _runs(self) -> dict[str, list[str]]:
        """Call's name -> its lines."""
        runs: defaultdict[str, list[str]] = defaultdict(list)
        for line in self.runs.read_text().splitlines():
            runs[line.split()[0]].append(line)
        return runs


def _random_call(dice: random.Random, name: str) -> _Call:
    kind = dice.random()
    number = dice.randrange(1000)
    if kind < 0.1:
        bad = dice.choice(sorted(BAD_CALLS))
        return _Call(BAD_CALLS[bad].step, bad, None, name)
    if kind < 0.5:
        step = partial(jobs.square_after, number, dice.uniform(0, 8))
        return _Call(step, "", number * number, name)
    return _Call(partial(jobs.square, number), "", number * number, name)


def _work(
    thread: int, dice: random.Random, directory: Path, ledger: _Ledger, deadline: float
) -> None:
    """Executor after executor, array after array, until the deadline."""
    names = (f"call-{thread}-{number}" for number in itertools.count())
    while time.monotonic() < deadline:
        pilots = {"pilot_jobs": 2} if dice.random() < 0.3 else {}
        with SLURM.new_executor(directory, **pilots) as executor:
            for _ in range(dice.randrange(1, 4)):
                if time.monotonic() > deadline:
                    break
                calls = [_random_call(dice, next(names)) for _ in range(dice.randrange(1, 25))]
                steps = [
                    partial(jobs.run_and_note, call.step, ledger.runs, call.name) for call in calls
                ]
                if dice.random() < 0.5:
                    futures = executor.map_to_futures(jobs.run, steps)
                else:
                    futures = [executor.submit(step) for step in steps]
                for future, call in zip(futures, calls, strict=True):
                    call.future = future
                    ledger.calls.append(call)
                    future.add_done_callback(ledger.note_callback)
                for future in futures:
                    future.exception(_LAST_FUTURE_LIMIT_S)


def _guarded_work(ledger: _Ledger, *arguments: Any) -> None:
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


# Begins a script: twenty calls that are noted in the ledger's file of runs.
_NOTED = """\
        from functools import partial

        numbers = range(20)
        steps = [partial(jobs.square_after, number, 0.5) for number in numbers]
        names = [f"{{directory.name}}-{{number}}" for number in numbers]
        runs = Path({runs!r})
"""


class _KilledClients:
    """Clients that are killed: their jobs leave by themselves."""

    def __init__(self, directory: Path, ledger: _Ledger):
        self._directory = directory
        self._runs = str(ledger.runs)

    def __call__(self, dice: random.Random) -> None:
        directory = Path(tempfile.mkdtemp(prefix="killed-", dir=self._directory))
        body = f"""\
{_NOTED.format(runs=self._runs)}
        executor = new_executor(client_timeout_s=2)
        executor.map(jobs.run_and_note, steps, [runs] * 20, names)
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
        directory = Path(tempfile.mkdtemp(prefix="stopped-", dir=self._directory))
        body = f"""\
{_NOTED.format(runs=str(self._ledger.runs))}
        os.environ["SLURM_MAX_RUNNING_SIZE"] = "2"
        with new_executor(client_timeout_s=2) as executor:
            print(sum(executor.map(jobs.run_and_note, steps, [runs] * 20, names)))
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
    ledger = _Ledger(tmp_path / "runs")
    ledger.runs.touch()
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
        "a client killed": _KilledClients(tmp_path, ledger),
        "a client stopped and continued": _StoppedClients(tmp_path, ledger),
    }
    deadline = time.monotonic() + _SECONDS
    workers = [
        threading.Thread(
            target=_guarded_work,
            args=(
                ledger,
                number,
                random.Random(f"{seed}.{number}"),
                directory,
                ledger,
                deadline,
            ),
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
    twice, not_noted = ledger.run_twice(), ledger.not_noted()
    ends = Counter(
        type(call.future.exception()).__name__ for call in ledger.calls if call.future.done()
    )
    print(
        f"\nseed {seed}: {len(ledger.calls)} tasks, {sum(ledger.faults.values())} faults, "
        f"{len(lost)} lost, {len(wrong)} wrong, {len(twice)} run twice\n"
        f"{dict(ledger.faults)}\n{dict(ends)}"
    )
    assert (lost, wrong, twice, not_noted, ledger.troubles) == ([], [], [], [], [])
    _wait_long(lambda: _is_over(tmp_path), "an empty queue")
    _wait_long(lambda: set(threading.enumerate()) <= threads_before, "the end of all threads")
    left = [path for path in directory.iterdir() if not path.name.endswith(".log.stdout")]
    assert left == []
