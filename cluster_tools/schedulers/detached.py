"""Starts helpers: processes that nobody waits for, and that go on when the client has ended.

    client -> start_helper -> sh, which ends at once -> python -I -S -c, in "/" -> a module's main
       ^                                                              |                   |
       +-- fails, with the helper's words, where there is no <-- "ready"                  |
       +-- goes on, after a time at the latest <----------------------------- "begun" <---+
       +-- starts it again, if it has ended before <-------------------------- "done" <---+

The client waits for "begun". Before a helper writes that, it does what must be done even if the
client's end is its own: where the client is the first process of a container, or of a systemd unit
that is killed as a whole, its helpers are killed with it.

A helper is a Python process that runs a module of this package and imports nothing of the user's:
not from the working directory, the script's folder, PYTHON* variables, `.pth` files or
`sitecustomize`. Packages that are installed beside this one are not visible either; entries of
`sys.path` that a helper needs come after the standard library.
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

# The shell ends at once, so that the command is no child of ours and leaves no zombie. Shells give
# background commands /dev/null as stdin, whatever `<&0` says, so stdin is passed as descriptor 3.
_IN_BACKGROUND = '{ "$@" <&3 3<&- 2>&1 & } 3<&0'

# Paths are passed as bytes: as a helper ignores PYTHONUTF8, its encoding
# may differ from the client's.
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
if {begins_at_once}:
    begun()
main(sys.argv[2:], begun)
try:
    os.write({done_fd}, {done!a})
except OSError:
    pass"""
_READY = b"ready\n"
_DONE = b"done\n"
# How long a helper's interpreter may take to start (on a slow disk) before that counts as failed.
_START_LIMIT_S = 15.0
# How long the client waits for a helper's `begun`.
_BEGIN_LIMIT_S = 8.0
# How long, after one helper was too slow, the client waits for no other: executors that
# end together then wait once.
_NO_WAIT_S = 30.0
# How often a helper is started, at most, if it is killed before its work is done.
_MAX_STARTS = 3
# Descriptors that the shell itself uses have one digit.
_LOWEST_FD = 10
# How many characters of a traceback's end a message quotes.
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
    begins_at_once: bool = False,
    done_fd: int = -1,
) -> list[str]:
    """The command that runs `main(arguments, begun)` of a module of this package as a helper.

    `entries`: those of the client's `sys.path` that the module needs for packages of others.
    `begins_at_once`: nobody waits for `begun`, so it is written first. `done_fd`: the descriptor to
    which the helper writes that its work is done.
    """
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = _HELPER.format(
        parent=os.fsencode(parent),
        entries=[os.fsencode(entry) for entry in entries],
        module=module,
        ready=_READY,
        begins_at_once=begins_at_once,
        done_fd=done_fd,
        done=_DONE,
    )
    # The module's name once more, to be seen in lists of processes.
    return [sys.executable, "-I", "-S", "-c", code, module, *arguments]


def entries_for(package: str) -> list[str]:
    """The entries of the client's `sys.path` where this imported package and what it needs may lie.

    Leaves out the working directory and the script's folder, unless the package itself lies there.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(sys.modules[package].__file__ or "")))
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    here: set[str] = set()
    try:
        here.add(os.path.dirname(os.path.realpath(script)))
        here.add(os.path.realpath("."))
    except FileNotFoundError:  # the working directory is gone
        pass
    listed = [entry for entry in sys.path if os.path.isabs(entry)]
    return [home, *(entry for entry in listed if os.path.realpath(entry) not in here)]


def helper_environment(changed: Mapping[str, str] | None = None) -> dict[str, str]:
    """The client's environment with `changed` over it, for a process in "/": PATH is absolute."""
    environment = {**os.environ, **(changed or {})}
    try:
        entries = [
            os.path.abspath(p) for p in environment.get("PATH", os.defpath).split(os.pathsep)
        ]
    except FileNotFoundError:  # the working directory is gone
        return environment
    return {**environment, "PATH": os.pathsep.join(entries)}


_no_wait_until = 0.0


def start_helper(
    module: str,
    arguments: Sequence[str],
    *,
    stdin: str = "",
    entries: Sequence[str] = (),
    changed: Mapping[str, str] | None = None,
) -> None:
    """Starts a helper in a session of its own; returns at its `begun`, or after `_BEGIN_LIMIT_S`.

    While this process lives, a helper that ends before its work is done is started again.

    `module`: of this package, with `main(arguments, begun)`. `entries`: as in `helper_command`.
    `changed`: variables of its environment that differ from the client's.
    Raises: OSError, with what the helper said, where it can't start.
    """

    def start(starts: int) -> None:
        done, is_late = _start(module, arguments, stdin, entries, helper_environment(changed))
        try:  # not by `threading`, which takes locks: signal handlers call this
            _thread.start_new_thread(_watch, (done, is_late, module, start, starts))
        except RuntimeError:  # the interpreter ends: nobody will be there to start it again
            os.close(done)

    start(1)


def _watch(
    done: int, is_late: bool, module: str, start: Callable[[int], None], starts: int
) -> None:
    """Waits for the helper's end, in a thread of its own, and starts it again if need be."""
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
    """Starts a helper once. Raises: OSError.

    Returns: the descriptor to which it will write that it is done;
    whether it has not begun in time.
    """
    global _no_wait_until
    done, end = os.pipe()
    helpers_end = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
    os.close(end)
    begins_at_once, is_late = time.monotonic() < _no_wait_until, False
    command = helper_command(
        module, arguments, entries, begins_at_once=begins_at_once, done_fd=helpers_end
    )
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", _IN_BACKGROUND, "cluster_tools", *command],
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            pass_fds=(helpers_end,),
            start_new_session=True,
            timeout=_START_LIMIT_S if begins_at_once else _BEGIN_LIMIT_S,
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
        # It has started and goes on by itself.
        _no_wait_until, is_late = time.monotonic() + _NO_WAIT_S, True
    except BaseException:
        os.close(done)
        raise
    finally:
        os.close(helpers_end)
    if not words.startswith(_READY):
        os.close(done)
        quoted = words.decode(errors="replace").strip()[-_MAX_QUOTE:] or "it said nothing"
        raise OSError(f"{module} is a process of its own, and could not start: {quoted}")
    return done, is_late
