"""The row `idle` of `rounds`: what idle pilots ask of the file server, by strace.

strace is attached to the pilots of one executor before their last calls. So it sees their looks (each
opens a directory) in the two seconds after a pilot's last call, and after that the system calls for files
of all of them.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import show, show_target
from benchmarks.peers.peer_tasks import ended_after
from cluster_tools import get_executor

LIMIT_CALLS_PER_S = 50.0
LIMIT_LOOKS = 20.0
# In which looks are counted, and after which pilots count as idle.
_FIRST_S = 2.0
_NAP_S = 0.3  # so long that each idle pilot begins a call meanwhile
_PATIENCE_S = 60.0
# Of strace's lines: the process, when it began the system call, which one, and its arguments.
_LINE = re.compile(r"(\d+)\s+(\d+\.\d+) (\w+)\((.*)")


class Traced(NamedTuple):
    process: int
    at: float  # in seconds since the epoch
    is_look: bool


class CannotTrace(Exception):
    """Why there are no figures."""


def _last_calls(executor: Any, pilots: int) -> dict[int, float]:
    """Has every pilot run a call or more. Process -> when its last one ended."""
    end = time.monotonic() + _PATIENCE_S
    ended: dict[int, float] = {}
    while len(ended) < pilots:
        if time.monotonic() > end:
            raise CannotTrace(f"only {len(ended)} of {pilots} pilots began calls")
        for process, at in executor.map(ended_after, [_NAP_S] * pilots):
            ended[process] = max(at, ended.get(process, 0.0))
    return ended


def _is_traced(process: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    return "\nTracerPid:\t0\n" not in status


def _attach(processes: list[int], output: Path) -> subprocess.Popen[str]:
    """Returns once each process is traced. Raises: CannotTrace."""
    words = ["strace", "-f", "-ttt", "-e", "trace=file,getdents64", "-o", str(output)]
    words += [word for process in processes for word in ("-p", str(process))]
    strace = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + _PATIENCE_S
    while not all(map(_is_traced, processes)):
        if strace.poll() is not None or time.monotonic() > end:
            strace.kill()
            raise CannotTrace((strace.communicate()[1].splitlines() or ["strace hangs"])[-1])
        time.sleep(0.01)
    return strace


def _read(output: Path) -> list[Traced]:
    found = filter(None, map(_LINE.match, output.read_text(errors="replace").splitlines()))
    return [
        Traced(int(process), float(at), "O_DIRECTORY" in arguments)
        for process, at, _, arguments in map(re.Match.groups, found)
    ]


def _trace(pilots: int, seconds: int) -> tuple[dict[int, float], list[Traced]]:
    """When the last call of each pilot ended, and what they did until `seconds` after they were idle."""
    if not shutil.which("strace"):
        raise CannotTrace("strace is not installed")
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "traced")
        with get_executor("local", pilot_jobs=pilots, cfut_dir=directory) as executor:
            strace = _attach(list(_last_calls(executor, pilots)), output)
            try:
                ended = _last_calls(executor, pilots)
                time.sleep(_FIRST_S + seconds)
            finally:
                strace.send_signal(signal.SIGINT)  # it lets the pilots go
                strace.communicate()
        return ended, _read(output)


def show_idle(pilots: int, seconds: int) -> None:
    """Measures for so many seconds, and shows the figures or why there are none."""
    try:
        ended, traced = _trace(pilots, seconds)
    except CannotTrace as exc:
        print(f"{pilots} idle pilots are left out: {exc}", flush=True)
        return
    looks = [
        sum(one.is_look and one.process == pilot and 0 < one.at - at <= _FIRST_S for one in traced)
        for pilot, at in ended.items()
    ]
    idle_since = max(ended.values()) + _FIRST_S
    a_second = [0] * seconds
    for one in traced:
        if 0 <= one.at - idle_since < seconds:
            a_second[int(one.at - idle_since)] += 1
    show(f"looks of a pilot in its first {_FIRST_S:g} s, {pilots} pilots", looks, "", 0)
    show(f"system calls for files in each second, {pilots} idle pilots", a_second, "", 0)
    show_target(f"looks in the first {_FIRST_S:g} s, {pilots} pilots", max(looks), LIMIT_LOOKS, "")
    per_s = sum(a_second) / seconds
    show_target(f"{pilots} idle pilots, system calls a second", per_s, LIMIT_CALLS_PER_S, "")
