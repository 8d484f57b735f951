"""Running a program of a user's: a script in an interpreter of its own, which gets signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.clusters import Cluster
from support.waiting import LIMIT_S, wait_until


class Program:
    """A script that runs. Leaving `with` kills it if it still does.

    Arguments:
        script: Where it is put; what it prints goes into files beside it.
        text: Python.
        cwd: Where it runs; default: the script's directory.
        environment: Variables besides this process's.
        interpreter: The words before the script's path.
    """

    def __init__(
        self,
        script: Path,
        text: str,
        *,
        arguments: Sequence[str] = (),
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        interpreter: Sequence[str] = (sys.executable, "-u", "-X", "faulthandler"),
    ) -> None:
        script.write_text(textwrap.dedent(text))
        self._stdout = script.with_suffix(".stdout")
        self._stderr = script.with_suffix(".stderr")
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*interpreter, str(script), *arguments],
                cwd=cwd or script.parent,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)  # so that its jobs are cancelled
            self.process.send_signal(signal.SIGCONT)  # where the test has stopped it
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait_for(self, text: str) -> None:
        """Until it has printed `text`. Raises: AssertionError, where it ends without."""
        wait_until(lambda: text in self.stdout or self.process.poll() is not None, repr(text))
        assert text in self.stdout, f"ended with {self.process.returncode}:\n{self.stderr}"

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def exit_status(self) -> int:
        """Waits for its end; a negative number is the signal that has ended it."""
        return self.process.wait(LIMIT_S)

    def succeed(self) -> str:
        """Waits for its end, which has to be a good one, and returns what it has printed."""
        status = self.exit_status()
        assert status == 0, f"ended with {status}:\n{self.stderr}"
        return self.stdout


_WITH_EXECUTOR = """\
import os, signal, sys, threading, time, warnings
from pathlib import Path

import cluster_tools

sys.path.insert(0, {tests!r})
from support import jobs
from support.waiting import wait_until

directory = Path({directory!r})


def new_executor(**keywords):
    return cluster_tools.get_executor({environment!r}, **{{**{keywords!r}, **keywords}})


def started():
    return len(list(directory.glob("started*")))


def start(executor, count=1, fn=jobs.wait_long):
    futures = executor.map_to_futures(fn, [directory / f"started{{i}}" for i in range(count)])
    return futures

{functions}
if __name__ == "__main__":
    # As at a terminal, whatever has started the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""


def executor_program(
    cluster: Cluster, directory: Path, body: str, *, functions: str = "", **options: Any
) -> Program:
    """A script whose `body` finds `new_executor`, `start`, `started` and `directory`.

    `functions`: of the script itself, for its jobs.
    """
    text = _WITH_EXECUTOR.format(
        functions=textwrap.dedent(functions),
        tests=str(Path(__file__).parents[1]),
        directory=str(directory),
        environment=cluster.environment,
        keywords={**cluster.keywords, "cfut_dir": str(directory / "cfut")},
    ) + textwrap.indent(textwrap.dedent(body), "    ")
    return Program(directory / "script.py", text, **options)
