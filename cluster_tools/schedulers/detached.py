"""Processes that nobody waits for: they go on when the client has ended.

    client -> start_helper -> sh, which ends at once -> python -I -S -c, in "/" -> "ready" -> a module's main
       ^                                                                                          |
       +---------------- goes on after a time at the latest <------------ "begun" <---------------+
       +---------------- starts it again, where it has ended before <----- "done" <----------------+

A helper does before `begun` what must not be lost with the client: where the client is the first
process of a container, or of a unit that is killed as a whole, its helpers are killed with it.

A helper is a Python process that runs a module of this package and imports nothing of the user's:
not from the working directory, the script's folder, PYTHON* variables, `.pth` files or
`sitecustomize`. It sees nothing of what lies beside this package; entries of `sys.path` that it
needs all the same come behind the standard library.
"""

from __future__ import annotations

import _thread
import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

# The shell ends at once, so that its child is no child of ours and leaves no zombie. It gives what runs in
# the background /dev/null for 0, whatever `<&0` says: stdin has to come by another number.
_IN_BACKGROUND = '{ "$@" <&3 3<&- 2>&1 & } 3<&0'

# Paths are bytes: a helper's encoding may be another than the client's, as it ignores PYTHONUTF8.
_HELPER = """\
import os, sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("cluster_tools", [os.fsdecode({parent!a})])
package = sys.modules["cluster_tools"] = module_from_spec(spec)
spec.loader.exec_module(package)
sys.path += map(os.fsdecode, {entries!a})
from {module} import main
os.write(1, {ready!a})
def begun():
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    os.close(devnull)
if {hurries}:
    begun()
main(sys.argv[2:], begun)
try:
    os.write({done_fd}, {done!a})
except OSError:
    pass"""
_READY = b"ready\n"
_DONE = b"done\n"
# An interpreter on a slow disk; what has not said anything by then is spoken of as failed.
_START_LIMIT_S = 15.0
# So long the client waits for a helper's `begun`. After one that took longer it waits for no other,
# for so long as the second says: executors that end together wait once.
_BEGIN_LIMIT_S = 8.0
_IMPATIENT_S = 30.0
# How often a helper is started, at most, where it is killed before its work is done.
_MAX_STARTS = 3
# A shell's redirections have numbers of one digit.
_ABOVE_THE_SHELLS = 10
# The last words of a traceback.
_MAX_QUOTE = 500

_logger = logging.getLogger("cluster_tools")


