"""Job scripts for schedulers that leave the log, signals or exit codes to the job itself.

    scheduler --> the job's script: opens the log, sends SIGTERM to the element after a warning
                     '--> <run directory>/<token>.sh: environment, set-up lines, worker

Many schedulers show the job's script to all users, so it has only paths. The second script may have
secrets, in the environment and in the set-up lines, so only its owner can read it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY
from cluster_tools.schedulers.script import CHECK_LOG, LOG_UMASK, job_script, write_script

# The exit code of the job's script if it can't write the log: EX_CANTCREAT of sysexits.h.
EXIT_NO_LOG = 73
# Variables that shells set themselves, so they are not exported to the job.
_OF_SHELLS = {"_", "BASHOPTS", "BASH_VERSINFO", "EUID", "OLDPWD", "PPID", "PWD"} | {
    "SHELLOPTS",
    "SHLVL",
    "UID",
}

# `wait` returns at each trapped signal, so it is called until the element has ended. The script is
# opened as descriptor 3 and then checked, so that nobody can replace it between check and use.
_JOB_SCRIPT = """\
{names}umask {log_umask:04o}
{check_log}( : >>"$cluster_tools_log" ) 2>/dev/null || exit {no_log}
exec >>"$cluster_tools_log" 2>&1
umask {umask:04o}
[ -f {path} ] && ( : <{path} ) 2>/dev/null && exec 3<{path}
if [ "$(ls -nLd /dev/fd/3 2>/dev/null | awk '{{ print $3 }}')" != {owner} ]; then
    echo "cluster_tools: there is no "{path}" of the user {owner} on node $(hostname). \
Either its executor has gone, or the run directory is not on a disk that this node shares with \
the client." >&2
    exit {no_array}
fi
trap '' USR1 {warning}
{shell} /dev/fd/3 &
exec 3<&-
cluster_tools_element=$!
trap 'cluster_tools_told=yes
trap "" {warning}
kill -s TERM $cluster_tools_element
(sleep {grace_s}; kill -s KILL 0) &' {warning}
wait $cluster_tools_element
cluster_tools_code=$?
while kill -0 $cluster_tools_element 2>/dev/null; do
    wait $cluster_tools_element
    cluster_tools_code=$?
done
[ -z "$cluster_tools_told" ] || kill -s KILL 0
case $cluster_tools_code in {not_to_end_with})
    echo "cluster_tools: exit code $cluster_tools_code has another meaning here, \
and is reported as 1" >&2
    exit 1
esac
exit $cluster_tools_code
"""


def exports(jobs_own: Collection[str]) -> Iterator[str]:
    """Yields shell lines that export this process's environment.

    Leaves out names that a shell can't have as variables.
    `jobs_own`: names to leave out because the scheduler sets them for a job. A name that ends in
    "_" stands for all names that begin with it.
    """
    beginnings = tuple(name for name in jobs_own if name.endswith("_"))
    for name, value in sorted(os.environ.items()):
        is_the_jobs = name in jobs_own or name.startswith(beginnings) or name in _OF_SHELLS
        if not is_the_jobs and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            yield f"export {name}={shlex.quote(value)}\n"


def write_element_script(
    path: str,
    names: str,
    environment: Iterator[str],
    command: Sequence[str],
    arguments: str,
    directory: str,
    setup_lines: Sequence[str],
) -> str:
    """Writes the script of an element to `path`. Returns: the shell that has to run it.

    `names`: shell lines that set variables. `environment`: lines from `exports`. Both come first in
    the script. The other arguments are those of `job_script`.
    Raises: Unreachable; OSError.
    """
    script = job_script(command, arguments, directory, setup_lines)
    first_line, _, rest = script.partition("\n")
    write_script(f"{path}.new", f"exec 3<&-\n{names}{''.join(environment)}{rest}")
    os.replace(f"{path}.new", path)  # an earlier try to submit the array may run the old file
    return first_line.removeprefix("#!")


def supervising_script(
    path: str,
    shell: str,
    names: str,
    *,
    owner: int,
    umask: int,
    trusts_group: bool,
    warning: str,
    grace_s: float,
    not_to_end_with: Collection[int],
) -> str:
    """The text of the job's script, which runs `path` with `shell`.

    Arguments:
        path: The script of the element.
        names: Shell lines that set $cluster_tools_log.
        owner: The uid that `path` has to have.
        umask: The umask of the calls.
        trusts_group: Whether logs get the calls' umask; if not, they get mode 0600.
        warning: The name of the signal that the scheduler sends before it kills the job. The script
            then sends SIGTERM to the element.
        grace_s: At most so many seconds later the script kills the whole job.
        not_to_end_with: Exit codes that mean something else to the scheduler. They become 1.
    """
    return _JOB_SCRIPT.format(
        names=names,
        log_umask=umask if trusts_group else LOG_UMASK,
        umask=umask,
        check_log=CHECK_LOG,
        no_log=EXIT_NO_LOG,
        path=shlex.quote(path),
        owner=owner,
        no_array=EXIT_NO_ARRAY,
        shell=shell,
        warning=warning,
        grace_s=grace_s,
        not_to_end_with=" | ".join(map(str, not_to_end_with)),
    )
