"""The rules on who may import whom, those for type checkers alone counted: see CONTRIBUTING.md.

`breaches` is given the package's folder and returns a sentence for each import that breaks a rule.
It is tried on copies of the package in which a rule is broken.
"""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster_tools
from cluster_tools import _MODULE_OF  # pyright: ignore[reportPrivateUsage]

PACKAGE = Path(cluster_tools.__file__).parent

# Who stands higher may import who stands lower, and its own folder.
_LAYERS = ["executors", "cluster", "schedulers", "job", "format"]
_FOLDERS = tuple(f"cluster_tools.{folder}" for folder in (*_LAYERS, "observers"))
# They show names of other folders: the public ones, and those of old import paths.
_SHOW_OTHERS = {
    "cluster_tools",
    "cluster_tools._factory",
    "cluster_tools.executors",
    "cluster_tools.schedulers",
    "cluster_tools.schedulers.cluster_executor",
    "cluster_tools.schedulers.kube",
    "cluster_tools.schedulers.kubernetes",
    "cluster_tools.schedulers.slurm",
}
_OLD_PATHS = {"cluster_tools.schedulers.cluster_executor", "cluster_tools.schedulers.kube"}
# Each knows what all schedulers have in common, and no other scheduler.
_SCHEDULERS = ["local", "slurm", "gridengine", "kubernetes"]
_DECIDES = "cluster_tools.cluster.verdicts"
_EVENTS = "cluster_tools.cluster.events"
# Its parts are made by it, and know each other by protocols.
_SESSION = "cluster_tools.cluster.session"
# What of the standard library the worker may import before its call asks for more.
_STARTS_FAST = [
    "cluster_tools.by_reference",
    "cluster_tools.job.start_worker",
    "cluster_tools.job.worker",
    "cluster_tools.usage",
]
_QUICK = {
    "__future__",
    "_thread",
    "_pickle",
    "_signal",
    "copyreg",
    "errno",
    "os",
    "sys",
    "time",
    "types",
}


class _Module:
    def __init__(self, name: str, tree: ast.Module):
        self.name = name
        self.tree = tree
        # "" for what is in none.
        self.folder = name.split(".")[1] if name.startswith(_FOLDERS) else ""


_parse = functools.cache(ast.parse)


def _modules(package: Path) -> dict[str, _Module]:
    found: dict[str, _Module] = {}
    for path in package.rglob("*.py"):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = _Module(name, _parse(path.read_text()))
    return found


def _imports(module: _Module, modules: dict[str, _Module]) -> set[str]:
    """The modules of the package that it imports anywhere in it; a public name is of its own
    module.
    """
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if node.module in _OLD_PATHS:
                    found.add(node.module)
                if alias.name in _MODULE_OF and full not in modules:
                    full = f"cluster_tools.{_MODULE_OF[alias.name]}"
                found.add(full if full in modules else str(node.module))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name in modules} - {module.name}


def _imported_at_the_start(tree: ast.Module) -> set[str]:
    """What it imports on every Python when it is imported itself."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def _scheduler(module: _Module) -> str | None:
    name = module.name.removeprefix("cluster_tools.schedulers.").partition(".")[0]
    return name if module.folder == "schedulers" and name in _SCHEDULERS else None


def _wrong(importing: _Module, imported: _Module) -> str | None:
    """Why the one must not import the other."""
    if importing.name in _SHOW_OTHERS:
        return None
    source, target = importing.folder, imported.folder
    if imported.name in _OLD_PATHS:
        return "old import paths are for users"
    if source in _LAYERS and imported.name == "cluster_tools._factory":
        return f"{source} stands below the factory"
    if source in _LAYERS and target in _LAYERS and _LAYERS.index(target) < _LAYERS.index(source):
        return f"{source} stands below {target}"
    if (
        source == "cluster"
        and target == "schedulers"
        and imported.name != "cluster_tools.schedulers.base"
    ):
        return "the core knows no scheduler by name"
    if imported.name == _SESSION and source != "executors":
        return "nobody but the executor knows the session"
    if source == "format" and target != "format":
        return "the format imports nothing but itself"
    if importing.name == _DECIDES and target == "cluster":
        return "what decides looks at nothing"
    if source == "observers" and target and imported.name != _EVENTS:
        return "observers are told, they ask nobody"
    if source == "" and target in ("executors", "cluster", "schedulers"):
        return "what all use knows none of them"
    one, other = _scheduler(importing), _scheduler(imported)
    if one is not None and other is not None and one != other:
        return "a scheduler knows no other"
    return None


def _circles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Modules that import one another, each circle once."""
    reached = {name: _reached_from(name, edges) for name in edges}
    seen: set[str] = set()
    for name in sorted(edges):
        circle = sorted(other for other in reached[name] if name in reached.get(other, ()))
        if name in circle and name not in seen:
            seen.update(circle)
            yield circle


