"""Promises on logs: their names, what is in them, following one, and what is left in cfut_dir."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.clusters import LOCAL, Cluster, element_of, log_of
from support.waiting import LIMIT_S, wait_until


def set_up_logging(log_file: str) -> None:
    """A set-up of the user's; writes beside the log whose path it is given."""
    handler = logging.FileHandler(f"{log_file}.own")
    handler.setFormatter(logging.Formatter("own set-up: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)


def test_a_call_of_submit_has_a_job_id_and_a_log_named_after_it(
    cluster: Cluster, executor: Any, shared_directory: Path
) -> None:
    future = executor.submit(jobs.say, "hello")
    assert isinstance(future.cluster_jobid, str)
    assert future.result(LIMIT_S) == "hello"
    with pytest.raises(AttributeError, match="cluster_jobindex"):
        _ = future.cluster_jobindex
    assert log_of(shared_directory, cluster, future.cluster_jobid).read_text() == "hello\n"


def test_elements_of_an_array_share_the_job_id_and_have_an_index(
    cluster: Cluster, executor: Any, shared_directory: Path
) -> None:
    futures = executor.map_to_futures(jobs.say, ["a", "b", "c"])
    assert [future.result(LIMIT_S) for future in futures] == ["a", "b", "c"]
    assert len({future.cluster_jobid for future in futures}) == 1
    assert [future.cluster_jobindex for future in futures] == [0, 1, 2]
    for future, word in zip(futures, "abc"):
        element = f"{future.cluster_jobid}_{future.cluster_jobindex}"
        assert log_of(shared_directory, cluster, element).read_text() == f"{word}\n"


def test_an_array_of_one_has_an_index_too(
    cluster: Cluster, executor: Any, shared_directory: Path
) -> None:
    (future,) = executor.map_to_futures(jobs.say, ["alone"])
    assert future.result(LIMIT_S) == "alone"
    assert future.cluster_jobindex == 0
    assert log_of(shared_directory, cluster, f"{future.cluster_jobid}_0").exists()


def test_calls_that_went_in_together_are_named_by_job_and_index(
    cluster: Cluster, executor: Any, shared_directory: Path
) -> None:
    futures = [executor.submit(jobs.say, f"word{number}") for number in range(6)]
    assert [future.result(LIMIT_S) for future in futures] == [f"word{n}" for n in range(6)]
    assert len({future.cluster_jobid for future in futures}) == 6
    for number, future in enumerate(futures):
        assert not hasattr(future, "cluster_jobindex")
        log = log_of(shared_directory, cluster, future.cluster_jobid)
        assert log.read_text() == f"word{number}\n"
    assert any("_" in future.cluster_jobid for future in futures)


def test_logging_config_sets_the_jobs_logging_up(cluster: Cluster, tmp_path: Path) -> None:
    config = {"level": logging.INFO, "format": "%(levelname)s: %(message)s"}
    with cluster.new_executor(tmp_path, logging_config=config) as executor:
        futures = [
            executor.submit(jobs.log, "shown", logging.INFO),
            *executor.map_to_futures(jobs.log_debug, ["hidden"]),
        ]
        for future in futures:
            future.result(LIMIT_S)
    shown, hidden = (log_of(tmp_path, cluster, element_of(future)) for future in futures)
    assert shown.read_text() == "INFO: shown\n"
    assert hidden.read_text() == ""


def test_logging_setup_fn_is_called_with_the_logs_path_without_its_suffix(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.new_executor(tmp_path, logging_setup_fn=set_up_logging) as executor:
        futures = [
            executor.submit(jobs.log, "of submit", logging.DEBUG),
            *executor.map_to_futures(jobs.log_debug, ["of an array"]),
        ]
        for future in futures:
            future.result(LIMIT_S)
    for future, text in zip(futures, ("of submit", "of an array")):
        log = log_of(tmp_path, cluster, element_of(future))
        own = log.with_name(f"{log.name.removesuffix('.stdout')}.own")
        assert own.read_text() == f"own set-up: {text}\n"


def test_without_a_set_up_warnings_are_in_the_log(
    cluster: Cluster, executor: Any, shared_directory: Path
) -> None:
    future = executor.submit(jobs.log, "a warning")
    future.result(LIMIT_S)
    assert "a warning" in log_of(shared_directory, cluster, element_of(future)).read_text()


def test_forward_log_follows_the_log_and_returns_the_result(
    executor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    future = executor.submit(jobs.say_wait_say, gate)
    returned: list[Any] = []
    forwarding = threading.Thread(target=lambda: returned.append(executor.forward_log(future)))
    forwarding.start()
    printed = ""

    def has_first_piece() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return "before" in printed

    wait_until(has_first_piece, "the first piece of the log")
    assert not future.done()
    gate.touch()
    forwarding.join(LIMIT_S)
    printed += capsys.readouterr().out
    job = f"(jid={future.cluster_jobid})"
    assert printed == f"{job} before\n{job} after\n"
    assert returned == [17]


def test_forward_log_raises_what_the_call_raises(
    executor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    future = executor.submit(jobs.say_and_fail, "last words")
    with pytest.raises(ZeroDivisionError):
        executor.forward_log(future)
    assert f"(jid={future.cluster_jobid}) last words" in capsys.readouterr().out


def test_a_clean_exit_leaves_nothing_but_logs(
    cluster: Cluster, tmp_path: Path, new_executor: Callable[..., Any]
) -> None:
    executor = new_executor()
    futures = [executor.submit(jobs.square, 1), *executor.map_to_futures(jobs.square, range(3))]
    executor.shutdown()
    expected = {log_of(tmp_path, cluster, element_of(future)) for future in futures}
    assert set(tmp_path.iterdir()) == expected


def test_without_keep_logs_nothing_at_all_is_left(
    tmp_path: Path, new_executor: Callable[..., Any]
) -> None:
    executor = new_executor(keep_logs=False)
    executor.submit(jobs.say, "said")
    executor.map_to_futures(jobs.run, [jobs.say_nothing, jobs.raise_own_error, jobs.os_exit])
    executor.shutdown()
    wait_until(lambda: not list(tmp_path.iterdir()), "an empty cfut_dir")


def test_without_keep_logs_what_starts_while_it_is_cancelled_leaves_none(tmp_path: Path) -> None:
    """Its scheduler hears of that a little later."""
    directory = tmp_path / "cfut"
    with LOCAL.new_executor(directory, max_workers=1, keep_logs=False, linger_s=0) as executor:
        for gate in (tmp_path / str(i) for i in range(5)):
            first = executor.submit(jobs.wait_for, gate)
            wait_until(first.running, "the first call")
            futures = [executor.submit(jobs.say, "said") for _ in range(3)]
            assert futures[-1].cluster_jobid
            assert all(future.cancel() for future in futures)
            gate.touch()
    assert os.listdir(directory) == []


def test_cfut_dir_may_have_signs_in_its_name(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / 'it\'s 100% j%A "$HOME" ünter'
    with cluster.new_executor(directory) as executor:
        future = executor.submit(jobs.say, "hello")
        futures = executor.map_to_futures(jobs.say, ["a", "b"])
        assert future.result(LIMIT_S) == "hello"
        assert [future.result(LIMIT_S) for future in futures] == ["a", "b"]
    for each, word in zip([future, *futures], ["hello", "a", "b"]):
        assert log_of(directory, cluster, element_of(each)).read_text() == f"{word}\n"
