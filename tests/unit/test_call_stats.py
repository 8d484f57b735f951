"""Promises on the records of what is known about calls, and on what is measured in a process."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time

import pytest

from cluster_tools.call_stats import CallStats, call_stats
from cluster_tools.format.measured import pack_measured, read_measured
from cluster_tools.usage import Meter


def test_a_call_that_waits_has_only_what_the_client_knows() -> None:
    stats = call_stats(submitted_at=5.0, job_id="7_1", log="a.log")
    assert stats == CallStats(submitted_at=5.0, job_id="7_1", log="a.log")
    assert (stats.started_at, stats.node, stats.cpu_s, stats.attempt) == (None, None, None, 1)


def test_a_call_that_runs_has_its_start_and_its_node() -> None:
    stats = call_stats(started_at=6.0, node="c1", attempt=2)
    assert stats == CallStats(started_at=6.0, node="c1", attempt=2)


def test_a_call_that_has_ended_has_what_its_job_has_measured() -> None:
    numbers = pack_measured((6_500_000_000, 8_000_000_000, 250_000_000, 3 << 30))
    measured = read_measured("c1", numbers)
    stats = call_stats(measured, submitted_at=5.0, job_id="7", attempt=3, log="l")
    assert stats == CallStats(5.0, 6.5, 8.0, "c1", "7", 3, 3 << 30, 0.25, "l")


def test_an_unknown_peak_is_none() -> None:
    assert call_stats(read_measured("c1", pack_measured((1, 2, 3, 0)))).peak_memory_bytes is None


def _spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_cpu_times_of_calls_that_do_little_add_up() -> None:
    """Each alone is below what is told apart."""
    meter = Meter()
    used = 0
    for _ in range(2_000):
        began = meter.begin()
        _spin(0.0001)
        used += meter.end(began)[2]
    assert 0.1 < used / 1e9 < 1


def test_overlapping_calls_have_what_both_have_used() -> None:
    meter = Meter()
    outer = meter.begin()
    inner = meter.begin()
    _spin(0.05)
    for beginning in (inner, outer):
        assert meter.end(beginning)[2] > 40_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="it is so on Linux")
def test_a_process_that_a_large_one_has_started_is_not_taken_for_as_large() -> None:
    code = (
        "import subprocess, sys\n"
        "large = bytearray(b'x' * (300 << 20))\n"
        "subprocess.run([sys.executable, '-c', 'from cluster_tools.usage import Meter\\n'\n"
        "    'meter = Meter(); print(meter.end(meter.begin())[3]); x = b\"x\" * (500 << 20)\\n'\n"
        "    'import time; time.sleep(0.01); print(meter.end(meter.begin())[3])'], check=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    small, large = map(int, ended.stdout.split())
    assert 1 << 20 < small < 100 << 20
    assert 500 << 20 <= large < 600 << 20


def test_what_is_measured_is_measured_in_the_process_that_asks() -> None:
    """A forked one has not the memory of its parent's past."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        started_ns, ended_ns, cpu_ns, peak = pool.apply(_measure_nothing)
    assert 0 < started_ns <= ended_ns
    assert cpu_ns < 1_000_000_000
    assert peak < 200 << 20


def _measure_nothing() -> tuple[int, int, int, int]:
    meter = Meter()
    return meter.end(meter.begin())
