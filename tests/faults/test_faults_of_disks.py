"""Promises on a shared disk that is full, late, or loses what was written: errors, and no waiting
for ever.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from endings import assert_says

from cluster_tools.errors import RemoteException, RemoteExitException, SubmissionException
from support import jobs, tiny_disk
from support.clusters import SLURM
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]


# -- full ------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_directory(tmp_path: Path) -> Iterator[Path]:
    with tiny_disk.directory_for(tmp_path) as directory:
        yield directory


@pytest.mark.filterwarnings("ignore:cfut_dir .* seems to be on a disk")
def test_a_disk_without_room_for_any_output_is_named_and_later_calls_work(
    tmp_path: Path, tiny_directory: Path
) -> None:
    with SLURM.new_executor(tiny_directory) as executor:
        pairs = [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(2)]
        futures = executor.map_to_futures(jobs.touch_and_wait, pairs)
        wait_until(lambda: all(started.exists() for started, _ in pairs), "the calls")
        filler = tiny_disk.fill(tiny_directory)
        (tmp_path / "gate").touch()
        for future in futures:
            text = assert_says(future.exception(LIMIT_S), RemoteException, future)
            assert str(next(tiny_directory.glob("run.*"))) in text
            assert "is the disk full?" in text
        filler.unlink()
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


# -- damaged ---------------------------------------------------------------------------------------


def test_a_result_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    sizes: list[Callable[[int], int]] = [
        lambda size: 0,
        lambda size: size // 2,
        lambda size: size - 1,
        lambda size: size,
    ]
    with SLURM.new_executor(tmp_path) as executor:
        # A callback holds up the thread that reads outputs: these are cut while nobody looks.
        held_up, cut = threading.Event(), threading.Event()

        def hold_up(_: Any) -> None:
            held_up.set()
            cut.wait(LIMIT_S)

        executor.submit(
            jobs.touch_and_wait, (tmp_path / "started", tmp_path / "gate")
        ).add_done_callback(hold_up)
        (tmp_path / "gate").touch()
        try:
            assert held_up.wait(LIMIT_S)
            futures = executor.map_to_futures(jobs.return_bytes, [10_000] * len(sizes))
            numbers = range(1, 1 + len(sizes))
            outputs = [next(tmp_path.glob("run.*")) / "0" / f"{n}.output" for n in numbers]
            wait_until(lambda: all(output.exists() for output in outputs), "the outputs")
            assert not any(future.done() for future in futures)
            for output, new_size in zip(outputs, sizes):
                os.truncate(output, new_size(output.stat().st_size))
        finally:
            cut.set()
        for output, future in zip(outputs[:-1], futures[:-1]):
            text = assert_says(future.exception(LIMIT_S), RemoteException, future)
            assert f"{output} is cut short" in text
        assert len(futures[-1].result(LIMIT_S)) == 10_000


# -- gone ------------------------------------------------------------------------------------------


def test_the_loss_of_the_run_directory_ends_every_call_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MAX_RUNNING_SIZE", "2")
    executor = SLURM.new_executor(tmp_path)
    pairs = [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(4)]
    futures = executor.map_to_futures(jobs.touch_and_wait, pairs)
    wait_until(lambda: all(started.exists() for started, _ in pairs[:2]), "the first calls")
    (run_directory,) = tmp_path.glob("run.*")
    shutil.rmtree(run_directory)
    (tmp_path / "gate").touch()
    for future in futures:
        text = assert_says(future.exception(LIMIT_S), RemoteException, future)
        assert f"{run_directory} is gone" in text
        assert "deleted" in text
    later = executor.submit(jobs.square, 3)
    error = later.exception(LIMIT_S)
    assert isinstance(error, SubmissionException)
    assert str(run_directory) in str(error)
    executor.shutdown()
    wait_until(lambda: not SLURM.elements_of(tmp_path), "an empty queue")


# -- late ------------------------------------------------------------------------------------------

_LATE_S = 30.0
_FOREVER_S = 3600.0
# How long an output may be missing after its job's end, on a disk that may be late.
_MISSING_LIMIT_S = 180.0
_LATE_DISK = Path(__file__).with_name("late_disk.py")
_BEHIND = Path("/late.behind")  # of what the nodes have at
_LATE = Path("/late")

LateDirectory = Callable[..., Path]


@pytest.fixture
def late_directory() -> Iterator[LateDirectory]:
    """Mounts the late disk, and makes a directory there: the nodes keep it beyond a run of the
    tests.
    """
    processes: list[subprocess.Popen[bytes]] = []
    directories: list[Path] = []

    def mount(late_s: float, *options: str) -> Path:
        if not Path("/dev/fuse").exists():
            os.mknod("/dev/fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
        program = [sys.executable, str(_LATE_DISK), str(_BEHIND), str(_LATE), str(late_s)]
        processes.append(subprocess.Popen([*program, *options]))
        wait_until(_LATE.is_mount, "the late disk")
        directories.append(Path(tempfile.mkdtemp(dir=_LATE)))
        return directories[-1]

    yield mount
    subprocess.run(["umount", "--lazy", str(_LATE)], check=True)
    for process in processes:
        process.wait(LIMIT_S)
    for directory in directories:
        shutil.rmtree(_BEHIND / directory.name)


def _is_late(future: Any, directory: Path) -> bool:
    """Whether the call's output is on the server and not to be seen here."""
    (run_directory,) = directory.glob("run.*")
    output = run_directory / "0" / f"{future.cluster_jobindex}.output"
    behind = _BEHIND / output.relative_to(_LATE)
    return behind.exists() and not output.exists()


@pytest.mark.timeout(300)
def test_an_entry_that_shows_up_late_is_neither_a_failure_nor_waited_for_for_ever(
    late_directory: LateDirectory,
) -> None:
    directory = late_directory(_LATE_S)
    steps = [partial(jobs.square, 2), jobs.os_exit, partial(jobs.reciprocal, 0)]
    with SLURM.new_executor(directory) as executor:
        right, exited, failed = executor.map_to_futures(jobs.run, steps)
        wait_until(lambda: _is_late(right, directory), "an output that is not seen")
        assert not right.done()
        assert right.result(_LATE_S + LIMIT_S) == 4
        assert isinstance(failed.exception(LIMIT_S), ZeroDivisionError)
        error = exited.exception(_MISSING_LIMIT_S)
        assert "exit code 3" in assert_says(error, RemoteExitException, exited)


def test_a_late_disk_is_made_to_look_again_where_that_is_possible(
    late_directory: LateDirectory,
) -> None:
    directory = late_directory(_FOREVER_S, "--drops-cache")
    with SLURM.new_executor(directory) as executor:
        futures = executor.map_to_futures(jobs.square, range(4))
        assert [future.result(LIMIT_S) for future in futures] == [0, 1, 4, 9]
