"""Test environments of their own: other Pythons, and libraries that take an executor.

`nox -s conformance` runs the conformance suite on every Python from 3.10 on that this machine has,
except the one that runs nox, on which `./test.sh` runs it; and the unit tests on the oldest and the
newest. It names those that it did not find. `nox -s clients` runs libraries, in their newest
versions, on our executors. `nox -s coverage` measures which lines of the package the tests run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
OTHERS = [python for python in PYTHONS if python != f"{sys.version_info[0]}.{sys.version_info[1]}"]
_NEWEST = OTHERS[-2:]  # the last may not be there yet
# What users hand our executors to, what raises exceptions that are hard to send, and what has
# buffers that calls share.
CLIENTS = [
    *("adaptive", "anyio", "dask[array,bag,delayed]", "emcee", "more-executors", "nevergrad"),
    *("optuna", "pandas", "pipefunc", "psycopg2-binary", "pyarrow", "pydantic", "scipy", "tqdm"),
]

nox.options.sessions = ["conformance"]
nox.options.error_on_missing_interpreters = False


def runs_as(interpreter: Path, version: str) -> bool:
    """Whether `interpreter` starts and is of `version` (a pyenv shim may exist and refuse)."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [str(interpreter), "-c", ask], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.stdout.strip() == version


def pyenv_interpreters(version: str) -> Iterator[Path]:
    """The interpreters of `version` below pyenv's root, the newest patch release first."""
    root = os.environ.get("PYENV_ROOT")
    if not root and shutil.which("pyenv"):
        root = subprocess.run(
            ["pyenv", "root"], capture_output=True, text=True, check=False
        ).stdout.strip()
    if root:
        found = Path(root, "versions").glob(f"{version}.*/bin/python{version}")
        yield from sorted(found, key=lambda path: [len(str(path)), path], reverse=True)


def put_on_path(version: str) -> None:
    """Makes `python<version>` on PATH an interpreter that runs, where there is one."""
    on_path = shutil.which(f"python{version}")
    if on_path and runs_as(Path(on_path), version):
        return
    for interpreter in pyenv_interpreters(version):
        if runs_as(interpreter, version):
            os.environ["PATH"] = f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}"
            return


for _version in OTHERS:
    put_on_path(_version)


@nox.session(python=OTHERS)
def conformance(session: nox.Session) -> None:
    """The conformance suite of the strategies of one machine, and the unit tests."""
    session.install("-e", ".[test]")
    # Of what is behind the strategies, the oldest and the newest stand for those between them.
    units = ["tests/unit"] if session.python in (OTHERS[0], *_NEWEST) else []
    # Minutes, and of a scheduler that is the same for all.
    slow = ["--ignore=tests/unit/kubernetes_scheduler"]
    # CPython's own tests of executors: their helpers take minutes on the older ones.
    standard_library = (
        ["tests/clients/test_standard_library.py"] if session.python == "3.13" else []
    )
    session.run(
        *(
            "pytest",
            *("-n", "3", "--dist", "loadscope"),
            *("-m", "not slurm and not gridengine and not kubernetes"),
            "tests/conformance",
            *units,
            *standard_library,
            *slow,
            *session.posargs,
        ),
        # pytest's 5: none of these tests is among those that were asked for.
        success_codes=[0, 5] if session.posargs else [0],
    )


@nox.session
def clients(session: nox.Session) -> None:
    """Libraries that take an executor, and CPython's own tests of executors."""
    session.install("-e", ".[test]", *CLIENTS)
    here = "not slurm and not gridengine and not kubernetes"
    session.run("pytest", "-m", here, "tests/clients", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Which lines of the package the tests of this machine run, in jobs and in pools' workers, too.

    Not in helper processes (`python -I -S`), which read no settings. function_index.html in
    .nox/coverage-html sorts the functions.
    """
    session.install("-e", ".[test]", "coverage>=7.10")
    session.run("coverage", "erase")
    here = "not slurm and not gridengine and not kubernetes"
    session.run(
        # Without xdist, which ends its workers before they have written what they measured.
        *("coverage", "run", "-m", "pytest", "-m", here),
        *(session.posargs or ["tests/unit", "tests/conformance", "tests/cluster"]),
        # Tests of what a worker imports, and of memory, see the measuring, too.
        success_codes=[0, 1],
    )
    # A process that was killed while it wrote has left half a file.
    session.run("coverage", "combine", "--quiet", success_codes=[0, 1])
    session.run("coverage", "html", "--quiet")
    session.run("coverage", "report", "--skip-covered", "--sort=cover")
