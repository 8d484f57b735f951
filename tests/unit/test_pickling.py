"""Promises on pickles: what goes by reference, and what by value."""

from __future__ import annotations

import copyreg
import functools
import os
import pickle
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster_tools import pickling
from support import jobs


def _round_trip(value: Any) -> Any:
    return pickling.loads(pickling.dumps(value))


def test_what_is_importable_goes_by_reference() -> None:
    for value in (jobs.square, jobs.OwnError, len, threading.Lock):
        assert _round_trip(value) is value
    assert b"cloudpickle" not in pickling.dumps(functools.partial(jobs.square, 2))


def test_lambdas_and_closures_go_by_value() -> None:
    outer = 5
    assert _round_trip(lambda number: number + outer)(2) == 7
    assert pickle.loads(pickling.dumps(lambda: outer))() == 5  # the worker's way


def test_a_class_in_a_function_goes_by_value() -> None:
    class Local:
        def value(self) -> int:
            return 3

    assert _round_trip(Local)().value() == 3
    assert _round_trip(Local()).value() == 3


def test_lambdas_in_containers_go_by_value() -> None:
    assert _round_trip({"f": [lambda: 1, functools.partial(lambda x: x, 2)]})["f"][1]() == 2


def test_identity_inside_one_value_is_kept() -> None:
    shared = [1]
    for value in ((shared, shared), (shared, shared, lambda: None)):
        copy = _round_trip(value)
        assert copy[0] is copy[1]


def test_a_cache_goes_by_value_with_its_function_only_where_a_job_would_not_find_it() -> None:
    @functools.lru_cache(maxsize=3, typed=True)
    def fibonacci(number: int) -> int:
        return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

    copy = _round_trip(fibonacci)
    assert copy(30) == 832040
    assert copy.cache_parameters() == {"maxsize": 3, "typed": True}
    cache, _ = _round_trip((_cached, lambda: 1))
    assert cache is _cached


@functools.lru_cache
def _cached() -> None:
    pass


def test_what_cannot_be_pickled_is_an_error() -> None:
    for value in (threading.Lock(), (i for i in range(3)), [1, {"x": threading.Lock()}]):
        with pytest.raises(TypeError):
            pickling.dumps(value)


class _Parts:
    """Its pickle says: large bytes of several kinds, each where it is."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return _Parts, tuple(pickle.PickleBuffer(part) for part in self.parts)


def test_large_values_are_pieces_and_bytes_are_not_copied() -> None:
    large = bytes(100_000)
    changed = bytearray(large)
    pieces = pickling.dump_fragments((large, "x" * 100_000, changed, _Parts(large, changed)))
    assert sum(piece is large for piece in pieces) == 1
    changed[0] = 1  # after it was pickled
    again = pickling.loads(b"".join(pieces))
    assert again[:3] == (large, "x" * 100_000, bytearray(100_000))
    assert again[3].parts == (large, bytearray(100_000))


def test_large_values_go_by_value_with_what_goes_by_value() -> None:
    large = bytes(100_000)
    function, same = pickling.loads(b"".join(pickling.dump_fragments((lambda: large, large))))
    assert function() == same == large


def test_several_pickles_of_a_file_are_read_one_after_the_other(tmp_path: Any) -> None:
    path = tmp_path / "pickles"
    path.write_bytes(pickling.dumps((True, 1)) + pickling.dumps([2]))
    with path.open("rb") as file:
        assert pickling.load(file) == (True, 1)
        assert pickling.load(file) == [2]
        assert file.read() == b""
    assert pickle.loads(path.read_bytes()) == (True, 1)  # does not see the second


def test_the_main_module_is_imported_by_a_jobs_pickle_only_where_it_is_a_script() -> None:
    main = pickling.main_module()
    assert main is None or not main.at_once  # pytest is an installed program


class _Liar:
    """Has an idea of its own of attributes."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else RuntimeError(name)

    def method(self) -> str:
        return "ours"

    def __private(self) -> str:
        return "private"

    def private(self) -> Any:
        return self.__private

    renamed = lambda self: "renamed"  # noqa: E731  # pyright: ignore[reportUnknownVariableType]


class _NewEachTime:
    """A descriptor that binds another function at each look."""

    def __get__(self, owner: Any, _: Any) -> Any:
        def made(self: Any) -> str:
            return "made"

        made.__qualname__ = "_Described.made"
        return types.MethodType(made, owner)


class _Described:
    made = _NewEachTime()


def test_methods_are_found_again_by_reference() -> None:
    liar = _Liar()
    for method in (liar.method, liar.private(), liar.renamed, _Described().made):
        pickled = pickling.dumps(method)
        assert b"cloudpickle" not in pickled
        assert pickle.loads(pickled)() == method()


def test_a_function_bound_to_what_does_not_have_it_goes_by_value() -> None:
    owner = _Described()
    function: Callable[[object], str] = lambda self: type(self).__name__  # noqa: E731
    bound = types.MethodType(function, owner)
    assert _round_trip(bound)() == "_Described"
    assert _round_trip(mock.Mock.reset_mock.__get__(owner)).__self__.__class__ is _Described


def test_what_a_program_has_copyreg_do_is_done() -> None:
    class Local:
        pass

    copyreg.pickle(Local, lambda _: (str, ("by copyreg",)))  # pyright: ignore
    try:
        assert _round_trip([Local()]) == ["by copyreg"]
    finally:
        del copyreg.dispatch_table[Local]


@pytest.mark.parametrize(
    ("name", "imported_as"),
    [
        ("ordinary.py", "ordinary"),
        ("run.v2.py", "__mp_main__"),
        ("no_suffix", "__mp_main__"),
        ("statistics.py", "__mp_main__"),
        ("class.py", "__mp_main__"),
        ("pytest.py", "__mp_main__"),  # of that name another one is loaded
    ],
)
def test_a_script_is_imported_under_its_name_only_where_that_finds_it(
    name: str, imported_as: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / name)
    monkeypatch.setitem(sys.modules, "__main__", main)
    described = pickling.main_module()
    assert described == pickling.MainModule(imported_as, main.__file__, False, True)


def test_a_script_that_calls_itself_something_else_is_imported_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ordinary.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "ordinary.py")
    main.__name__ = "application"
    monkeypatch.setitem(sys.modules, "__main__", main)
    described = pickling.main_module()
    assert described is not None
    assert described.name == "ordinary"


@pytest.mark.parametrize("path", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "link"])
def test_what_this_process_has_open_is_no_file_for_jobs(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/dev/stdin")
    main = types.ModuleType("__main__")
    main.__file__ = os.path.join(tmp_path, path)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert pickling.main_module() is None


def test_a_main_module_whose_attributes_are_not_what_they_should_be_has_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main: Any = types.ModuleType("__main__")
    main.__file__ = main.__spec__ = mock.Mock()
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert pickling.main_module() is None
