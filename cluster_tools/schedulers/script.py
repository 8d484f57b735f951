"""The shell script of an element, for schedulers that start a script.

Enters the client's working directory, runs the user's set-up lines and becomes the worker.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from cluster_tools.worker import EXIT_NO_WORKING_DIRECTORY

# What a set-up line that fails leaves in the log; `cluster_tools.cluster.logs` looks for it.
SETUP_FAILED = "cluster_tools: a set-up line failed with exit code"

_ENTER = """\
cd -- {directory} || {{
    echo "cluster_tools: the working directory "{directory}" does not exist on node $(hostname)" >&2
    exit {code}
}}
"""

# The shell stays, so that traps and background processes of the set-up lines work. Background processes
# of a shell do not hear SIGINT unless they ask for it (the worker does). `wait` ends at each trapped
# signal, so it is called until the worker has gone.
_WITH_SETUP = """\
set -E
trap 'code=$?; echo "{failed} $code: $BASH_COMMAND" >&2; exit $code' ERR
{setup}
trap - ERR
set +eE
{command} &
worker=$!
trap 'kill -s INT $worker' INT
trap 'kill -s TERM $worker' TERM
wait $worker
code=$?
while kill -0 $worker 2>/dev/null; do
    wait $worker
    code=$?
done
exit $code
"""


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
    body = _WITH_SETUP.format(failed=SETUP_FAILED, setup="\n".join(setup_lines), command=words)
    return f"#!/bin/bash\n{enter}{body}"
