"""Promises on a node or a master of Grid Engine that goes away, really made; on the cell of the
tests alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import RemoteNodeFailureException
from support import jobs, sge
from support.waiting import LIMIT_S, wait_until

_CLUSTER = Path(__file__).parent / "cluster"
_ROOT = Path(os.environ.get("SGE_ROOT", "/nowhere"))
# After a kill the master's port stays taken for up to a minute.
_UP_LIMIT_S = 150

pytestmark = [
    pytest.mark.gridengine,
    pytest.mark.timeout(_UP_LIMIT_S + 60),
    pytest.mark.skipif(
        not (_ROOT.parent / "settings.sh").exists(), reason="needs the cell of tests/gridengine"
    ),
]

NewExecutor = Callable[..., Any]


def _processes(name: str) -> list[int]:
    """Those of the cell of the tests."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_it = (path / "comm").read_text().strip() == name
            if is_it and f"SGE_ROOT={_ROOT}".encode() in (path / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def _up() -> None:
    subprocess.run(
        [str(_CLUSTER / "up"), str(_ROOT.parent)],
        stdout=subprocess.DEVNULL,
        timeout=_UP_LIMIT_S,
        check=True,
    )


@pytest.fixture
def _whole_again() -> Iterator[None]:
    yield
    _up()


def _crash_node() -> None:
    """As in a power cut: the daemon, and the jobs with all that watches them."""
    for daemon in _processes("sge_execd"):
        os.kill(daemon, signal.SIGKILL)
    for shepherd in _processes("sge_shepherd"):
        children = Path(f"/proc/{shepherd}/task/{shepherd}/children").read_text().split()
        os.kill(shepherd, signal.SIGKILL)
        for child in children:
            os.killpg(int(child), signal.SIGKILL)


def _start(executor: Any, tmp_path: Path, count: int) -> list[Any]:
    """Submits calls that wait for `gate`, and returns when they run."""
    calls = [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(count)]
    futures = executor.map_to_futures(jobs.touch_and_wait, calls)
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == count, "the calls")
    return futures


@pytest.mark.usefixtures("_whole_again")
def test_calls_on_a_node_that_has_crashed_fail_with_that_cause_once_it_is_back(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    futures = _start(new_executor(), tmp_path, 2)
    _crash_node()
    wait_until(lambda: not _processes("sge_shepherd"), "the crash")
    _up()
    for future in futures:
        error = future.exception(LIMIT_S)
        assert isinstance(error, RemoteNodeFailureException)
        assert "before writing exit_status" in str(error)


@pytest.mark.usefixtures("_whole_again")
def test_results_come_in_while_the_daemon_of_the_node_is_away(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    futures = _start(new_executor(), tmp_path, 2)
    for daemon in _processes("sge_execd"):
        os.kill(daemon, signal.SIGKILL)
    (tmp_path / "gate").touch()
    assert [future.result(LIMIT_S) for future in futures] == ["started0", "started1"]


@pytest.mark.usefixtures("_whole_again")
def test_calls_outlive_a_master_that_is_killed_and_new_ones_wait_for_it(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor()
    futures = _start(executor, tmp_path, 2)
    for master in _processes("sge_qmaster"):
        os.kill(master, signal.SIGKILL)
    wait_until(lambda: not _processes("sge_qmaster"), "the end of the master")
    late = executor.submit(jobs.square, 5)
    (tmp_path / "gate").touch()
    assert [future.result(LIMIT_S) for future in futures] == ["started0", "started1"]
    assert not late.done()
    _up()
    assert late.result(LIMIT_S) == 25


def test_a_master_that_hangs_for_a_while_delays_new_calls_only(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    executor = new_executor()
    (future,) = _start(executor, tmp_path, 1)
    masters = _processes("sge_qmaster")
    for master in masters:
        os.kill(master, signal.SIGSTOP)
    try:
        late = executor.submit(jobs.square, 5)
        (tmp_path / "gate").touch()
        assert future.result(LIMIT_S) == "started0"
        assert not late.done()
    finally:
        for master in masters:
            os.kill(master, signal.SIGCONT)
    assert late.result(LIMIT_S) == 25
    wait_until(lambda: not sge.elements(), "the end of its jobs")
