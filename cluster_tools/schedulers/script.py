"""Makes the shell script that starts the worker of an element, for schedulers that run scripts.

The script enters the working directory of the calls, runs the user's set-up lines, and then becomes
the worker (exec).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress

from cluster_tools.format.exit_codes import EXIT_NO_WORKING_DIRECTORY, EXIT_REFUSED
from cluster_tools.schedulers.base import Unreachable

# Only the user may read logs, as they may have secrets.
LOG_UMASK = 0o077
# Ends the job if the log's path is a link, which may lead to a file of another user, or is no
# regular file. The path has to be in $cluster_tools_log.
CHECK_LOG = f"""\
if [ -L "$cluster_tools_log" ] ||
    {{ [ -e "$cluster_tools_log" ] && [ ! -f "$cluster_tools_log" ]; }}; then
    exit {EXIT_REFUSED}
fi
"""

# Written to the log if the set-up lines end the job. `cluster_tools.cluster.logs` looks for the
# first word.
_SETUP_FAILED = "cluster_tools: a set-up line failed with exit code"
_SETUP_ENDED = "cluster_tools: the set-up lines ended the job with exit code"

# SIGUSR1 is a warning before the time limit, which users may ask the scheduler to send. By default
# it would end the shell, so the shell ignores it. The worker sets a handler of its own.
_ENTER = """\
trap '' USR1
cd -- {directory} || {{
    echo "cluster_tools: the working directory "{directory}" does not exist on node $(hostname)" >&2
    exit {code}
}}
"""

# A command that fails ends the job only if it is in the set-up lines themselves. In functions and
# files that these lines call, the next command runs, as usual in a shell.
#
# In most cases the shell becomes the worker (exec): then signals reach the worker once, and the
# shell does not pass them on a second time. But if the set-up lines have set traps or started
# background processes, these need the shell, so the worker is a child process. A shell makes such a
# child ignore SIGINT, but the worker sets a handler. `wait` returns at each trapped signal, so it
# is called until the worker has ended.
_WITH_SETUP = """\
cluster_tools_depth=${{#BASH_SOURCE[@]}}
trap 'code=$?
if [ ${{#BASH_SOURCE[@]}} -le $cluster_tools_depth ]; then
    echo "{failed} $code: $BASH_COMMAND" >&2
    cluster_tools_set_up=failed
    exit $code
fi' ERR
trap 'code=$?
[ -n "$cluster_tools_set_up" ] || echo "{ended} $code" >&2' EXIT
cluster_tools_traps=$(trap -p)
{setup}
[ "$(trap -p)" = "$cluster_tools_traps" ] && [ -z "$(jobs -p)" ] && cluster_tools_traps=none
trap - ERR
set +e
cluster_tools_set_up=yes
if [ "$cluster_tools_traps" = none ]; then
    trap - EXIT
    exec {command}
fi
{command} &
worker=$!
trap 'kill -s INT $worker' INT
trap 'kill -s TERM $worker' TERM
trap 'kill -s USR1 $worker' USR1
wait $worker
code=$?
while kill -0 $worker 2>/dev/null; do
    wait $worker
    code=$?
done
exit $code
"""


def encoded(text: str) -> bytes:
    """Encodes a script or a word of a command as paths are encoded; if that fails, as UTF-8."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # the C locale, in which paths are ASCII or undecoded bytes
        return text.encode("utf-8", "surrogateescape")


def job_script(
    command: Sequence[str], arguments: str, directory: str, setup_lines: Sequence[str]
) -> str:
    """The text of the script that runs `command` in `directory` after the set-up lines.

    Arguments:
        command: The words of the worker's command. They are quoted here.
        arguments: Shell text that follows the command, not quoted here.
        directory: The working directory.
        setup_lines: Shell text, not quoted here. If there is any, the script needs bash.
    """
    words = f"{shlex.join(command)} {arguments}"
    enter = _ENTER.format(directory=shlex.quote(directory), code=EXIT_NO_WORKING_DIRECTORY)
    if not setup_lines:
        return f"#!/bin/sh\n{enter}exec {words}\n"
    body = _WITH_SETUP.format(
        failed=_SETUP_FAILED, ended=_SETUP_ENDED, setup="\n".join(setup_lines), command=words
    )
    return f"#!/bin/bash\n{enter}{body}"


def own_umask() -> int | None:
    """The umask of this process; None if it can't be read.

    os.umask can only read it by setting it, which would affect other threads for a moment.
    """
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return None


def write_script(path: str, script: str) -> None:
    """Writes a script with mode 0600; replaces an existing file.

    Raises: Unreachable, so that the submission is tried again: a full disk may have room later.
    """
    try:
        with suppress(FileNotFoundError):  # an interrupted submission may have left the file
            os.unlink(path)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(encoded(script))
    except OSError as exc:
        raise Unreachable(f"the job's script could not be written: {exc}") from exc
