"""Promises on directories that others can write to: nothing of theirs is unpickled, sourced or
written through.

A second user of the machine acts in a process of his own, with his rights alone (`other_user`).
"""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import RemoteException
from cluster_tools.format import outputs, pilots, run_files
from support import jobs, sge
from support.clusters import LOCAL, WITH_CLIENTS_PYTHON, Cluster
from support.other_user import (
    GROUP,
    OTHER,
    Poison,
    as_other,
    fill_with_poison,
    only_root_is_two,
    replace,
)
from support.waiting import LIMIT_S, wait_until

pytestmark = only_root_is_two

on_shared_disks = pytest.mark.parametrize("cluster", WITH_CLIENTS_PYTHON, indirect=True)
# One element after the other.
_SINGLE: dict[str, dict[str, Any]] = {
    "local": {"max_workers": 1},
    "slurm": {"job_resources": {"mem": "100M", "exclusive": True, "nodelist": "c1"}},
    "gridengine": {"job_resources": sge.NARROW_RESOURCES},
}


@pytest.fixture(params=[{}, {"pilot_jobs": 1}], ids=["jobs", "pilots"])
def executor(
    request: pytest.FixtureRequest, cluster: Cluster, group_directory: Path
) -> Iterator[Any]:
    with _new_executor(cluster, group_directory, **request.param) as executor:
        yield executor
    wait_until(lambda: not cluster.elements_of(group_directory), "the end of its jobs")


def _new_executor(cluster: Cluster, directory: Path, **keywords: Any) -> Any:
    single = _SINGLE[cluster.environment]
    return cluster.new_executor(directory, trust_group=True, **single, **keywords)


# -- which directories are taken --


def _has(directory: Path, owner: int, group: int, mode: int) -> Path:
    directory.mkdir()
    os.chown(directory, owner, group)
    directory.chmod(mode)
    return directory


@on_shared_disks
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777, 0o3770])
def test_a_directory_of_ours_that_nobody_else_can_change_is_taken(
    cluster: Cluster, tmp_path: Path, mode: int
) -> None:
    cfut = _has(tmp_path / "cfut", 0, GROUP, mode)
    with cluster.new_executor(cfut) as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


def test_a_new_directory_is_for_its_user_alone(tmp_path: Path) -> None:
    with LOCAL.new_executor(tmp_path / "new" / "cfut"):
        assert stat.S_IMODE((tmp_path / "new" / "cfut").stat().st_mode) == 0o700


@on_shared_disks
@pytest.mark.parametrize(
    ("owner", "mode", "mended_by"),
    [
        (0, 0o770, "chmod g-w"),
        (0, 0o757, "chmod o-w"),
        (0, 0o777, "chmod o-w"),
        (OTHER, 0o755, "a directory of your own"),
        (OTHER, 0o1777, "a directory of your own"),
    ],
)
def test_others_directories_are_refused_with_what_mends_it(
    cluster: Cluster, tmp_path: Path, owner: int, mode: int, mended_by: str
) -> None:
    cfut = _has(tmp_path / "cfut", owner, GROUP, mode)
    with pytest.raises(PermissionError) as caught:
        cluster.new_executor(cfut)
    assert mended_by in str(caught.value)
    assert str(cfut) in str(caught.value)
    assert os.listdir(cfut) == []


def test_a_group_that_is_trusted_may_write(tmp_path: Path) -> None:
    cfut = _has(tmp_path / "cfut", 0, GROUP, 0o770)
    with LOCAL.new_executor(cfut, trust_group=True) as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    (log,) = cfut.iterdir()
    assert log.stat().st_mode & 0o777 != 0o600


def test_a_group_of_its_user_alone_is_no_other(tmp_path: Path) -> None:
    """As many systems make one for each user: root's is 0."""
    cfut = _has(tmp_path / "cfut", 0, 0, 0o770)
    with LOCAL.new_executor(cfut) as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


# -- what he puts in the place of ours --


