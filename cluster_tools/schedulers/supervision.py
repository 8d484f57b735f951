"""Scripts for a queueing system that leaves logs, signals or exit codes to the job.

    queueing system --> the job's script: opens the log, makes SIGTERM of a warning
                           '--> <run directory>/<token>.sh: environment, set-up lines, worker

Many systems show the first to everybody, so it says no more than where things are. The second may
hold secrets: environments and set-up lines do.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY
from cluster_tools.schedulers.script import CHECK_LOG, LOG_UMASK, job_script, write_script

# What the job's script ends with where it can't write the log: EX_CANTCREAT of sysexits.h.
EXIT_NO_LOG = 73
# Shells keep these for themselves.
_OF_SHELLS = {"_", "BASHOPTS", "BASH_VERSINFO", "EUID", "OLDPWD", "PPID", "PWD"} | {
    "SHELLOPTS",
    "SHLVL",
    "UID",
}

# `wait` ends at each trapped signal, so it is called until the element has gone. What is opened is
# what is checked, whatever takes its place meanwhile.
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
    """Shell lines for this process's environment, but for names that shells do not take.

    `jobs_own`: names that a job has a value of its own for; those that end in "_" are beginnings.
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
    """Writes what an element runs, as `job_script` has it; returns the shell that has to run it.

    `names`: lines that set variables, `environment`: lines from `exports`; both come first.
    Raises: Unreachable.
    """
    script = job_script(command, arguments, directory, setup_lines)
    first_line, _, rest = script.partition("\n")
    write_script(f"{path}.new", f"exec 3<&-\n{names}{''.join(environment)}{rest}")
    os.replace(f"{path}.new", path)  # an earlier try of the array may have begun
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
    """The job's script, which runs `path` with `shell`.

    `names`: lines that set $cluster_tools_log. `owner`: the uid that `path` has to have. `umask`:
    of the calls. `warning`: the signal that comes before the job is killed; the element hears
    SIGTERM then, and the whole job is killed `grace_s` seconds later at the latest.
    `not_to_end_with`: exit codes that mean something else to the queueing system.
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
