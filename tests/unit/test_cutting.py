"""Promises on how large the pieces of an array are."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_tools.cluster.cutting import Cutter
from cluster_tools.schedulers.base import RefusedForCount, RefusedForSize, SchedulerError

MANY = 40


class _Limits:
    """What a cutter asks a scheduler; None: no limit, or none that can be looked up."""

    def __init__(
        self,
        array_size: int | None = None,
        submitted: int | None = None,
        wanted: int | None = None,
    ):
        self._array_size, self._submitted, self._wanted = array_size, submitted, wanted

    def array_limit(self) -> int | None:
        return self._wanted

    def max_array_size(self) -> int | None:
        return self._array_size

    def max_submitted(self) -> int | None:
        return self._submitted


class _NotAnswering(_Limits):
    def max_array_size(self) -> int | None:
        raise SchedulerError("no answer")


def _cutter(limits: _Limits, in_queue: int = 0) -> Cutter:
    scheduler: Any = limits
    return Cutter(scheduler, lambda: in_queue)


SIZE, COUNT = RefusedForSize("too large"), RefusedForCount("too many")


def test_the_first_piece_is_the_whole() -> None:
    assert _cutter(_Limits()).size(MANY) == MANY


def test_the_users_own_limit_counts_from_the_first_piece_on() -> None:
    assert _cutter(_Limits(wanted=7)).size(MANY) == 7


def test_after_a_refusal_for_size_pieces_have_the_size_that_is_looked_up() -> None:
    cutter = _cutter(_Limits(array_size=15))
    assert cutter.on_refused(SIZE, MANY) is None
    assert [cutter.size(left) for left in (40, 25, 10)] == [15, 15, 10]


@pytest.mark.parametrize("limits", [_Limits(), _NotAnswering()])
def test_a_size_that_cannot_be_looked_up_is_found_by_halving(limits: _Limits) -> None:
    cutter = _cutter(limits)
    assert cutter.on_refused(SIZE, MANY) is None
    assert cutter.size(MANY) == 20
    assert cutter.on_refused(SIZE, 20) is None
    assert cutter.size(MANY) == 10


def test_a_single_element_that_is_too_large_is_refused() -> None:
    with pytest.raises(RefusedForSize):
        _cutter(_Limits()).on_refused(SIZE, 1)


@pytest.mark.parametrize("refusal", [SIZE, COUNT])
def test_a_limit_of_none_at_all_is_a_refusal(refusal: RefusedForSize | RefusedForCount) -> None:
    with pytest.raises(type(refusal)):
        _cutter(_Limits(array_size=0, submitted=0)).on_refused(refusal, 3)


def test_a_piece_within_the_limit_waits_until_enough_of_ours_have_left_the_queue() -> None:
    cutter = _cutter(_Limits(submitted=10), in_queue=6)
    assert cutter.size(5) == 5
    assert cutter.on_refused(COUNT, 5) == 1
    assert cutter.on_refused(COUNT, 10) == 6
    assert cutter.size(MANY) == MANY  # nothing was learned that makes it smaller


def test_a_piece_that_nothing_of_ours_is_in_the_way_of_becomes_smaller() -> None:
    """There may be lower limits than those that can be looked up."""
    cutter = _cutter(_Limits(submitted=100))
    tries = 0
    while cutter.on_refused(COUNT, MANY) is not None:
        tries += 1
        assert tries < 10
    assert cutter.size(MANY) == 20
    assert tries >= 1  # others' elements may have been in the way for a moment


def test_after_a_limit_that_cannot_be_looked_up_pieces_grow_again() -> None:
    """Else a full queue would leave all the rest to go in one by one."""
    room, in_queue, left = 8, 0, MANY
    sizes: list[int] = []
    limits: Any = _Limits()
    cutter = Cutter(limits, lambda: in_queue)
    rounds = 0
    while left:
        rounds += 1
        assert rounds < 200
        count = cutter.size(left)
        if in_queue + count <= room:
            cutter.on_taken(count)
            sizes.append(count)
            left, in_queue = left - count, in_queue + count
            continue
        leaving = cutter.on_refused(COUNT, count)
        if leaving is not None:
            in_queue = max(0, in_queue - leaving)
    assert sum(sizes) == MANY
    assert len(sizes) <= 3 * MANY // room
    assert sizes[-1] > 1 or sizes[-2] > 1