def start_detached(command: Sequence[str]) -> None:
    """Starts a command in a session of its own. Raises: OSError, where there is no shell."""
    subprocess.run(
        ["/bin/sh", "-c", _IN_BACKGROUND, "cluster_tools", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        check=False,
    )


def helper_command(
    module: str,
    arguments: Sequence[str],
    entries: Sequence[str] = (),
    *,
    hurries: bool = False,
    done_fd: int = -1,
) -> list[str]:
    """What runs `main(arguments, begun)` of a module of this package as a helper.

    `entries`: those of the client's `sys.path` that the module needs for packages of others.
    `hurries`: nobody waits for `begun`. `done_fd`: where it writes that its work is done.
    """
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = _HELPER.format(
        parent=os.fsencode(parent),
        entries=[os.fsencode(entry) for entry in entries],
        module=module,
        ready=_READY,
        hurries=hurries,
        done_fd=done_fd,
        done=_DONE,
    )
    # The module's name once more, for who looks at the machine's processes.
    return [sys.executable, "-I", "-S", "-c", code, module, *arguments]


def entries_for(package: str) -> list[str]:
    """Of the client's `sys.path`, where an imported package and all that it needs may lie.

    Not the working directory, and not the script's folder, unless the package itself lies there.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(sys.modules[package].__file__ or "")))
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    here: set[str] = set()
    try:
        here.add(os.path.dirname(os.path.realpath(script)))
        here.add(os.path.realpath("."))
    except FileNotFoundError:  # the working directory is gone, and what was relative to it with it
        pass
    listed = [entry for entry in sys.path if os.path.isabs(entry)]
    return [home, *(entry for entry in listed if os.path.realpath(entry) not in here)]


def helper_environment(changed: Mapping[str, str] | None = None) -> dict[str, str]:
    """The client's, for a process in "/": relative entries of PATH are made absolute."""
    environment = {**os.environ, **(changed or {})}
    try:
        entries = [
            os.path.abspath(p) for p in environment.get("PATH", os.defpath).split(os.pathsep)
        ]
    except FileNotFoundError:  # the working directory is gone
        return environment
    return {**environment, "PATH": os.pathsep.join(entries)}


_impatient_until = 0.0


def start_helper(
    module: str,
    arguments: Sequence[str],
    *,
    stdin: str = "",
    entries: Sequence[str] = (),
    changed: Mapping[str, str] | None = None,
) -> None:
    """Starts a helper in a session of its own; returns at its `begun`, or after `_BEGIN_LIMIT_S`.

    While this process lives, one that ends before its work is done is started again.
    `changed`: variables of its environment that are to be other than the client's.
    Raises: OSError with its words, where it can't start.
    """

    def start(starts: int) -> None:
        done, is_late = _start(module, arguments, stdin, entries, helper_environment(changed))
        try:  # no `threading`: this may be called after a signal, while any lock is held
            _thread.start_new_thread(_watch, (done, is_late, module, start, starts))
        except RuntimeError:  # the interpreter ends, and nobody will be there to notice
            os.close(done)

    start(1)


def _watch(
    done: int, is_late: bool, module: str, start: Callable[[int], None], starts: int
) -> None:
    """Waits for the helper's end. In a thread of its own."""
    if is_late:
        _logger.warning(
            "%s has no answer after %.0f s: it goes on by itself, whatever becomes of this process",
            module,
            _BEGIN_LIMIT_S,
        )
    with open(done, "rb") as file:
        words = file.read()
    if words == _DONE:
        return
    if starts == _MAX_STARTS:
        _logger.warning(
            "%s has ended %d times before its work was done, and is not started again: jobs that "
            "it was to cancel may go on",
            module,
            starts,
        )
        return
    _logger.warning("%s has ended before its work was done, and is started again", module)
    try:
        start(starts + 1)
    except OSError as exc:
        _logger.warning(
            "%s could not be started again, and jobs that it was to cancel may go on: %s",
            module,
            exc,
        )


def _start(
    module: str,
    arguments: Sequence[str],
    stdin: str,
    entries: Sequence[str],
    environment: Mapping[str, str],
) -> tuple[int, bool]:
    """Returns: what to read its last word from; whether it was not waited for any longer. Raises: OSError."""
    global _impatient_until
    done, end = os.pipe()
    its_end = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _ABOVE_THE_SHELLS)
    os.close(end)
    hurries, is_late = time.monotonic() < _impatient_until, False
    command = helper_command(module, arguments, entries, hurries=hurries, done_fd=its_end)
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", _IN_BACKGROUND, "cluster_tools", *command],
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            pass_fds=(its_end,),
            start_new_session=True,
            timeout=_START_LIMIT_S if hurries else _BEGIN_LIMIT_S,
            check=False,
        )
        words = shell.stdout
    except subprocess.TimeoutExpired as exc:
        words = exc.stdout or b""
        if not words.startswith(_READY):
            os.close(done)
            raise OSError(
                f"{module} is a process of its own, and has not begun within {exc.timeout:.0f} s"
            ) from None
        # It goes on trying, also when we have ended.
        _impatient_until, is_late = time.monotonic() + _IMPATIENT_S, True
    except BaseException:
        os.close(done)
        raise
    finally:
        os.close(its_end)
    if not words.startswith(_READY):
        os.close(done)
        quoted = words.decode(errors="replace").strip()[-_MAX_QUOTE:] or "it said nothing"
        raise OSError(f"{module} is a process of its own, and could not start: {quoted}")
    return done, is_late
