"""Runs one side of `rounds` at a time: a driver of `peers/`, in a process of its own.

The drivers of this package run in this Python, those of peers in environments below `.benchmarks`,
which compare.py makes with the versions that it pins. Knows how drivers are asked and what they tell,
and nothing of what is made of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import compare

# A driver starts 16 workers of each peer within a minute, on two processors that have more to do.
_RUN_LIMIT_S = 300
# The first line of what a traceback says at its end; the rest of a message may follow.
_EXCEPTION = re.compile(r"[\w.]+(: |$)")
# Named on the command line -> name in tables.
PEERS = {
    "standard_library": "standard library",
    "joblib": "loky",
    "dask": "dask.distributed",
    "parsl": "parsl",
}


class LeftOut(Exception):
    """Why there are no figures of a side."""


class Side(NamedTuple):
    name: str
    driver: str
    python: str
    strategy: str = ""  # of this package's sides

    @property
    def is_ours(self) -> bool:
        return bool(self.strategy)


def our_side(strategy: str) -> Side:
    return Side(strategy, "use_checkout", sys.executable, strategy)


def peer_side(name: str, directory: str) -> Side:
    """A side of PEERS, whose environment is made first, if need be. Raises: LeftOut."""
    driver = f"use_{name}"
    contender = next(one for one in compare.CONTENDERS if one.driver == driver)
    if not contender.pins:  # it comes with Python
        return Side(PEERS[name], driver, sys.executable)
    Path(compare.ROOT, directory, "environments").mkdir(parents=True, exist_ok=True)
    try:
        place = compare.Place(directory, sys.executable, here=True)
        compare.install(contender, place)
    except subprocess.CalledProcessError as exc:
        what = " ".join(map(str, exc.cmd[2:4]))  # of `python -m pip download`
        raise LeftOut(f"cannot be installed: {what} ended with status {exc.returncode}") from exc
    except (OSError, RuntimeError) as exc:
        raise LeftOut(f"cannot be installed: {exc}".splitlines()[0]) from exc
    return Side(PEERS[name], driver, place.interpreter(contender))


def _why(said: str) -> str:
    """The last line of stderr that names an exception; without one, the last line."""
    lines = said.strip().splitlines()
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    return (exceptions or lines or [""])[-1]


def run_driver(side: Side, row: str, wanted: dict[str, Any], directory: str) -> dict[float, Any]:
    """Milliseconds of each round, by think time in seconds. Raises: LeftOut."""
    parent = compare.ROOT / directory
    parent.mkdir(exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="rounds.", dir=parent)
    try:
        told = _run(side, [row, json.dumps({**wanted, "strategy": side.strategy})], Path(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    taken: defaultdict[float, list[float]] = defaultdict(list)
    for figures in map(json.loads, told):
        taken[float(figures["variant"])].append(1000 * figures["round_s"])
    return dict(taken)


def _run(side: Side, words: list[str], scratch: Path) -> list[str]:
    """The lines of JSON that the driver tells. Raises: LeftOut, where it fails."""
    paths = [str(compare.PEERS), *([str(compare.ROOT)] if side.is_ours else [])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        # Some peers start programs of their own by name.
        "PATH": f"{Path(side.python).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # Files, as what a peer leaves behind may keep a pipe open.
    out, errors = scratch / "stdout", scratch / "stderr"
    command = [side.python, str(compare.PEERS / f"{side.driver}.py"), *words]
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env=environment,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            status = process.wait(_RUN_LIMIT_S)
        except BaseException as exc:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(exc, subprocess.TimeoutExpired):
                raise LeftOut(f"not done after {_RUN_LIMIT_S} s") from exc
            raise
    if status:
        said = errors.read_text(errors="replace")
        raise LeftOut(_why(said) or f"its driver ended with status {status}")
    return [line for line in out.read_text().splitlines() if line.startswith("{")]
