"""What happens to slurmctld, to its configuration and to Slurm's commands.

slurmctld is a process of the container that the tests run in.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from support.clusters import command
from support.waiting import wait_until

# Its process, as `pgrep -x` and `pkill -x` find it: newer Debians call it by its file's name.
PROCESS = "slurmctld(-wlm)?"
_LIMIT_S = 110  # for a restart: `ready` has a limit of its own
_CONFIGURATION = Path("/etc/slurm/slurm.conf")
_STATE = Path("/var/lib/slurm/slurmctld")


def _run(*words: str) -> None:
    subprocess.run(words, stdout=subprocess.DEVNULL, timeout=_LIMIT_S, check=True)


def _is_running() -> bool:
    return subprocess.run(["pgrep", "-x", PROCESS], capture_output=True).returncode == 0


def stop() -> None:
    """Shuts slurmctld down; it saves its state."""
    if _is_running():
        _run("scontrol", "shutdown", "slurmctld")
        wait_until(lambda: not _is_running(), "slurmctld's end")


def start(*options: str) -> None:
    """Starts slurmctld where it does not run, and waits until the nodes take jobs."""
    if not _is_running():
        _run("slurmctld", *options)
    _run("ready")


@contextmanager
def stopped() -> Generator[None]:
    """While slurmctld is down."""
    try:
        stop()
        yield
    finally:
        start()


@contextmanager
def silent() -> Generator[None]:
    """While slurmctld is there, takes connections and answers nothing."""
    _run("pkill", "--signal", "STOP", "-x", PROCESS)
    try:
        yield
    finally:
        _run("pkill", "--signal", "CONT", "-x", PROCESS)
        _run("ready")


def lose_state() -> None:
    """Takes away all that slurmctld has saved, while it is down."""
    for path in _STATE.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def settings(**changed: object) -> Generator[None]:
    """With other settings in slurm.conf, for who reads it meanwhile. None leaves one out."""
    before = _CONFIGURATION.read_text()
    lines = [
        line
        for line in before.splitlines()
        if not any(re.match(rf"{name}\s*=", line, re.IGNORECASE) for name in changed)
    ]
    lines += [f"{name}={value}" for name, value in changed.items() if value is not None]
    try:
        _CONFIGURATION.write_text("\n".join([*lines, ""]))
        yield
    finally:
        _CONFIGURATION.write_text(before)


@contextmanager
def configured(**changed: object) -> Generator[None]:
    """While slurmctld runs with other settings in slurm.conf; jobs stay. None leaves one out."""
    try:
        with settings(**changed):
            _run("restart-slurmctld")
            yield
    finally:
        _run("restart-slurmctld")


def reconfigure() -> None:
    """Has slurmctld and the nodes read slurm.conf again.

    slurmctld 24.11.5 does so, but does not answer the request: its log says "Unexpected missing
    socket error", and scontrol fails after ten seconds.
    """
    subprocess.run(("scontrol", "reconfigure"), capture_output=True, timeout=_LIMIT_S, check=False)
    _run("ready")


def real(name: str) -> str:
    """Where a command of Slurm's is, whatever stands before it on PATH."""
    path = shutil.which(name, path="/usr/bin:/usr/local/bin")
    assert path is not None
    return path


def wrap(directory: Path, name: str, script: str) -> None:
    """Makes a command that stands before one of Slurm's, once `directory` is first on PATH.

    `script`: bash, where `real "$@"` is the command itself.
    """
    directory.mkdir(exist_ok=True)
    wrapper = directory / name
    wrapper.write_text(f'#!/bin/bash\nreal() {{ {shlex.quote(real(name))} "$@"; }}\n{script}\n')
    wrapper.chmod(0o755)


def knows(job_id: str) -> bool:
    """Whether slurmctld remembers the job."""
    try:
        return bool(command("scontrol", "--oneliner", "show", "job", job_id))
    except subprocess.CalledProcessError:
        return False
