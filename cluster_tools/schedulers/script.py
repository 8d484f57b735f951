"""The shell script that starts the worker of an element, for schedulers that run scripts.

It enters the client's working directory, runs the user's set-up lines and becomes the worker.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress

from cluster_tools.format.exit_codes import EXIT_NO_WORKING_DIRECTORY, EXIT_REFUSED
from cluster_tools.schedulers.base import Unreachable

# Logs may hold secrets.
LOG_UMASK = 0o077
# Ends the job where a link lies in the log's place, which leads to a file that may be anybody's, or
# what is no file. It needs the log's name in $cluster_tools_log.
CHECK_LOG = f"""\
if [ -L "$cluster_tools_log" ] ||
    {{ [ -e "$cluster_tools_log" ] && [ ! -f "$cluster_tools_log" ]; }}; then
    exit {EXIT_REFUSED}
fi
"""

# Written to the log where set-up lines end the job.
# `cluster_tools.cluster.logs` looks for the first word.
_SETUP_FAILED = "cluster_tools: a set-up line failed with exit code"
_SETUP_ENDED = "cluster_tools: the set-up lines ended the job with exit code"

# SIGUSR1 is a warning before the time limit, which users may ask the scheduler for. By default it
# would end the shell; the worker sets a handler of its own.
_ENTER = """\
trap '' USR1
cd -- {directory} || {{
    echo "cluster_tools: the working directory "{directory}" does not exist on node $(hostname)" >&2
    exit {code}
}}
"""

# A failing command ends the job only if it stands in the set-up lines themselves. Functions and
# files that these lines call go on after one, as they do elsewhere.  The shell becomes the worker
# (exec), so that signals reach the worker once and are not passed on by the shell as well. If the
# lines have set traps or started background processes, the shell stays, since these need it. Shells
# let background processes ignore SIGINT, but the worker sets a handler. `wait` returns at each
# trapped signal, so it is called until the worker has ended.
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
    """A script or a word of a command as bytes: in the encoding of paths, else in UTF-8."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # the C locale, in which paths are ASCII or undecoded bytes
        return text.encode("utf-8", "surrogateescape")


def job_script(
    command: Sequence[str], arguments: str, directory: str, setup_lines: Sequence[str]
) -> str:
    """The script that runs `command` in `directory` after the set-up lines.

    `command`: the words of the worker's command, which are quoted here. `arguments`: shell text
    that follows them. `setup_lines`: shell text; with any, the script needs bash.
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
    """This process's umask; None where only setting it tells, which other threads would notice."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return None


def write_script(path: str, script: str) -> None:
    """Raises: Unreachable, as a disk that is full may have room later."""
    try:
        with suppress(FileNotFoundError):  # of a try that was cut short
            os.unlink(path)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(encoded(script))
    except OSError as exc:
        raise Unreachable(f"the job's script could not be written: {exc}") from exc
