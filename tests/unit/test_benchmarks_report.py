"""What benchmarks/report.py writes of figures: tables, who is missing and why. No plots: no
matplotlib.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report

RECORDS: list[dict[str, Any]] = [
    {"row": "one", "contender": "slow", "variant": "", "seconds": 4.0},
    {"row": "one", "contender": "cluster_tools", "variant": "", "seconds": 0.5},
    {"row": "one", "contender": "floor", "variant": "", "seconds": 0.4},
    {"row": "one", "contender": "cluster_tools", "variant": "", "seconds": 0.7},
    {"row": "one", "contender": "cluster_tools", "variant": "", "seconds": 0.6},
    {"row": "one", "contender": "broken", "variant": "", "error": "no such option"},
    {"row": "pilots", "contender": "slow", "variant": "x", "cold_s": 2.0, "tasks": 1_000},
    {"row": "pilots", "contender": "cluster_tools", "variant": "", "cold_s": 4.0, "tasks": 100_000},
]
RESULTS: dict[str, Any] = {
    "machine": {"Slurm": "22.05", "date": "2030-01-01"},
    "minutes": 3.2,
    "contenders": {
        "slow": {"pins": ["slow==1.0"], "about": "As its page says.\n", "left_out": {}},
        "floor": {"pins": [], "about": "Nothing.", "left_out": {"pool": "no pool"}},
    },
    "records": RECORDS,
}


def table(row: str) -> report.Table:
    return next(table for table in report.TABLES if table.row == row)


def test_a_line_has_minimum_median_maximum_and_the_ratio_to_the_floor() -> None:
    lines = report.markdown_table(table("one"), report.lines_of(table("one"), RECORDS))
    assert "| **cluster_tools** | 0.50 | 0.60 | 0.70 | 1.50 | 3 |" in lines


def test_the_floor_comes_first_then_the_fastest() -> None:
    names = [line.name for line in report.lines_of(table("one"), RECORDS)]
    assert names == ["floor", "cluster_tools", "slow"]


def test_lines_of_fewer_tasks_are_ordered_by_what_a_task_costs_and_say_how_many() -> None:
    lines = report.lines_of(table("pilots"), RECORDS)
    assert [line.name for line in lines] == ["cluster_tools", "slow, x"]
    assert report.markdown_table(table("pilots"), lines)[-1].endswith("| 1,000 | 500 |")


def test_who_failed_or_takes_no_part_is_named_with_the_reason() -> None:
    assert report.missing("one", RESULTS) == ["- broken failed once: `no such option`."]
    assert report.missing("pool", RESULTS) == ["- Not here: floor (no pool)."]


def test_results_tell_machine_versions_and_setup() -> None:
    written = report.markdown(RESULTS)
    for words in ("Slurm: 22.05", "date: 2030-01-01", "`slow==1.0`", "As its page says."):
        assert words in written


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99)])
def test_percentiles_are_values_that_were_measured(percent: int, expected: int) -> None:
    assert report.percentile(list(range(100)), percent) == expected
