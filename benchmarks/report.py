"""RESULTS.md and a plot per table, from the figures that compare.py has gathered.

Knows what each row measures and shall reach; nothing of how it was measured. matplotlib is imported
only for the plots: `python -m benchmarks.report RESULTS.json DIRECTORY`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_OURS, _FLOOR = "cluster_tools", "floor"
_LOG_FROM_RATIO = 20  # between the greatest and the least: then bars have a logarithmic axis


class Table(NamedTuple):
    row: str
    figure: str  # the drivers' name for it
    title: str
    unit: str
    goal: str = ""
    scale: float = 1.0  # from the drivers' unit to the table's
    digits: int = 2


TABLES = (
    Table(
        "one", "seconds", "One task, from making the executor to its result", "s", "1.15 x floor"
    ),
    Table("elements", "seconds", "`map` of 100 no-op tasks, one element each", "s", "1.05 x floor"),
    Table(
        "pilots",
        "cold_s",
        "`map` of 100,000 no-op tasks on 4 pilots, from making the executor to the last result",
        "s",
        "5 s",
    ),
    Table("pilots", "warm_s", "The same `map` again, pilots running", "s", "30,000 tasks a second"),
    Table(
        "warm",
        "round_trip_s",
        "One task on a warm pilot, submit to result",
        "ms",
        "median 30 ms, 99th percentile 100 ms",
        1e3,
    ),
    Table("rpcs", "rpcs", "slurmctld's RPCs for 64 tasks of 2 s", "RPCs", "floor + 10", digits=0),
    Table(
        "pool",
        "seconds",
        "`map` of 100,000 no-ops on 2 warm processes of this machine",
        "s",
        digits=3,
    ),
)


class Line(NamedTuple):
    name: str
    values: list[float]
    tasks: int | None


def lines_of(table: Table, records: Sequence[dict[str, Any]]) -> list[Line]:
    """A line per contender and variant that has the figure; the floor first, then by the median."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    tasks: dict[str, int | None] = {}
    for record in records:
        if record["row"] == table.row and table.figure in record:
            name = ", ".join(filter(None, (record["contender"], record["variant"])))
            values[name].append(record[table.figure] * table.scale)
            tasks[name] = record.get("tasks")
    lines = [Line(name, figures, tasks[name]) for name, figures in values.items()]
    return sorted(lines, key=lambda line: (line.name != _FLOOR, cost(line)))


def cost(line: Line) -> float:
    """What orders lines: the median, of one task where lines differ in how many they had."""
    return statistics.median(line.values) / (line.tasks or 1)


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_table(table: Table, lines: Sequence[Line]) -> list[str]:
    with_tasks = any(line.tasks for line in lines)
    with_percentile = table.row == "warm"
    head = ["", f"min [{table.unit}]", "median", "max", "x floor", "measured"]
    if with_percentile:
        head.insert(3, "99th percentile")
    if with_tasks:
        head += ["tasks", "tasks/s"]
    written = [markdown_row(head), markdown_row(["---"] + ["--:"] * (len(head) - 1))]
    floor = next((cost(line) for line in lines if line.name == _FLOOR), None)
    for line in lines:
        low, median, high = min(line.values), statistics.median(line.values), max(line.values)
        cells = [f"{value:.{table.digits}f}" for value in (low, median, high)]
        if with_percentile:
            cells.insert(2, f"{percentile(line.values, 99):.{table.digits}f}")
        ratio = cost(line) / floor if floor else 0.0
        cells.append(f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}")
        cells.append(str(len(line.values)))
        if with_tasks:
            cells.append(f"{line.tasks:,}" if line.tasks else "")
            cells.append(f"{line.tasks / median:,.0f}" if line.tasks else "")
        name = f"**{line.name}**" if line.name.split(", ")[0] == _OURS else line.name
        written.append(markdown_row([name, *cells]))
    return written


def missing(row: str, results: dict[str, Any]) -> list[str]:
    """Who is not in a row, or failed in it, and why."""
    said: defaultdict[str, list[str]] = defaultdict(list)
    for name, contender in results["contenders"].items():
        if row in contender["left_out"]:
            said[contender["left_out"][row]].append(name)
    written = [f"- Not here: {', '.join(names)} ({why})." for why, names in said.items()]
    for record in results["records"]:
        if record["row"] == row and "error" in record:
            written.append(f"- {record['contender']} failed once: `{record['error']}`.")
    return written


def markdown(results: dict[str, Any]) -> str:
    facts = [f"- {name}: {fact}" for name, fact in results["machine"].items()]
    written = [
        "# Results",
        "",
        "Written by `benchmarks/run`: this package and its peers, in turns, in one run on one machine and",
        "one Slurm. All of the cluster shares its processors. The floor is the same work without any package.",
        "Lines are ordered by their medians; where peers had fewer tasks, since more would take minutes, by",
        "those of one task, and so is the ratio to the floor: there a cold start weighs more.",
        "",
        *facts,
        f"- duration: {results['minutes']:.0f} minutes",
    ]
    last_row = ""
    for table in TABLES:
        lines = lines_of(table, results["records"])
        notes = missing(table.row, results) if table.row != last_row else []
        if not lines and not notes:
            continue
        last_row = table.row
        written += ["", f"## {table.title}"]
        if table.goal:
            written += ["", f"To reach: {table.goal}."]
        if lines:
            written += ["", *markdown_table(table, lines), "", f"![]({plot_name(table)})"]
        if notes:
            written += ["", *notes]
    written += ["", "## How each is set up"]
    for name, contender in results["contenders"].items():
        pins = ", ".join(contender["pins"])
        written += [
            "",
            f"### {name}",
            *([f"`{pins}`", ""] if pins else []),
            contender["about"].strip(),
        ]
    return "\n".join(written) + "\n"


def plot_name(table: Table) -> str:
    return f"plots/{table.row}_{table.figure}.png"


def plot(table: Table, lines: Sequence[Line], path: Path) -> None:
    """Bars of the medians, with whiskers from the least to the greatest."""
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    per_task = len({line.tasks for line in lines if line.name != _FLOOR}) > 1
    factors = [1e6 / (line.tasks or 1) if per_task else 1.0 for line in lines]
    medians = [statistics.median(line.values) * factor for line, factor in zip(lines, factors)]
    whiskers = [
        [
            median - min(line.values) * factor
            for line, median, factor in zip(lines, medians, factors)
        ],
        [
            max(line.values) * factor - median
            for line, median, factor in zip(lines, medians, factors)
        ],
    ]
    colors = {_FLOOR: "0.6", _OURS: "tab:orange"}
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.35 * len(lines)), layout="constrained")
    bars = axes.barh(
        [line.name for line in lines],
        medians,
        xerr=whiskers,
        color=[colors.get(line.name.split(", ")[0], "tab:blue") for line in lines],
        error_kw={"ecolor": "0.2", "capsize": 3, "linewidth": 1},
    )
    axes.bar_label(
        bars,
        [f" {median:,.0f}" if median >= 100 else f" {median:.3g}" for median in medians],
        padding=3,
        fontsize=8,
    )
    axes.invert_yaxis()
    if max(medians) > _LOG_FROM_RATIO * min(medians):
        axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("µs a task" if per_task else table.unit)
    axes.set_title(table.title.replace("`", ""), fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads(source.read_text())
    (target / "plots").mkdir(exist_ok=True)
    for table in TABLES:
        if lines := lines_of(table, results["records"]):
            plot(table, lines, target / plot_name(table))
    (target / "RESULTS.md").write_text(markdown(results))
    print(target / "RESULTS.md")


if __name__ == "__main__":
    main()
