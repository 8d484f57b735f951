"""Promises on jobs as Grid Engine shows them: names, environments, and those that are edited."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import RemoteExitException
from support import jobs, sge
from support.clusters import GRIDENGINE, element_of, log_of
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.gridengine

NewExecutor = Callable[..., Any]


@pytest.mark.parametrize(
    "name", ["a/b:c@d*e?f\\g", "1st", "Größe £", "all", "x" * 1000, "-N", "a b"]
)
def test_a_job_may_have_any_name_of_one_line(new_executor: NewExecutor, name: str) -> None:
    assert new_executor(job_name=name).submit(jobs.square, 3).result(LIMIT_S) == 9


@pytest.mark.parametrize("directory", ["a b", "$JOB_ID x", "it's", "a:b,c", "größe"])
def test_logs_go_to_a_directory_of_any_name(tmp_path: Path, directory: str) -> None:
    cfut = tmp_path / directory
    cfut.mkdir()
    with GRIDENGINE.new_executor(cfut) as executor:
        futures = executor.map_to_futures(jobs.say, ["first", "second"])
        assert [future.result(LIMIT_S) for future in futures] == ["first", "second"]
        for future, word in zip(futures, ("first", "second")):
            assert log_of(cfut, GRIDENGINE, element_of(future)).read_text() == f"{word}\n"


@pytest.mark.parametrize("value", ["x" * 100_000, "two\nlines", "it's $HOME `x`"], ids=len)
def test_the_clients_environment_arrives_whole(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OF_CLIENT", value)
    monkeypatch.setenv("NSLOTS", "of the client")
    executor = new_executor()
    assert executor.submit(jobs.environment, "OF_CLIENT").result(LIMIT_S) == value
    assert executor.submit(jobs.environment, "NSLOTS").result(LIMIT_S) == "1"


def test_nobody_sees_the_environment_or_the_set_up_lines(
    new_executor: NewExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", "very-secret")
    executor = new_executor(additional_setup_lines=["export OTHER=very-secret"])
    future = executor.submit(jobs.touch_and_wait, (tmp_path / "started", tmp_path / "gate"))
    wait_until((tmp_path / "started").exists, "the call")
    assert "very-secret" not in sge.run("qstat", "-j", future.cluster_jobid)
    assert "very-secret" not in sge.run("ps", "-ww", "-eo", "args")
    spool = sge.run("qconf", "-sconf").partition("execd_spool_dir")[2].split()[0]
    scripts = list(Path(spool).glob(f"*/job_scripts/{future.cluster_jobid}"))
    assert scripts
    assert all("very-secret" not in script.read_text() for script in scripts)
    (tmp_path / "gate").touch()
    assert future.result(LIMIT_S) == "started"


def _start(executor: Any, tmp_path: Path, count: int = 1) -> list[Any]:
    """Submits calls that wait for `gate`, and returns when they run."""
    calls = [(tmp_path / f"started{i}", tmp_path / "gate") for i in range(count)]
    futures = executor.map_to_futures(jobs.touch_and_wait, calls)
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == count, "the calls")
    return futures


def _rename(future: Any) -> None:
    sge.run("qalter", "-N", "mine", future.cluster_jobid)


def test_a_renamed_job_is_watched_and_explained(new_executor: NewExecutor, tmp_path: Path) -> None:
    executor = new_executor()
    (future,) = _start(executor, tmp_path)
    (failing,) = executor.map_to_futures(jobs.exit_at, [tmp_path / "gate"])
    wait_until(failing.running, "the other call")
    _rename(future)
    _rename(failing)
    scheduler = executor._session.scheduler
    tokens = {job.job_id: job.token for job in executor._session.jobs.open()}
    assert {element.job_id for element in scheduler.states(tokens)} == {*tokens}
    (tmp_path / "gate").touch()
    assert future.result(LIMIT_S) == "started0"
    error = failing.exception(LIMIT_S)
    assert isinstance(error, RemoteExitException)
    assert "exit code 3" in str(error)


def test_a_renamed_job_is_cancelled_with_its_executor(tmp_path: Path) -> None:
    job_ids: list[str] = []
    with pytest.raises(KeyError), GRIDENGINE.new_executor(tmp_path) as executor:
        (future,) = _start(executor, tmp_path)
        _rename(future)
        job_ids.append(future.cluster_jobid)
        raise KeyError
    wait_until(lambda: job_ids[0] not in sge.elements(), "the end of its job")


def test_another_job_of_the_same_id_is_let_be(new_executor: NewExecutor, tmp_path: Path) -> None:
    """A master that has lost its state gives ids again."""
    theirs = subprocess.run(
        ["qsub", "-terse", "-b", "y", "-o", "/dev/null", "-j", "y", "-N", "theirs", "sleep", "60"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    executor = new_executor()
    assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    scheduler, token = executor._session.scheduler, executor._session.directory.token
    try:
        assert scheduler.states({theirs: f"{token}.0.0.0"}) == {}
        scheduler.stop([theirs], token)
        assert theirs in sge.elements()
    finally:
        sge.run("qdel", theirs)
