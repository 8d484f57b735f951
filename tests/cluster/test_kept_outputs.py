"""Promises on outputs that are kept: re-used by who submits, and never a stale one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import jobs
from support.waiting import LIMIT_S


def _count_run(paths: tuple[Path, int]) -> int:
    """Notes that it has run."""
    runs, number = paths
    with runs.open("a") as file:
        file.write(f"{number}\n")
    return number * 10


def test_kept_outputs_are_used_again_by_who_leaves_their_calls_out(
    executor: Any, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"

    def output(number: int) -> Path:
        return tmp_path / f"{number}.pickle"

    def result_of(number: int) -> int:
        success, result = pickle.loads(output(number).read_bytes())
        assert success
        return result

    def output_of(item: tuple[Any, int]) -> str:
        return str(output(item[1]))

    def run_missing(numbers: range) -> list[int]:
        missing = [number for number in numbers if not output(number).exists()]
        futures = executor.map_to_futures(
            _count_run,
            [(runs, number) for number in missing],
            output_key_getter=output_of,
        )
        for future in futures:
            future.result(LIMIT_S)
        return [result_of(number) for number in numbers]

    assert run_missing(range(2)) == [0, 10]
    assert run_missing(range(4)) == [0, 10, 20, 30]
    assert sorted(runs.read_text().split()) == ["0", "1", "2", "3"]


def test_a_stale_output_is_deleted_before_its_call_is_submitted(
    executor: Any, tmp_path: Path
) -> None:
    for name in ("succeeds", "fails", "succeeds.preliminary", "fails.preliminary"):
        (tmp_path / name).write_bytes(pickle.dumps((True, "stale")))
    good = executor.submit(
        jobs.square, 3, __cfut_options={"output_key": str(tmp_path / "succeeds")}
    )
    bad = executor.submit(
        jobs.reciprocal, 0, __cfut_options={"output_key": str(tmp_path / "fails")}
    )
    assert good.result(LIMIT_S) == 9
    with pytest.raises(ZeroDivisionError):
        bad.result(LIMIT_S)
    assert {p.name for p in tmp_path.iterdir()} == {"succeeds", "fails.preliminary"}
    assert pickle.loads((tmp_path / "succeeds").read_bytes()) == (True, 9)
    success, text = pickle.loads((tmp_path / "fails.preliminary").read_bytes())
    assert not success
    assert "ZeroDivisionError" in text


def test_a_kept_output_that_cannot_be_written_fails_its_task_alone(
    executor: Any, tmp_path: Path
) -> None:
    (tmp_path / "nowhere").touch()  # a file where there should be a directory
    keys = {1: tmp_path / "one", 2: tmp_path / "nowhere" / "two", 3: tmp_path / "three"}
    futures = executor.map_to_futures(
        jobs.square, [1, 2, 3], output_key_getter=lambda number: str(keys[number])
    )
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == [1, 9]
    assert "nowhere" in str(futures[1].exception(LIMIT_S))


def test_a_relative_key_means_the_submitters_directory(
    executor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.chdir(tmp_path)
        future = executor.submit(jobs.square, 4, __cfut_options={"output_key": "relative"})
    assert future.result(LIMIT_S) == 16
    assert pickle.loads((tmp_path / "relative").read_bytes()) == (True, 16)


def test_kept_outputs_stay_and_others_vanish(
    new_executor: Callable[..., Any], tmp_path: Path
) -> None:
    executor = new_executor(keep_logs=False)
    executor.submit(jobs.square, 2, __cfut_options={"output_key": str(tmp_path / "kept")})
    executor.submit(jobs.square, 3)
    executor.shutdown()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_call_never_gets_what_another_has_kept_under_the_same_key(
    executor: Any, tmp_path: Path
) -> None:
    key = str(tmp_path / "same")
    futures = executor.map_to_futures(jobs.square, [1, 2, 3], output_key_getter=lambda _: key)
    for future, square in zip(futures, [1, 4, 9]):
        error = future.exception(LIMIT_S)
        assert future.result() == square if error is None else "the same key" in str(error)


def test_the_directory_of_a_kept_output_is_made(executor: Any, tmp_path: Path) -> None:
    key = str(tmp_path / "new" / "newer" / "one")
    assert executor.submit(jobs.square, 3, __cfut_options={"output_key": key}).result(LIMIT_S) == 9
    assert Path(key).exists()


def test_a_key_that_cannot_be_used_fails_its_task_alone(executor: Any, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    keys = {1: tmp_path / "one", 2: tmp_path / "directory", 3: tmp_path / "three"}
    futures = executor.map_to_futures(
        jobs.square, [1, 2, 3], output_key_getter=lambda number: str(keys[number])
    )
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == [1, 9]
    assert "Task 1 of 3" in str(futures[1].exception(LIMIT_S))
