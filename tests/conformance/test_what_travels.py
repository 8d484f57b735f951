"""Promises on functions whose names alone would not find them in another process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from strategies import Strategy

from support.waiting import LIMIT_S


class Base:
    def work(self, number: int) -> int:
        return number + 1

    def __private(self, number: int) -> int:
        return number + 10

    def private(self) -> Callable[[int], int]:
        return self.__private


class Worker(Base):
    def work(self, number: int) -> int:
        return number + 100

    def __private(self, number: int) -> int:
        return number + 1000

    def own_private(self) -> Callable[[int], int]:
        return self.__private

    def of_the_base(self) -> Callable[[int], int]:
        return super().work

    @classmethod
    def __of_the_class(cls, number: int) -> int:
        return number + 10_000

    @classmethod
    def of_the_class(cls) -> Callable[[int], int]:
        return cls.__of_the_class

    @staticmethod
    def __static(number: int) -> int:
        return number + 100_000

    @classmethod
    def static(cls) -> Callable[[int], int]:
        return cls.__static

    other_name = Base.private


def call(methods: list[Callable[[int], int]], number: int) -> list[int]:
    return [method(number) for method in methods]


def private_methods(worker: Worker) -> list[Callable[[int], int]]:
    return [worker.private(), worker.own_private(), worker.of_the_base()]


def test_methods_that_their_names_do_not_find_are_the_right_ones(executor: Any) -> None:
    worker = Worker()
    methods = [
        worker.work,
        worker.private(),
        worker.own_private(),
        worker.of_the_base(),
        worker.of_the_class(),
        worker.static(),
    ]
    assert [next(iter(executor.map(method, [1]))) for method in methods] == call(methods, 1)
    assert list(executor.map(call, [methods], [1])) == [call(methods, 1)]


def test_such_methods_come_back_as_results(executor: Any) -> None:
    (methods,) = executor.map(private_methods, [Worker()])
    assert call(methods, 1) == [11, 1001, 2]


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Any]:
    """A module that only this process has, registered to go by value."""
    path = tmp_path / "plugin.py"
    text = """
        OFFSET = 7

        class Point:
            def __init__(self, x):
                self.x = x

        def moved(x):
            return Point(x + OFFSET)
    """
    path.write_text(textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location("only_loaded_here", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["only_loaded_here"] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)
    del sys.modules["only_loaded_here"]


def test_a_module_that_is_registered_goes_by_value(executor: Any, plugin: Any) -> None:
    (point,) = executor.map(plugin.moved, [1])
    assert type(point) is plugin.Point
    assert point.x == 8


def test_what_a_call_registers_comes_back_by_value(strategy: Strategy, directory: Path) -> None:
    """In a program of its own, since a call under `sequential` would register it here."""
    (directory / "lib").mkdir()
    (directory / "lib" / "only_in_jobs.py").write_text("def moved(x): return x + 7\n")
    text = f"""
        import sys
        import cluster_tools

        def register(directory):
            import cloudpickle
            sys.path.insert(0, directory)
            import only_in_jobs
            cloudpickle.register_pickle_by_value(only_in_jobs)
            return only_in_jobs.moved

        if __name__ == "__main__":
            arguments = {strategy.arguments(directory)!r}
            with cluster_tools.get_executor({strategy.environment!r}, **arguments) as executor:
                (moved,) = executor.map(register, [{str(directory / "lib")!r}])
                print(moved(1))
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
    assert printed == "8\n"
