"""Promises on how often the prober looks at what is open."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

from cluster_tools.cluster.probing import Probe, Prober
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
