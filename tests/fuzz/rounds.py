"""Round after round, each in a process of its own, which may hang, be killed, or leave something.

It knows of rounds only how they are started, and that their complaints are in a file.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fuzz import leftovers

# A round takes seconds, and ends itself when it stands still for a minute.
_ROUND_LIMIT_S = 600.0
# So long a job's processes may be there after their client: it lingers, and then is killed.
_PROCESSES_LIMIT_S = 30.0
_TESTS = Path(__file__).resolve().parent.parent


def failures(
    strategy: str, seed: str, seconds: float, directory: Path | None = None
) -> Iterator[str]:
    """Plays rounds until the time is over; of each that fails, what was promised and what happened.

    `directory`: where what failed stays to be looked at; default: the one for temporary files.
    """
    deadline = time.monotonic() + seconds
    for number in itertools.count():
        if time.monotonic() >= deadline:
            return
        failure = play(strategy, seed, number, directory)
        if failure is not None:
            yield failure


def play(strategy: str, seed: str, number: int, directory: Path | None = None) -> str | None:
    """Plays one round. Returns: what `failures` yields, or None. Its files stay if it fails."""
    place = Path(tempfile.mkdtemp(prefix=f"fuzz.{strategy}.{seed}.{number}.", dir=directory))
    began = time.monotonic()
    complaints = _run(strategy, seed, number, place)
    took = time.monotonic() - began
    log = (place / "log").read_text(errors="replace")
    words = f"{strategy} --seed {seed} --round {number}"
    print(f"{words}: {took:.1f} s, {'FAILED' if complaints else 'ok'}; {log[:500].strip()}")
    sys.stdout.flush()
    if not complaints:
        shutil.rmtree(place)
        return None
    again = f"to do it again, in tests/: python -m fuzz {words}"
    return f"{words} failed:\n{complaints}{again}\nwhat it has left: {place}\n"


def _run(strategy: str, seed: str, number: int, place: Path) -> str:
    """Returns the complaints, a line each."""
    token = place.name
    environment = {**os.environ, leftovers.TOKEN: token}
    words = [sys.executable, "-m", "fuzz", strategy, "--seed", seed, "--play", str(number)]
    complaints = ""
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            [*words, "--directory", str(place)],
            cwd=_TESTS,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            code = process.wait(_ROUND_LIMIT_S)
        except subprocess.TimeoutExpired:
            complaints += f"- it ends within {_ROUND_LIMIT_S} s, but does not\n"
            process.kill()
            code = process.wait()
    if (place / "complaints").exists():
        complaints += (place / "complaints").read_text()
    if code != 0:
        complaints += f"- its process ends with 0, but has ended with {code}: see log\n"
    return complaints + _end_processes(token)


def _end_processes(token: str) -> str:
    deadline = time.monotonic() + _PROCESSES_LIMIT_S
    while (left := leftovers.processes(token)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return f"- no process is left, but after {_PROCESSES_LIMIT_S} s: {left}\n" if left else ""
