"""How measured figures are shown: minimum, median and maximum, and the machine they are of."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence


def show_machine() -> None:
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?"
    print(
        f"Python {platform.python_version()} ({sys.executable}), {platform.system()}, "
        f"{os.cpu_count()} processors, load {load}",
        flush=True,
    )


def show(name: str, values: Sequence[float], unit: str, digits: int = 1) -> None:
    """One line: what was measured, its minimum, median and maximum, and how often."""
    low, middle, high = min(values), statistics.median(values), max(values)
    print(
        f"{name:<58} {low:8.{digits}f} {middle:8.{digits}f} {high:8.{digits}f} {unit}  ({len(values)})",
        flush=True,
    )


def show_head() -> None:
    print(f"{'':<58} {'min':>8} {'median':>8} {'max':>8}")


def show_target(what: str, measured: float, limit: float, unit: str, digits: int = 1) -> None:
    verdict = "reached" if measured <= limit else "MISSED"
    print(f"{what}: {measured:.{digits}f}{unit}, at most {limit:g}{unit}: {verdict}", flush=True)
