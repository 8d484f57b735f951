"""Promises on a Slurm that is down, forgets jobs, or has no accounting: calls go on, ends have
causes.

How long a future may take once Slurm answers again stands in the limits here.
"""

from __future__ import annotations

import os
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import containers
import controller
import pytest
from endings import assert_says

from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteExitException,
    RemoteLostException,
    RemoteOutOfMemoryException,
)
from support import jobs
from support.clusters import SLURM, command, element_of, queue
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

_OUTAGE_S = 60.0
# What slurmctld does not mention is given up after a minute; asking takes up to half of one more.
_FORGOTTEN_LIMIT_S = 110.0


def test_while_slurmctld_is_down_results_come_and_afterwards_all_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    during, after = tmp_path / "during", tmp_path / "after"
    with SLURM.new_executor(tmp_path) as executor:
        first, second, last = futures = executor.map_to_futures(
            jobs.wait_minutes_for, [during, during, after]
        )
        dying = executor.submit(jobs.exit_at, during)
        wait_until(lambda: all(f.running() for f in [*futures, dying]), "the calls")
        with controller.stopped():
            down_since = time.monotonic()
            during.touch()
            assert [future.result(LIMIT_S) for future in (first, second)] == ["during"] * 2
            submitted = executor.submit(jobs.square, 5)
            wait_until(lambda: "can't be reached" in caplog.text, "sbatch to fail")
            # The fault is that it lasts: there is nothing to wait for.
            time.sleep(max(0.0, down_since + _OUTAGE_S - time.monotonic()))
            assert not submitted.done()
            assert not dying.done()
            assert not last.done()
        after.touch()
        assert last.result(LIMIT_S) == "after"
        assert "exit code 3" in assert_says(dying.exception(LIMIT_S), RemoteExitException, dying)
        assert submitted.result(LIMIT_S) == 25
    assert "The scheduler answers again." in caplog.text


@pytest.fixture
def squeue_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file is to be, for squeue to fail."""
    failing = tmp_path / "squeue_fails"
    script = f'[ ! -e {failing} ] || {{ echo "squeue: error" >&2; exit 1; }}\nreal "$@"'
    controller.wrap(tmp_path / "bin", "squeue", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return failing


def _purge_unseen(executor: Any, tmp_path: Path, failing: Path) -> Any:
    """The future of a call that has exited, and whose job slurmctld has forgotten.

    squeue has to be made to work again.
    """
    future = executor.submit(jobs.exit_at, tmp_path / "gate")
    wait_until(future.running, "the call")
    failing.touch()
    (tmp_path / "gate").touch()
    wait_until(lambda: not controller.knows(future.cluster_jobid), "the purge")
    assert not future.done()
    return future


def test_what_slurmctld_has_forgotten_is_explained_by_accounting_or_lost(
    tmp_path: Path, squeue_fails: Path
) -> None:
    with SLURM.new_executor(tmp_path) as executor:
        with controller.configured(MinJobAge=2):
            purged = _purge_unseen(executor, tmp_path, squeue_fails)
        forgotten = executor.map_to_futures(
            jobs.wait_long, [tmp_path / f"started{i}" for i in range(2)]
        )
        forgotten.append(executor.submit(jobs.wait_long, tmp_path / "started2"))
        wait_until(lambda: len(list(tmp_path.glob("started*"))) == 3, "the calls")
        try:
            controller.stop()
        finally:
            controller.start("-c")  # a cold start
        squeue_fails.unlink()
        error = purged.exception(_FORGOTTEN_LIMIT_S)
        assert "exit code 3" in assert_says(error, RemoteExitException, purged)
        for future in forgotten:
            error = future.exception(_FORGOTTEN_LIMIT_S)
            assert "submit the call again" in assert_says(error, RemoteLostException, future)
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


def _is_stopping() -> bool:
    """Whether a process still cancels an executor's jobs."""
    return any("slurm.stop" in line for line in command("ps", "-A", "-ww", "-o", "args="))


def _state(job_id: str) -> str:
    (record,) = command("scontrol", "--oneliner", "show", "job", job_id)
    return next(w.partition("=")[2] for w in record.split() if w.startswith("JobState="))


