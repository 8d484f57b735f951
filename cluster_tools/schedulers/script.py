"""The shell script of an element, for schedulers that start a script.

Enters the client's working directory, runs the user's set-up lines and becomes the worker.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from cluster_tools.format.exit_codes import EXIT_NO_WORKING_DIRECTORY

# What set-up lines that end the job leave in the log; `cluster_tools.cluster.logs` looks for the first word.
_SETUP_FAILED = "cluster_tools: a set-up line failed with exit code"
_SETUP_ENDED = "cluster_tools: the set-up lines ended the job with exit code"

# A warning that the time is nearly over, which some ask the scheduler for, ends nothing: until the worker cares
# for it nobody does.
_ENTER = """\
trap '' USR1
cd -- {directory} || {{
    echo "cluster_tools: the working directory "{directory}" does not exist on node $(hostname)" >&2
    exit {code}
}}
"""

# A failing command counts only in the lines themselves, not in a function or file that they call: those
# go on after one as they always do. The shell becomes the worker, which then hears signals once and not from
# the shell again. Where the lines have left traps or background processes it stays, so that these work. Background processes of a shell do not hear SIGINT unless they ask for it (the worker
# does). `wait` ends at each trapped signal, so it is called until the worker has gone.
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
    """A script, or a word of a command: paths as the operating system has them, the rest as UTF-8."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # a locale of C, in which paths have nothing but ASCII and bytes
        return text.encode("utf-8", "surrogateescape")


def job_script(
    command: Sequence[str], arguments: str, directory: str, setup_lines: Sequence[str]
) -> str:
    """The script that runs `command` in `directory` after the set-up lines.

    `arguments`: what follows the command's words, as shell text; the words themselves arrive as they are.
    """
    words = f"{shlex.join(command)} {arguments}"
    enter = _ENTER.format(directory=shlex.quote(directory), code=EXIT_NO_WORKING_DIRECTORY)
    if not setup_lines:
        return f"#!/bin/sh\n{enter}exec {words}\n"
    body = _WITH_SETUP.format(
        failed=_SETUP_FAILED, ended=_SETUP_ENDED, setup="\n".join(setup_lines), command=words
    )
    return f"#!/bin/bash\n{enter}{body}"
