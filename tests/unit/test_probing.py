"""Promises on how often the prober looks at what is open."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

import pytest

from cluster_tools.cluster.probing import Probe, Prober, _Round
from cluster_tools.cluster.tasks import Job
from cluster_tools.schedulers.base import Element, Report
from support.waiting import wait_until


class _Busy:
    """A probe, its scheduler and its jobs: counts looks at the jobs."""

    def __init__(self) -> None:
        self.looks = 0
        self.asked = threading.Event()
        self.scheduler = self.jobs = self
        self.cluster = "one"
        self.min_interval_s = 0.01
        self.max_interval_s = 30.0

    def any(self) -> bool:
        return True

    def open(self) -> list[Job]:
        self.looks += 1
        return [cast(Job, _Nothing())]

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        self.asked.set()
        return {}

    def quiet_since(self, asked_at: float) -> float | None:
        return None


class _Nothing:
    job_id = "1"
    token = "token"

    def open_positions(self) -> list[int]:
        return []


def test_submissions_that_come_together_do_not_look_at_all_jobs_each() -> None:
    probe: Any = _Busy()
    prober = Prober()
    prober.add(cast(Probe, probe))
    prober.start()
    try:
        for _ in range(1_000):
            prober.expect(cast(Probe, probe))
        wait_until(prober._wakes.empty, "all of them to be heard")
        wait_until(probe.asked.is_set, "the first question")
        assert probe.looks < 100
    finally:
        prober.stop()
        prober.join()


class _Quiet:
    """A probe whose outputs came last at `time_s`; None: none has come since the last query."""

    min_interval_s = 2.0

    def __init__(self, time_s: float | None):
        self._time_s = time_s
        self.scheduler = self

    def quiet_since(self, asked_at: float) -> float | None:
        return self._time_s


# The last query was at 100 s, the next one is due at 103 s; 110 s is the latest.
@pytest.mark.parametrize(
    ("last_outputs", "due"),
    [
        ([None], 103.0),  # no output: an element may have ended without one
        ([100.5], 103.0),  # the last output is long ago
        ([102.5], 104.5),
        ([102.5, 101.5], 103.5),  # the executor counts whose outputs came first
        ([102.5, None], 103.0),  # another executor has had no output
        ([109.0], 110.0),
    ],
)
def test_a_query_waits_while_outputs_of_all_executors_come(
    last_outputs: list[float | None], due: float
) -> None:
    round_ = _Round()
    round_.last_news, round_.asked_at, round_.interval, round_.due = 90.0, 100.0, 2.0, 103.0
    asking = [(cast(Probe, _Quiet(last)), list[Job]()) for last in last_outputs]
    assert Prober._put_off(round_, asking) == due