def test_a_job_of_others_that_has_an_old_id_is_neither_believed_nor_cancelled(
    tmp_path: Path,
) -> None:
    later = {"mem": "50M", "begin": "now+1hour"}

    believing = SLURM.new_executor(tmp_path / "believing", job_resources=later)
    cancelling = SLURM.new_executor(tmp_path / "cancelling", job_resources=later)
    leaving = SLURM.new_executor(tmp_path / "leaving", job_resources=later)
    futures = [executor.submit(jobs.square, 1) for executor in (believing, cancelling, leaving)]
    job_ids = sorted((future.cluster_jobid for future in futures), key=int)
    first = int(job_ids[0])
    assert job_ids == [str(first + i) for i in range(3)]
    theirs: list[str] = []
    try:
        try:
            controller.stop()
            with controller.settings(FirstJobId=first):
                controller.lose_state()
                controller.start()
        finally:
            controller.start()
        assert queue() == []
        by_id = {future.cluster_jobid: future for future in futures}
        for job_id in job_ids:
            script = "true" if by_id[job_id] is futures[0] else "sleep 600"
            theirs += command(
                "sbatch", "--parsable", "--mem=50M", "--output=/dev/null", f"--wrap={script}"
            )
        assert theirs == job_ids
        wait_until(lambda: _state(futures[0].cluster_jobid) == "COMPLETED", "their short job")
        running = [future.cluster_jobid for future in futures[1:]]
        wait_until(lambda: all(_state(i) == "RUNNING" for i in running), "their long jobs")

        assert futures[1].cancel()
        with pytest.raises(ZeroDivisionError), leaving:
            raise ZeroDivisionError
        assert futures[2].cancelled()
        cancelling.shutdown()
        text = assert_says(
            futures[0].exception(_FORGOTTEN_LIMIT_S), RemoteLostException, futures[0]
        )
        assert "does not know" in text
        wait_until(lambda: not _is_stopping(), "all that cancels")
        assert [_state(job_id) for job_id in running] == ["RUNNING"] * 2
    finally:
        for executor in (believing, cancelling, leaving):
            executor.shutdown(wait=False, cancel_futures=True)
        if theirs:
            command("scancel", *theirs)
        wait_until(lambda: not queue(), "an empty queue")


def _assert_ends_have_causes(executor: Any, tmp_path: Path) -> None:
    """Of calls that run out of memory, exit, kill themselves and are cancelled by somebody."""
    steps = [
        partial(jobs.square, 2),
        partial(jobs.allocate, 400),
        jobs.os_exit,
        jobs.kill_itself,
        partial(jobs.wait_long, tmp_path / "started"),
    ]
    result, hog, exiting, killed, cancelled = executor.map_to_futures(jobs.run, steps)
    assert result.result(LIMIT_S) == 4
    text = assert_says(hog.exception(LIMIT_S), RemoteOutOfMemoryException, hog)
    assert "100M" in text
    text = assert_says(exiting.exception(LIMIT_S), RemoteExitException, exiting)
    assert "exit code 3" in text
    text = assert_says(killed.exception(LIMIT_S), RemoteExitException, killed)
    assert "signal 9" in text
    wait_until((tmp_path / "started").exists, "the last call")
    command("scancel", element_of(cancelled))
    assert_says(cancelled.exception(LIMIT_S), RemoteCancelledException, cancelled)


def _accounting_answers() -> bool:
    asked = subprocess.run(["sacctmgr", "-nP", "show", "cluster"], capture_output=True, text=True)
    return "dockered" in asked.stdout


def test_while_slurmdbd_is_down_ends_have_causes(tmp_path: Path) -> None:
    with SLURM.new_executor(tmp_path) as executor:
        try:
            containers.stop("slurmdbd")
            assert not _accounting_answers()
            _assert_ends_have_causes(executor, tmp_path)
        finally:
            containers.start("slurmdbd")
            wait_until(_accounting_answers, "slurmdbd")
        future = executor.submit(jobs.os_exit)
        text = assert_says(future.exception(LIMIT_S), RemoteExitException, future)
        assert "exit code 3" in text


_WITHOUT_ACCOUNTING: dict[str, object] = {
    "AccountingStorageType": "accounting_storage/none",
    "AccountingStorageHost": None,
    "AccountingStorageEnforce": None,
}


def test_without_accounting_ends_have_causes_and_what_was_purged_is_lost(
    tmp_path: Path, squeue_fails: Path
) -> None:
    with SLURM.new_executor(tmp_path) as executor, controller.configured(**_WITHOUT_ACCOUNTING):
        assert not _accounting_answers()
        with controller.configured(MinJobAge=2):
            purged = _purge_unseen(executor, tmp_path, squeue_fails)
        squeue_fails.unlink()
        _assert_ends_have_causes(executor, tmp_path)
        error = purged.exception(_FORGOTTEN_LIMIT_S)
        text = assert_says(error, RemoteLostException, purged)
        assert "purged" in text
        assert "MinJobAge" in text
