"""Processes that nobody waits for: they go on when the client has ended.

    client -> start_helper -> sh, which ends at once -> python -I -S -c, in "/" -> "ready" -> a module's main

A helper is a Python process that runs a module of this package and imports nothing of the user's: not from
his working directory, his script's folder, his PYTHON* variables, `.pth` files or `sitecustomize`. Of what
lies beside this package it sees nothing; entries that it needs all the same come behind the standard library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

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
devnull = os.open(os.devnull, os.O_RDWR)
os.dup2(devnull, 1)
os.dup2(devnull, 2)
main(sys.argv[2:])"""
_READY = b"ready\n"
# An interpreter on a slow disk; what has not said anything by then is spoken of as failed.
_START_LIMIT_S = 15.0
# The last words of a traceback.
_MAX_QUOTE = 500


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


def helper_command(module: str, arguments: Sequence[str], entries: Sequence[str] = ()) -> list[str]:
    """What runs `main(arguments)` of a module of this package as a helper.

    `entries`: of the client's `sys.path`, those that the module needs for others' packages.
    """
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = _HELPER.format(
        parent=os.fsencode(parent),
        entries=[os.fsencode(entry) for entry in entries],
        module=module,
        ready=_READY,
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


def start_helper(
    module: str,
    arguments: Sequence[str],
    *,
    stdin: str = "",
    entries: Sequence[str] = (),
    changed: Mapping[str, str] | None = None,
) -> None:
    """Starts a helper in a session of its own, and returns once it has imported all it needs.

    `changed`: variables of its environment that are to be other than the client's.
    Raises: OSError with its words, where it can't start.
    """
    command = helper_command(module, arguments, entries)
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", _IN_BACKGROUND, "cluster_tools", *command],
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=helper_environment(changed),
            cwd="/",
            start_new_session=True,
            timeout=_START_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(
            f"{module} is a process of its own, and has not begun within {_START_LIMIT_S:.0f} s"
        ) from None
    if not shell.stdout.startswith(_READY):
        words = shell.stdout.decode(errors="replace").strip()[-_MAX_QUOTE:] or "it said nothing"
        raise OSError(f"{module} is a process of its own, and could not start: {words}")
