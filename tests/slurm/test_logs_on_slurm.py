"""Promises on who may read a log, and on what lies in its place: Slurm opens it, not we."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import SLURM, command, log_of
from support.other_user import as_other, only_root_is_two
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("one_minute_job")]

_UMASK = 0o027


@pytest.fixture(params=[{}, {"pilot_jobs": 1}], ids=["jobs", "pilots"])
def keywords(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(_UMASK)
    yield
    os.umask(before)


def _modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(log.stat().st_mode) for log in directory.glob("*.log.stdout")}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("trust_group", "mode"), [(False, 0o600), (True, 0o666 & ~_UMASK)])
def test_logs_are_for_their_user_alone_unless_the_group_is_trusted(
    tmp_path: Path, keywords: dict[str, Any], trust_group: bool, mode: int
) -> None:
    with SLURM.new_executor(tmp_path, trust_group=trust_group, **keywords) as executor:
        futures = [executor.submit(jobs.say, "a"), *executor.map_to_futures(jobs.say, "bc")]
        for future in futures:
            future.result(LIMIT_S)
    assert _modes(tmp_path) == {mode}


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("trust_group", [False, True])
def test_a_call_has_its_users_umask(
    tmp_path: Path, keywords: dict[str, Any], trust_group: bool
) -> None:
    with SLURM.new_executor(tmp_path, trust_group=trust_group, **keywords) as executor:
        assert executor.submit(os.umask, _UMASK).result(LIMIT_S) == _UMASK


@only_root_is_two
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_nothing_is_run_or_written_through_what_lies_in_the_place_of_a_log(
    group_directory: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    target.touch()
    later = {"mem": "100M", "begin": "now+1hour"}
    with (
        SLURM.new_executor(group_directory, trust_group=True, job_resources=later) as executor,
        SLURM.new_executor(group_directory, trust_group=True) as another,
    ):
        future = executor.submit(jobs.touch, group_directory / "ran")
        log = log_of(group_directory, SLURM, future.cluster_jobid)
        as_other(lambda: log.symlink_to(target) if kind == "link" else os.mkfifo(log))
        command("scontrol", "update", f"jobid={future.cluster_jobid}", "starttime=now")
        error = str(future.exception(LIMIT_S))
        assert "its log is a link or no regular file" in error
        assert str(log) in error
        assert another.submit(jobs.square, 3).result(LIMIT_S) == 9
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)  # else slurmstepd stays on its node
    wait_until(lambda: not SLURM.elements_of(group_directory), "the end of the job")
    os.close(reader)
    assert target.read_bytes() == b""
    assert not (group_directory / "ran").exists()
