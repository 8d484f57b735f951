"""The exit status of a command, also where the user's program takes it from us.

A program may ignore SIGCHLD, or wait for all children in a handler of its own. Then `subprocess`
gets no status and says 0. So a shell around the command writes its exit code to a pipe.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

# The shell ignores signals to its process group (trap :), so that it can still write the exit code.
_REPORTING_SHELL = 'trap : HUP INT TERM; fd=$1; shift; "$@"; echo $? >"/dev/fd/$fd"'
# Shells give 128 + N as the exit code of a command that signal N has ended.
_SIGNALLED = 128
# Also exit codes with which commands end by themselves when they have handled such a signal.
_OWN_EXIT_CODES = (_SIGNALLED + signal.SIGINT, _SIGNALLED + signal.SIGTERM)


class ExitStatus:
    """Reads the exit status of one command, which the caller starts with `words` and `pass_fds`."""

    def __init__(self, command: Sequence[str | bytes]):
        self.words: Sequence[str | bytes] = command
        self.pass_fds: tuple[int, ...] = ()
        self._pipe: tuple[int, int] | None = None
        if signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL:
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[0], False)
            self.pass_fds = (self._pipe[1],)
            self.words = [
                "/bin/sh",
                "-c",
                _REPORTING_SHELL,
                "cluster_tools",
                str(self._pipe[1]),
                *command,
            ]

    def read(self, returncode: int) -> int:
        """The command's return code, as `subprocess` gives it: -N after signal N.

        To be called once the command has ended. `returncode`: what `subprocess` says.
        """
        if self._pipe is None:
            return returncode
        try:
            written = os.read(self._pipe[0], 100).strip()
        except BlockingIOError:
            written = b""
        if not written.isdigit():  # the shell was killed together with the command
            return returncode or -signal.SIGKILL
        status = int(written)
        is_signal = status > _SIGNALLED and status not in _OWN_EXIT_CODES
        return _SIGNALLED - status if is_signal else status

    def close(self) -> None:
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None


def run(command: Sequence[str | bytes], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` with the right return code. Raises: as that does."""
    status = ExitStatus(command)
    try:
        plain_run: Any = subprocess.run
        done = plain_run(status.words, pass_fds=status.pass_fds, check=False, **options)
        done.returncode = status.read(done.returncode)
        return done
    finally:
        status.close()
