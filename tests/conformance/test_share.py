"""Promises on values that calls share: `executor.share`."""

from __future__ import annotations

import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from calls import given_back, touch_and_wait
from strategies import NewExecutor, Strategy

from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:BatchingExecutor.submit bypasses batching")


class Block:
    """Memory that is pickled as NumPy and Arrow do it: as a buffer."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Block, (pickle.PickleBuffer(self.memory),)


class Counted:
    """Counts how often a process has unpickled one."""

    count_here = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_counted, ()


def _unpickle_counted() -> Counted:
    Counted.count_here += 1
    return Counted()


def first_byte(block: Block) -> int:
    return memoryview(block.memory)[0]


def describe(block: Block) -> tuple[bool, bool, bool]:
    """Whether it is mapped, whether read-only, and whether by shared pages of the file."""
    memory = memoryview(block.memory)
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else ["r--s /shared/0"]
    by_file = any("r--s" in line and "/shared/" in line for line in lines)
    return type(memory.obj) is mmap.mmap, memory.readonly, by_file


def write_to(block: Block) -> None:
    memoryview(block.memory)[0] = 1


def count_after(_: Counted, __: int) -> tuple[int, int]:
    return os.getpid(), Counted.count_here


def length(block: Block) -> int:
    return len(memoryview(block.memory))


def length_and(block: Block, number: int) -> int:
    return length(block) + number


def files_of_shared_values(directory: Path) -> list[Path]:
    return sorted(directory.rglob("shared/*"))


@pytest.fixture
def own_tmp(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no run directory uses a temporary one: `files_of_shared_values` sees it, too."""
    monkeypatch.setattr(tempfile, "tempdir", str(directory))


def given_second(_: Any, second: Any) -> Any:
    return second


def kept_in_a_default(value: Any) -> Callable[[], Any]:
    return lambda kept=value: kept


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "an argument": lambda executor, value: executor.submit(given_back, value),
    "a keyword": lambda executor, value: executor.submit(given_second, 0, second=value),
    "a container": lambda executor, value: executor.submit(from_container, [{"key": (value,)}]),
    "a partial": lambda executor, value: executor.submit(partial(given_back, value)),
    "a partial's keyword": lambda executor, value: executor.submit(
        partial(given_second, second=value), 0
    ),
    "a closure": lambda executor, value: executor.submit(lambda: value),
    "a default": lambda executor, value: executor.submit(kept_in_a_default(value)),
    "an item": lambda executor, value: executor.map_to_futures(given_back, [value])[0],
}


def from_container(container: list[dict[str, tuple[Any]]]) -> Any:
    return container[0]["key"][0]


@pytest.mark.parametrize("way", WAYS)
def test_it_stands_for_the_value_as(way: str, executor: Any) -> None:
    shared = executor.share({"a": [1, 2]})
    assert WAYS[way](executor, shared).result(LIMIT_S) == {"a": [1, 2]}


def test_it_stands_for_the_value_in_maps(executor: Any) -> None:
    values = [executor.share([n]) for n in range(3)]
    assert list(executor.map(given_back, values)) == [[0], [1], [2]]
    assert list(executor.map(given_second, [0, 0], values, buffersize=1)) == [[0], [1]]
    assert list(executor.map(partial(given_second, values[0]), values[:2])) == [[0], [1]]


def test_what_is_shared_may_refer_to_what_is_shared(executor: Any) -> None:
    inner = executor.share(["inner"])
    outer = executor.share([inner, 1])
    del inner
    assert executor.submit(given_back, outer).result(LIMIT_S) == [["inner"], 1]


@pytest.mark.holds_for("pickles")
def test_a_shared_value_is_the_one_of_when_it_was_shared(executor: Any) -> None:
    value = [1]
    shared = executor.share(value)
    value.append(2)
    assert executor.submit(given_back, shared).result(LIMIT_S) == [1]


def test_a_process_reads_it_at_most_once(executor: Any) -> None:
    shared = executor.share(Counted())
    before = Counted.count_here
    counts = dict(executor.map(partial(count_after, shared), range(8)))
    assert max(counts.values()) <= before + 1


@pytest.mark.holds_for("pickles")
def test_buffers_are_mapped_read_only_and_share_their_pages(executor: Any) -> None:
    shared = executor.share(Block(bytes(3_000_000)))
    assert executor.submit(describe, shared).result(LIMIT_S) == (True, True, True)
    with pytest.raises(TypeError, match="read-only"):
        executor.submit(write_to, shared).result(LIMIT_S)


