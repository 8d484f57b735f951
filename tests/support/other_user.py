"""A second user of the machine, who acts in a process of his own, with his rights alone.

What he has made is never to be unpickled, sourced or written through: `Poison` tells.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.format import arrays, pilots

__all__ = ["group_directory", "trace"]

OTHER = 12345
GROUP = 12346
_ARRAYS = 4
_TASKS = 4

only_root_is_two = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


class Poison:
    """Whose unpickling leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self._trace,)


def as_other(act: Callable[[], object]) -> None:
    """In a forked child with the other user's rights; he is in the group."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([GROUP])
            os.setgid(OTHER)
            os.setuid(OTHER)
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, "he could not do it"


@pytest.fixture
def group_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory of ours that he may write to, as pytest's own are closed to others.

    Jobs see it wherever they see `tmp_path`.
    """
    place = os.environ.get("PYTEST_DEBUG_TEMPROOT", "/tmp")
    directory = Path(place, f"cluster_tools.{os.getpid()}.{tmp_path.name}")
    directory.mkdir()
    os.chown(directory, 0, GROUP)
    directory.chmod(0o770)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def trace(group_directory: Path) -> Path:
    return group_directory / "trace"


def replace(run_directory: Path, fill: Callable[[Path], None]) -> None:
    """He moves the run directory away and one of his own there, open to all."""

    def act() -> None:
        his = run_directory.with_name("his")
        his.mkdir()
        fill(his)
        his.chmod(0o777)
        run_directory.rename(run_directory.with_name("moved"))
        his.rename(run_directory)

    as_other(act)


def fill_with_poison(run_directory: Path, trace: Path) -> None:
    """All that jobs and pilots may look for in a run directory, as the user who runs this."""
    for number in range(_ARRAYS):
        _poisoned_array(run_directory / f"array.{number}", trace)
    for name in (pilots.TODO, pilots.HELD, pilots.JOURNALS):
        (run_directory / name).mkdir()
        (run_directory / name).chmod(0o777)
    tasks = pilots.Range(_ARRAYS - 1, 0, 0, _TASKS)
    (run_directory / pilots.TODO / tasks.todo_name()).touch()
    (run_directory / pilots.REVOKED).write_bytes(b"x\n")


def _poisoned_array(path: Path, trace: Path) -> None:
    poison = pickle.dumps(Poison(trace))
    row = [0, len(poison), 0, len(poison), 0, 0]
    index = b"".join(number.to_bytes(8, "little") for number in row) * _TASKS
    footer = arrays.encode_footer(len(poison), _TASKS, len(poison) + len(index), 0)
    path.write_bytes(poison + index + poison + footer)
    path.chmod(0o644)
