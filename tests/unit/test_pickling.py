"""Promises on pickles: what goes by reference, and what by value."""

from __future__ import annotations

import functools
import pickle
import threading
from typing import Any

import jobs
import pytest

from cluster_tools import pickling


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
    pieces = pickling.dump_pieces((large, "x" * 100_000, changed, _Parts(large, changed)))
    assert sum(piece is large for piece in pieces) == 1
    changed[0] = 1  # after it was pickled
    again = pickling.loads(b"".join(pieces))
    assert again[:3] == (large, "x" * 100_000, bytearray(100_000))
    assert again[3].parts == (large, bytearray(100_000))


def test_large_values_go_by_value_with_what_goes_by_value() -> None:
    large = bytes(100_000)
    function, same = pickling.loads(b"".join(pickling.dump_pieces((lambda: large, large))))
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
    assert main is None or main[2] is False  # pytest is an installed program