@pytest.mark.holds_for("pickles")
def test_equal_values_are_one_file(
    new_executor: NewExecutor, directory: Path, own_tmp: None
) -> None:
    executor = new_executor()
    shared = executor.share(Block(bytes(1000)))
    again = executor.share(Block(bytes(1000)))
    other = executor.share(Block(bytes(1001)))
    assert again is shared
    assert executor.share(shared) is shared
    assert len(files_of_shared_values(directory)) == 2
    blocks = [shared, again, other]
    assert list(executor.map(length, blocks)) == [1000, 1000, 1001]


@pytest.mark.holds_for("pickles")
@pytest.mark.parametrize("bad", [threading.Lock(), (n for n in [1])], ids=["lock", "generator"])
def test_what_cannot_be_pickled_is_refused_at_once(bad: Any, executor: Any) -> None:
    name = type(bad).__name__
    with pytest.raises(pickle.PicklingError, match=f"of type {name} can't be shared") as caught:
        executor.share(bad)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.holds_for("pickles")
def test_it_is_gone_with_the_executor(
    new_executor: NewExecutor, directory: Path, own_tmp: None
) -> None:
    executor = new_executor()
    shared = executor.share([1])
    assert executor.submit(given_back, shared).result(LIMIT_S) == [1]
    assert shared.value == [1]
    executor.shutdown()
    assert files_of_shared_values(directory) == []
    assert list(directory.glob("cluster_tools.*")) == []
    with pytest.raises(FileNotFoundError, match="while the executor that shared it is open"):
        _ = shared.value
    with pytest.raises(RuntimeError, match=r"the executor of this <shared .*> has ended"):
        pickle.dumps(shared)


def test_nothing_is_shared_after_shutdown(new_executor: NewExecutor) -> None:
    executor = new_executor()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot share a value after shutdown"):
        executor.share([1])


@pytest.mark.holds_for("pickles")
def test_it_is_refused_by_another_executor(new_executor: NewExecutor) -> None:
    shared = new_executor().share([1])
    with pytest.raises(pickle.PicklingError, match="another executor's: share the value with"):
        new_executor().submit(given_back, shared).result(LIMIT_S)


@pytest.mark.holds_for("pickles")
def test_its_file_goes_when_nobody_can_use_it_any_more(
    new_executor: NewExecutor, directory: Path, own_tmp: None
) -> None:
    executor = new_executor()
    for number in range(3):
        shared = executor.share([number])
        assert list(executor.map(partial(given_second, shared), [0, 1])) == [0, 1]
        assert executor.submit(given_back, shared).result(LIMIT_S) == [number]
        del shared
        wait_until(lambda: not files_of_shared_values(directory), "the file's removal")


@pytest.mark.holds_for("waits_and_pickles")
def test_its_file_stays_for_calls_that_are_not_done(
    new_executor: NewExecutor, directory: Path, own_tmp: None
) -> None:
    executor = new_executor(narrow=True)
    gate = directory / "gate"
    paths = (directory / "started", gate)
    first = executor.map_to_futures(touch_and_wait, [paths])
    shared = executor.share(Block(b"abc"))
    # These begin after the first only, when nobody has a handle any more.
    second = executor.map_to_futures(first_byte, [shared])
    third = executor.map(partial(length_and, shared), [1])
    del shared
    wait_until(paths[0].exists)
    assert len(files_of_shared_values(directory)) == 1
    gate.touch()
    assert [future.result(LIMIT_S) for future in first] == ["started"]
    assert [future.result(LIMIT_S) for future in second] == [ord("a")]
    assert list(third) == [4]
    wait_until(lambda: not files_of_shared_values(directory), "the file's removal")


def test_classes_of_the_script_keep_their_identity(strategy: Strategy, directory: Path) -> None:
    text = f"""
        import cluster_tools

        class Point:
            def __init__(self, x):
                self.x = x

        def x_of(point):
            assert type(point) is Point
            return point.x

        if __name__ == "__main__":
            arguments = {strategy.arguments(directory)!r}
            with cluster_tools.get_executor({strategy.environment!r}, **arguments) as executor:
                print(*executor.map(x_of, [executor.share(Point(7)), executor.share(Point(8))]))
    """
    (directory / "script.py").write_text(textwrap.dedent(text))
    printed = subprocess.run(
        [sys.executable, str(directory / "script.py")],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
    ).stdout
    assert printed == "7 8\n"


def test_what_the_script_defines_by_value_can_be_shared(executor: Any) -> None:
    offset = 7
    shared = executor.share(lambda number: number + offset)
    assert executor.submit(lambda: shared(1)).result(LIMIT_S) == 8