@on_shared_disks
def test_a_job_runs_nothing_of_another_users_run_directory(
    executor: Any, group_directory: Path, trace: Path
) -> None:
    gate = group_directory / "gate"
    first = executor.submit(jobs.wait_for, gate)
    wait_until(first.running, "the first call")
    waiting = executor.map_to_futures(jobs.square, range(3))
    (run_directory,) = group_directory.glob("run.*")
    if executor._session.settings.pilot_jobs is None:
        assert waiting[0].cluster_jobid
    else:
        todo = run_directory / pilots.TODO
        wait_until(lambda: any(map(pilots.read_range, os.listdir(todo))), "what pilots may take")
    replace(run_directory, partial(fill_with_poison, trace=trace))
    gate.touch()
    for future in waiting:
        error = future.exception(LIMIT_S)
        assert isinstance(error, RemoteException)
        assert str(run_directory) in str(error)
    assert not trace.exists()
    executor.shutdown()
    assert run_directory.is_dir(), "what is another's is not removed"


@on_shared_disks
def test_the_client_sees_that_its_run_directory_is_another(
    executor: Any, group_directory: Path
) -> None:
    """While no job looks at it."""
    gate = group_directory / "gate"
    first = executor.submit(jobs.wait_for, gate)
    wait_until(first.running, "the first call")
    (run_directory,) = group_directory.glob("run.*")
    replace(run_directory, lambda _: None)
    assert "in the place of the run directory" in str(first.exception(LIMIT_S))
    later = executor.submit(jobs.square, 3)
    assert "in the place of the run directory" in str(later.exception(LIMIT_S))
    gate.touch()


@on_shared_disks
def test_an_output_of_another_user_is_not_unpickled(
    executor: Any, group_directory: Path, trace: Path
) -> None:
    """He has got it into our own directory: so even if he could, it is not read."""
    future = executor.submit(jobs.wait_for, group_directory / "gate")
    wait_until(future.running, "the call")
    (run_directory,) = group_directory.glob("run.*")
    poison = pickle.dumps(Poison(trace))
    used = (0, 0, 0, 0)
    record = outputs.encode_record("node", used, 1, None)
    task = future.array.first + future.position
    if executor._session.settings.pilot_jobs is None:
        output = (
            run_directory / str(task // run_files.TASKS_PER_SHARD) / run_files.output_name(task)
        )
        temporary = output.with_suffix(".new")
        footer = outputs.encode_footer(len(poison), len(record))
        temporary.write_bytes(poison + record + footer)
        os.chown(temporary, OTHER, OTHER)
        temporary.rename(output)
    else:
        (journal,) = (run_directory / pilots.JOURNALS).iterdir()
        parts = (pilots.NO_LOG, pilots.NO_LOG)
        copy = run_directory / "copy"
        copy.write_bytes(
            journal.read_bytes() + pilots.ended_record(task, parts, pilots.HERE, used, poison)
        )
        os.chown(copy, OTHER, OTHER)
        copy.rename(journal)
    error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteException)
    assert f"belongs to the user {OTHER}" in str(error)
    assert not trace.exists()
    (group_directory / "gate").touch()


@on_shared_disks
@pytest.mark.parametrize("what", ["array", pilots.REVOKED, run_files.INITIALIZER])
def test_a_pilot_reads_nothing_of_another_user(
    cluster: Cluster, group_directory: Path, what: str
) -> None:
    """Each by itself: the run directory is ours."""
    with _new_executor(cluster, group_directory, pilot_jobs=1, initializer=print) as executor:
        (run_directory,) = group_directory.glob("run.*")
        if what == run_files.INITIALIZER:
            os.chown(run_directory / what, OTHER, OTHER)
        first = executor.submit(jobs.wait_for, group_directory / "gate")
        if what != run_files.INITIALIZER:
            wait_until(first.running, "the first call")
            first = executor.submit(jobs.touch, group_directory / "ran")
            wait_until(lambda: first.array is not None, "its array")
            name = Path(first.array.path).name if what == "array" else what
            os.chown(run_directory / name, OTHER, OTHER)
            if what == pilots.REVOKED:
                os.utime(run_directory / name, (1, 1))  # it is read again
        (group_directory / "gate").touch()
        error = first.exception(LIMIT_S)
        assert error is not None
        logs = "".join(log.read_text() for log in group_directory.glob("*.log.stdout"))
        assert f"belongs to the user {OTHER}" in f"{error}{logs}"
    assert not (group_directory / "ran").exists()


