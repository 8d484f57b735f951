"""The exit status of a command, also where this process is not told it.

A program may ignore SIGCHLD, or wait for all children in a handler of its own. Then `subprocess` finds no
status and takes that for 0. So a shell around the command writes what it has ended with to a pipe.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

# It outlives the signals that its group gets, to say what has become of the command.
_TELL = 'trap : HUP INT TERM; fd=$1; shift; "$@"; echo $? >"/dev/fd/$fd"'
# What a shell says of a command that a signal has ended.
_SIGNALLED = 128
# Exit codes of commands that were told to end, and have ended by themselves.
_TOLD = (_SIGNALLED + signal.SIGINT, _SIGNALLED + signal.SIGTERM)


class ExitStatus:
    """Of one command: `words` and `pass_fds` are for `subprocess`, which starts it."""

    def __init__(self, command: Sequence[str | bytes]):
        self.words: Sequence[str | bytes] = command
        self.pass_fds: tuple[int, ...] = ()
        self._pipe: tuple[int, int] | None = None
        if signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL:
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[0], False)
            self.pass_fds = (self._pipe[1],)
            self.words = ["/bin/sh", "-c", _TELL, "cluster_tools", str(self._pipe[1]), *command]

    def read(self, returncode: int) -> int:
        """Once it has ended. `returncode`: what `subprocess` says."""
        if self._pipe is None:
            return returncode
        try:
            told = os.read(self._pipe[0], 100).strip()
        except BlockingIOError:
            told = b""
        if not told.isdigit():  # the shell was killed with it
            return returncode or -signal.SIGKILL
        status = int(told)
        return _SIGNALLED - status if status > _SIGNALLED and status not in _TOLD else status

    def close(self) -> None:
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None


def run(command: Sequence[str | bytes], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` with the right exit status."""
    status = ExitStatus(command)
    try:
        plain_run: Any = subprocess.run
        done = plain_run(status.words, pass_fds=status.pass_fds, check=False, **options)
        done.returncode = status.read(done.returncode)
        return done
    finally:
        status.close()
