"""The command of a pod's container: a shell script that runs the element's own script.

Also makes that script, and one that sets the client's environment. The element itself writes its
log into `cfut_dir`, so that the log is complete whatever ends the element; `tail` copies it to the
container's stdout, for `kubectl logs`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_NO_PACKAGE, EXIT_REFUSED
from cluster_tools.schedulers.base import ArrayRequest
from cluster_tools.schedulers.script import encoded, job_script

# Starts the worker, as an argument of `python -c`, since its path in the image is not known. -c
# puts the current directory first in `sys.path`, where it could hide the standard library; it is
# taken away for the import and put back, since the worker removes the first entry.
WORKER_START = f"""\
import sys
if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]
try:
    from cluster_tools.job.worker import main
except ImportError as exc:
    print(f"cluster_tools: {{sys.executable}} of the image cannot import cluster_tools ({{exc}}): "
          "the image needs the version that the client has", file=sys.stderr)
    sys.exit({EXIT_NO_PACKAGE})
sys.path.insert(0, "")
sys.exit(main(sys.argv[1:]))"""

# The container's script. $1 is the shell for the element's script, which gets index, job and log.
#
# Files are opened first, and used only if the open file belongs to our user: whoever may write to
# `cfut_dir` could put another file there.
#
# Kubernetes sends SIGTERM to this shell alone, perhaps before the element is started. The shell
# passes it on once, as a Python that ends by it has no handler for a second one. `wait` returns at
# each trapped signal, so it is called until none came meanwhile. An exit code that it has returned
# once it may not return again (127).
#
# A tail without --pid (busybox) fails at once; then the log is copied at the end. The log is made
# before tail opens it.
_CONTAINER = """\
if [ ! -d {directory} ]; then
    echo "cluster_tools: run directory not visible in the pod: "{directory}" is not there. Client" \
"and pods have to share it, by a host path that is the same disk on the node or by a claim (key" \
"mounts)."
    exit {no_array}
fi
refuse() {{
    echo "cluster_tools: $1: nothing is run"
    exit {refused}
}}
is_own() {{ [ "$(ls -ldnL "/dev/fd/$1" | {{ read -r _ _ uid _; echo "$uid"; }})" = {owner} ]; }}
for file in {environment} {script}; do
    [ -r "$file" ] ||
        refuse "$file belongs to another user than the one of this pod ($(id -u)) or"\
" its executor has ended"
    [ -f "$file" ] && [ ! -L "$file" ] || refuse "$file is a link or no regular file"
done
exec 3<{environment} 4<{script}
is_own 3 && is_own 4 || refuse {environment}" or "{script}" does not belong to the user "{owner}
{umask}. /dev/fd/3
exec 3<&-
cluster_tools_index=${{JOB_COMPLETION_INDEX:-0}}
cluster_tools_job={job}
cluster_tools_log={log}
if [ -e "$cluster_tools_log" ] || [ -L "$cluster_tools_log" ]; then
    [ -f "$cluster_tools_log" ] && [ ! -L "$cluster_tools_log" ] ||
        refuse "the log $cluster_tools_log is a link or no regular file"
else
    cluster_tools_words=$( ( {log_mask}set -C; : >"$cluster_tools_log" ) 2>&1 ) ||
        refuse "the log $cluster_tools_log can't be made: $cluster_tools_words"
fi
cluster_tools_element=
cluster_tools_early=
trap 'cluster_tools_told=1
if [ -n "$cluster_tools_element" ]; then kill -s TERM $cluster_tools_element
else cluster_tools_early=1; fi' TERM INT
"$1" /dev/fd/4 "$cluster_tools_index" "$cluster_tools_job" "$cluster_tools_log" \
    >>"$cluster_tools_log" 2>&1 &
cluster_tools_element=$!
exec 4<&-
[ -z "$cluster_tools_early" ] || kill -s TERM $cluster_tools_element
tail -s 0.2 -n +1 -f --pid=$cluster_tools_element "$cluster_tools_log" 2>/dev/null &
copy=$!
code=
cluster_tools_told=1
while [ -n "$cluster_tools_told" ]; do
    cluster_tools_told=
    wait $cluster_tools_element
    status=$?
    [ $status = 127 ] && [ -n "$code" ] || code=$status
done
wait $copy || cat "$cluster_tools_log"
exit $code
"""

# Variables of the client that describe its machine or shell, or that a shell can't set.
_NOT_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|HOSTNAME|LD_.*|PYTHON.*|VIRTUAL_ENV.*|KUBE.*"
    r"|SHELL|SHELLOPTS|SHLVL|PWD|OLDPWD|_|ENV|BASH_.*|BASHOPTS|IFS|OPTIND|UID|EUID|PPID"
    r"|JOB_COMPLETION_INDEX|CLUSTER_TOOLS_POD_.*"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def container_command(
    request: ArrayRequest,
    *,
    job: str,
    log: str,
    environment: str,
    script: str,
    owner: int,
    shell: str,
    umask: str | None,
    logs_for_all: bool = False,
) -> list[str]:
    """The command of a container, as a list of words.

    `job`: shell text for the element's job id; may use `$cluster_tools_index`, its index.
    `log`: shell text for the path of its log; may use `$cluster_tools_job`, its job id.
    `environment`, `script`: paths of files with the texts of `environment_script` and
    `element_script`; `owner`: their uid. `shell`: the shell that runs the element's script.
    `umask`: of the call and its log; None: the image's for the call, and mode 0600 for the log,
    unless `logs_for_all`.
    """
    around = _CONTAINER.format(
        directory=shlex.quote(request.run_directory),
        no_array=EXIT_NO_ARRAY,
        refused=EXIT_REFUSED,
        umask=f"umask {shlex.quote(umask)}\n" if umask else "",
        environment=shlex.quote(environment),
        script=shlex.quote(script),
        owner=owner,
        log_mask="" if logs_for_all or umask else "umask 077; ",
        job=job,
        log=log,
    )
    return ["/bin/sh", "-c", around, "cluster_tools", shell]


def element_script(request: ArrayRequest, setup_lines: Sequence[str]) -> tuple[str, bytes]:
    """The shell for the element's script, and the script's text.

    The text is for a file, not for the manifest, since set-up lines may hold secrets.
    """
    script = job_script(
        request.command,
        '"$cluster_tools_index" 0 "$cluster_tools_job" "$cluster_tools_log"',
        request.working_directory,
        setup_lines,
    )
    first_line, _, rest = script.partition("\n")
    names = "cluster_tools_index=$1 cluster_tools_job=$2 cluster_tools_log=$3"
    return first_line.removeprefix("#!"), encoded(f"exec 4<&-\n{names}\nset --\n{rest}")


def environment_script(environment: Mapping[str, str]) -> bytes:
    """A shell script that sets those variables of the client that are of use in a pod."""
    lines = [
        f"export {name}={shlex.quote(value)}\n"
        for name, value in environment.items()
        if _NAME.fullmatch(name) and not _NOT_PASSED_ON.fullmatch(name)
    ]
    return os.fsencode("".join(lines))
