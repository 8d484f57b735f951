"""Promises on the counts and the rate of an executor's calls."""

from __future__ import annotations

import pytest

from cluster_tools import tally
from cluster_tools.tally import Tally


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(tally, "monotonic", clock)
    return clock


def test_each_call_is_counted_once() -> None:
    counts = Tally()
    counts.note_submitted(10)
    counts.note_ended(done=3, failed=2, cancelled=1)
    stats = counts.stats(running=3)
    assert (stats.waiting, stats.running, stats.done, stats.failed, stats.cancelled) == (
        1,
        3,
        3,
        2,
        1,
    )
    assert counts.stats(running=None).running == 4


def test_nothing_to_do_takes_no_time_and_an_unknown_rate_has_no_end() -> None:
    counts = Tally()
    assert counts.stats(None).time_left_s == 0.0
    counts.note_submitted()
    assert (counts.stats(None).rate, counts.stats(None).time_left_s) == (0.0, None)


def test_the_rate_of_short_calls_is_that_of_the_last_ten_seconds(clock: _Clock) -> None:
    counts = Tally()
    counts.note_submitted(10_000)
    for per_step in (10, 40):
        for _ in range(130):  # thirteen seconds
            clock.now += 0.1
            counts.note_ended(done=per_step)
    assert 380 <= counts.stats(None).rate <= 420
    assert counts.stats(None).time_left_s == pytest.approx(3_500 / counts.stats(None).rate)


def test_the_rate_of_long_calls_is_that_of_the_last_ones(clock: _Clock) -> None:
    counts = Tally()
    counts.note_submitted(100)
    for _ in range(50):
        clock.now += 60
        counts.note_ended(done=1)
    assert counts.stats(None).rate == pytest.approx(1 / 60)
    assert counts.stats(None).time_left_s == pytest.approx(50 * 60)
    clock.now += 10_000  # nothing ends any more
    assert counts.stats(None).rate < 1 / 400


def test_time_without_calls_is_not_counted(clock: _Clock) -> None:
    counts = Tally()
    for _ in range(2):
        clock.now += 3_600
        counts.note_submitted(20)
        clock.now += 10
        counts.note_ended(done=20)
    assert counts.stats(None).rate == pytest.approx(2)


def test_who_counts_ends_himself_may_tell_them_again(clock: _Clock) -> None:
    counts = Tally()
    counts.note_submitted(10)
    clock.now += 2
    counts.set_ended(done=6, failed=3, cancelled=1)
    clock.now += 100
    counts.set_ended(done=6, failed=3, cancelled=1)
    stats = counts.stats(0)
    assert (stats.done, stats.failed, stats.cancelled, stats.waiting) == (6, 3, 1, 0)
    assert stats.rate == 5
