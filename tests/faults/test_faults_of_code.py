"""Promises on calls that end badly, one in ten: each is its own future's error, and no other's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from support import jobs
from support.bad_calls import BAD_CALLS, printed
from support.waiting import LIMIT_S

pytestmark = pytest.mark.slurm

_COUNT = 50
_EVERY = 10
_NAMES = list(BAD_CALLS)
# Five in an array; the last array has some for a second time.
_GROUPS = [(_NAMES * 2)[i : i + _COUNT // _EVERY] for i in range(0, len(_NAMES), _COUNT // _EVERY)]


def _steps(names: list[str]) -> list[Callable[[], Any]]:
    steps: list[Callable[[], Any]] = [partial(jobs.square, number) for number in range(_COUNT)]
    for place, name in enumerate(names):
        steps[place * _EVERY] = BAD_CALLS[name].step
    return steps


@pytest.fixture(scope="module")
def arrays(executor: Any) -> list[list[Any]]:
    """Submitted at once, as each takes a while."""
    return [executor.map_to_futures(jobs.run, _steps(names)) for names in _GROUPS]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("group", range(len(_GROUPS)))
def test_five_bad_calls_of_fifty_have_causes_and_the_others_their_results(
    arrays: list[list[Any]], group: int
) -> None:
    for number, future in enumerate(arrays[group]):
        place, rest = divmod(number, _EVERY)
        if rest:
            assert future.result(LIMIT_S) == number * number
            continue
        bad = BAD_CALLS[_GROUPS[group][place]]
        exception = future.exception(LIMIT_S)
        assert isinstance(exception, bad.error)
        assert bad.says in printed(exception)
        assert f"Task {number} of {_COUNT} of run" in printed(exception)
