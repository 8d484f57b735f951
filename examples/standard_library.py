"""How large and how complex is Python's standard library?

Parses each module of the Python that runs this, counts its functions and classes and the branches
in them, and shows the ten most complex modules and the totals:

    python examples/standard_library.py --strategy local

The same file works with every strategy. A module takes milliseconds and a job longer to start, so
each call gets a batch of modules.
"""

from __future__ import annotations

import argparse
import ast
import sysconfig
import time
import tokenize
import warnings
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import cluster_tools

# What makes the flow of control fork. `a and b and c` forks twice: it is counted by itself.
BRANCHES = (
    ast.Assert,
    ast.AsyncFor,
    ast.ExceptHandler,
    ast.For,
    ast.If,
    ast.IfExp,
    ast.While,
    ast.comprehension,
    ast.match_case,
)
FUNCTIONS = (ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda)
TOP = 10


@dataclass
class Counts:
    """What was counted, in one module or in many.

    `complexity`: one for each function and one for each branch. `unreadable`: the library's tests
    have files that no Python can parse.
    """

    modules: int = 0
    unreadable: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    complexity: int = 0

    def add(self, other: Counts) -> None:
        for field in fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)


def count_module(path: Path) -> Counts:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = file.read()
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Counts(unreadable=1)
    counts = Counts(modules=1, lines=source.count("\n"))
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            counts.functions += 1
            counts.complexity += 1
        elif isinstance(node, ast.ClassDef):
            counts.classes += 1
        elif isinstance(node, BRANCHES):
            counts.complexity += 1
        elif isinstance(node, ast.BoolOp):
            counts.complexity += len(node.values) - 1
    return counts


def count_batch(library: Path, names: list[str]) -> dict[str, Counts]:
    """The call: counts in some modules of the library."""
    return {name: count_module(library / name) for name in names}


def module_names(library: Path) -> list[str]:
    """The source files below `library`, without what pip or the system has installed there."""
    paths = (path.relative_to(library) for path in library.rglob("*.py"))
    return sorted(
        path.as_posix()
        for path in paths
        if not {"site-packages", "dist-packages"} & set(path.parts)
    )


def batches(names: list[str], size: int) -> list[list[str]]:
    """Each takes every n-th name, so that a package of large modules is spread over them."""
    count = -(-len(names) // size)
    return [names[first::count] for first in range(count)]


def count_all(strategy: str, library: Path, names: list[str], batch_size: int) -> dict[str, Counts]:
    """Counts in all these modules with the executor of `strategy`, and shows how far it is."""
    counted: dict[str, Counts] = {}
    with cluster_tools.get_executor(strategy) as executor:
        futures = executor.map_to_futures(partial(count_batch, library), batches(names, batch_size))
        for future in executor.as_completed(futures):
            counted.update(future.result())
            print(f"\r{len(counted)} of {len(names)} modules", end="", flush=True)
    print()
    return counted


def show(counted: dict[str, Counts]) -> None:
    by_complexity = sorted(counted.items(), key=lambda item: (-item[1].complexity, item[0]))
    print(f"\n{'complexity':>10} {'functions':>10} {'classes':>8} {'lines':>8}  module")
    for name, counts in by_complexity[:TOP]:
        print(f"{counts.complexity:10} {counts.functions:10} {counts.classes:8} ", end="")
        print(f"{counts.lines:8}  {name}")
    totals = Counts()
    for counts in counted.values():
        totals.add(counts)
    print("\ntotals: ", end="")
    print(", ".join(f"{getattr(totals, field.name)} {field.name}" for field in fields(totals)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures Python's standard library.")
    parser.add_argument(
        "--strategy",
        default="local",
        help="sequential, multiprocessing, local (the default), slurm, ...",
    )
    parser.add_argument(
        "--batch-size", type=int, default=50, help="modules in a call (default: 50)"
    )
    parser.add_argument("--modules", type=int, help="only so many of the modules (default: all)")
    options = parser.parse_args()
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    library = Path(sysconfig.get_path("stdlib"))
    names = module_names(library)[: options.modules]
    began = time.monotonic()
    counted = count_all(options.strategy, library, names, options.batch_size)
    show(counted)
    print(f"with the strategy {options.strategy} in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