def _reached_from(name: str, edges: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    todo = [name]
    while todo:
        for other in edges.get(todo.pop(), set()) - reached:
            reached.add(other)
            todo.append(other)
    return reached


def breaches(package: Path) -> list[str]:
    modules = _modules(package)
    edges = {name: _imports(module, modules) for name, module in modules.items()}
    found = [
        f"{name} imports {other}: {why}"
        for name in sorted(edges)
        for other in sorted(edges[name])
        if (why := _wrong(modules[name], modules[other])) is not None
    ]
    for name in _STARTS_FAST:
        slow = _imported_at_the_start(modules[name].tree) - _QUICK - modules.keys()
        found += [f"{name} imports {other} when it starts: that is slow" for other in sorted(slow)]
    inside = {
        name: {other for other in others if other not in _SHOW_OTHERS}
        for name, others in edges.items()
        if name not in _SHOW_OTHERS
    }
    found += [f"a circle of imports: {', '.join(circle)}" for circle in _circles(inside)]
    return found


def test_the_worker_starts_with_few_modules() -> None:
    """Each costs every job: those of ours, and what they import of the standard library."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
        "import __future__, _pickle, _signal, _thread, errno, os, time, types\n"
        "before = {*sys.modules}\n"
        "import cluster_tools.job.worker\n"
        "print(*{*sys.modules} - before)"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    modules = set(ended.stdout.split())
    assert {name.removeprefix("cluster_tools") for name in modules} == {
        "",
        ".by_reference",
        ".format",
        ".format.arrays",
        ".format.exit_codes",
        ".format.numbers",
        ".format.outputs",
        ".format.run_files",
        ".job",
        ".job.worker",
        ".own_files",
        ".usage",
    }


def test_nobody_imports_what_stands_above() -> None:
    assert breaches(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "line", "breach"),
    [
        ("format/arrays.py", "from cluster_tools.job import worker", "format stands below job"),
        ("format/arrays.py", "from cluster_tools import own_files", "nothing but itself"),
        ("job/worker.py", "from cluster_tools.cluster import logs", "job stands below cluster"),
        ("job/worker.py", "import logging", "that is slow"),
        (
            "schedulers/base.py",
            "if TYPE_CHECKING:\n    from cluster_tools.executors.local import LocalExecutor",
            "schedulers stands below executors",
        ),
        (
            "schedulers/slurm/limits.py",
            "from cluster_tools.schedulers.kubernetes.api import ApiServer",
            "a scheduler knows no other",
        ),
        (
            "cluster/probing.py",
            "def f():\n    from cluster_tools.schedulers.slurm import commands",
            "no scheduler by name",
        ),
        ("cluster/verdicts.py", "from cluster_tools.cluster import logs", "looks at nothing"),
        ("schedulers/local.py", "from cluster_tools import SlurmExecutor", "below executors"),
        (
            "schedulers/local.py",
            "from cluster_tools.schedulers.slurm import SlurmExecutor",
            "below executors",
        ),
        ("cluster/tasks.py", "from cluster_tools import get_executor", "below the factory"),
        (
            "executors/local.py",
            "from cluster_tools.schedulers.cluster_executor import RemoteException",
            "old import paths are for users",
        ),
        ("observers/failures.py", "from cluster_tools.cluster import logs", "ask nobody"),
        (
            "cluster/future.py",
            "if TYPE_CHECKING:\n    from cluster_tools.cluster.session import Session",
            "nobody but the executor knows the session",
        ),
        (
            "cluster/tasks.py",
            "from cluster_tools.cluster.future import ClusterFuture",
            "a circle of imports: cluster_tools.cluster.future, cluster_tools.cluster.tasks",
        ),
        ("pickling.py", "from cluster_tools.cluster import logs", "knows none of them"),
        (
            "schedulers/slurm/options.py",
            "from cluster_tools.schedulers.slurm import scheduler",
            "a circle of imports: cluster_tools.schedulers.slurm.limits, ",
        ),
    ],
)
def test_a_breach_is_found(tmp_path: Path, module: str, line: str, breach: str) -> None:
    copy = tmp_path / "cluster_tools"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    assert any(breach in found for found in breaches(copy))