@on_shared_disks
def test_a_kept_output_of_another_user_is_not_unpickled(
    cluster: Cluster, group_directory: Path, trace: Path
) -> None:
    """Put there instead of what the call has kept, which its record tells apart."""
    kept = group_directory / "kept.pickle"
    with _new_executor(cluster, group_directory) as executor:
        held = executor.submit(jobs.wait_for, group_directory / "gate")
        blocked = _hold_up(held, group_directory / "gate")
        future = executor.submit(jobs.square, 3, __cfut_options={"output_key": str(kept)})
        wait_until(kept.exists, "the output")
        (run_directory,) = group_directory.glob("run.*")
        output = run_directory / "0" / run_files.output_name(1)
        wait_until(output.exists, "its record")

        def act() -> None:
            kept.unlink()
            kept.write_bytes(pickle.dumps(Poison(trace)))

        as_other(act)
        blocked()
        error = future.exception(LIMIT_S)
    assert isinstance(error, RemoteException)
    assert "is not this call's output" in str(error)
    assert not trace.exists()


def _hold_up(future: Any, gate: Path) -> Callable[[], None]:
    """Keeps the executor from reading outputs until the returned function is called."""
    held_up, free = threading.Event(), threading.Event()

    def hold_up(_: Any) -> None:
        held_up.set()
        free.wait(LIMIT_S)

    future.add_done_callback(hold_up)
    gate.touch()
    assert held_up.wait(LIMIT_S)
    return free.set


@on_shared_disks
def test_a_kept_output_of_a_job_that_died_is_read_from_its_user_alone(
    cluster: Cluster, group_directory: Path, trace: Path
) -> None:
    """There is no record of what it should be."""
    kept = group_directory / "kept.pickle"
    with _new_executor(cluster, group_directory) as executor:
        future = executor.submit(
            jobs.exit_at, group_directory / "gate", __cfut_options={"output_key": str(kept)}
        )
        wait_until(future.running, "the call")
        as_other(lambda: kept.write_bytes(pickle.dumps(Poison(trace))))
        (group_directory / "gate").touch()
        assert isinstance(future.exception(LIMIT_S), RemoteException)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_log_is_not_written_through_what_lies_there(
    group_directory: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    target.touch()
    with LOCAL.new_executor(group_directory, max_workers=1, trust_group=True) as executor:
        first = executor.submit(jobs.wait_for, group_directory / "gate")
        waiting = executor.submit(jobs.say, "word")
        log = group_directory / f"local.{waiting.cluster_jobid}.log.stdout"
        as_other(lambda: log.symlink_to(target) if kind == "link" else os.mkfifo(log))
        (group_directory / "gate").touch()
        first.result(LIMIT_S)
        assert "File exists" in str(waiting.exception(LIMIT_S))
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    assert target.read_bytes() == b""


def test_a_heartbeat_is_not_written_through_a_link(group_directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    with LOCAL.new_executor(group_directory, trust_group=True) as executor:
        (run_directory,) = group_directory.glob("run.*")
        (run_directory / run_files.HEARTBEAT).unlink()
        (run_directory / run_files.HEARTBEAT).symlink_to(target)
        with pytest.raises(Exception, match="is a link"):
            executor._session.directory.beat()
    assert target.read_bytes() == b""


def test_what_the_shell_of_a_local_job_runs_has_no_name(
    group_directory: Path, tmp_path: Path
) -> None:
    """He could put a script of his under it before the shell opens it."""
    found = tmp_path / "found"
    line = f"grep --recursive --files-with-matches 'has no name' {group_directory} >{found} || true"
    with LOCAL.new_executor(
        group_directory, trust_group=True, additional_setup_lines=[line]
    ) as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    assert found.read_text() == ""


@on_shared_disks
def test_set_up_lines_are_in_no_word_of_a_process(cluster: Cluster, group_directory: Path) -> None:
    ps = ["ps", "-ww", "-eo", "args"]
    lines = ["export TOKEN=verysecret"]
    with _new_executor(cluster, group_directory, additional_setup_lines=lines) as executor:
        future = executor.submit(subprocess.check_output, ps)
        on_node = future.result(LIMIT_S)
        assert b"worker.py" in on_node
        assert b"verysecret" not in on_node + subprocess.check_output(ps)
        assert executor.submit(jobs.environment, "TOKEN").result(LIMIT_S) == "verysecret"


def test_the_package_is_for_the_user_who_runs_it() -> None:
    """These tests mean something: he can't read what is ours."""
    assert sys.executable
    with pytest.raises(AssertionError):
        as_other(lambda: Path("/etc/shadow").read_bytes())
