"""The names that users import, what an import costs, and what `get_executor` does with its
input.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cluster_tools


def _run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", cluster_tools.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(cluster_tools, name) is getattr(cluster_tools, name)
    assert name in dir(cluster_tools)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("cluster_tools.schedulers.cluster_executor", "ClusterExecutor"),
        ("cluster_tools.schedulers.cluster_executor", "RemoteException"),
        ("cluster_tools.schedulers.cluster_executor", "RemoteOutOfMemoryException"),
        ("cluster_tools.schedulers.cluster_executor", "RemoteResourceLimitException"),
        ("cluster_tools.schedulers.cluster_executor", "RemoteTimeLimitException"),
        ("cluster_tools.schedulers.slurm", "SlurmExecutor"),
        ("cluster_tools.schedulers.kube", "KubernetesExecutor"),
        ("cluster_tools.executor_protocol", "Executor"),
        ("cluster_tools.executors.batching", "BatchingExecutor"),
        ("cluster_tools.executors.multiprocessing_", "MultiprocessingExecutor"),
        ("cluster_tools.executors.multiprocessing_pickle", "MultiprocessingPickleExecutor"),
        ("cluster_tools.executors.sequential", "SequentialExecutor"),
        ("cluster_tools.executors.sequential_pickle", "SequentialPickleExecutor"),
        ("cluster_tools.output_store", "FileOutputStore"),
        ("cluster_tools.output_store", "OutputStore"),
    ],
)
def test_an_older_import_path_leads_to_the_same_class(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is getattr(cluster_tools, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("cluster_tools.schedulers.cluster_executor", "ClusterExecutor"),
        ("cluster_tools.schedulers.kube", "KubernetesExecutor"),
        ("cluster_tools.schedulers.kubernetes", "KubernetesExecutor"),
        ("cluster_tools.schedulers.slurm", "SlurmExecutor"),
    ],
)
def test_an_older_import_path_shows_its_names(module: str, name: str) -> None:
    assert name in dir(importlib.import_module(module))
    assert _run(f"from {module} import *\nprint({name}.__name__)") == f"{name}\n"


def test_sub_packages_resolve_after_a_bare_import() -> None:
    program = (
        "import cluster_tools as ct\n"
        "print(ct.schedulers.cluster_executor.RemoteException is ct.RemoteException)\n"
        "print(ct.executors.sequential.SequentialExecutor is ct.SequentialExecutor)"
    )
    assert _run(program) == "True\nTrue\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"cluster_tools.*nothing"):
        _ = cluster_tools.nothing  # type: ignore[attr-defined]
    assert not hasattr(cluster_tools, "__wrapped__")


@pytest.mark.parametrize("module", ["cluster_tools", "cluster_tools.output_store"])
def test_importing_the_package_imports_nothing_heavy(module: str) -> None:
    heavy = {"kubernetes", "multiprocessing", "cloudpickle", "logging", "typing", "pathlib"}
    program = (
        f"import sys; before = set(sys.modules); import {module};"
        "print(*(set(sys.modules) - before))"
    )
    imported = {name.partition(".")[0] for name in _run(program).split()}
    assert not imported & heavy


def test_clients_find_the_base_classes_that_they_test_for() -> None:
    assert issubclass(cluster_tools.MultiprocessingExecutor, ProcessPoolExecutor)
    assert issubclass(cluster_tools.SequentialExecutor, concurrent.futures.Executor)
    assert issubclass(cluster_tools.ClusterExecutor, concurrent.futures.Executor)
    assert issubclass(cluster_tools.SlurmExecutor, cluster_tools.ClusterExecutor)


@pytest.mark.parametrize(
    ("alias", "class_name"),
    [
        ("debug_sequential", "SequentialExecutor"),
        ("test_pickling", "MultiprocessingPickleExecutor"),
    ],
)
def test_an_older_strategy_name_works(alias: str, class_name: str) -> None:
    with cluster_tools.get_executor(alias) as executor:
        assert type(executor) is getattr(cluster_tools, class_name)


def test_an_unknown_strategy_is_a_value_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'slurmm'.*kubernetes.*local.*sequential.*slurm"):
        cluster_tools.get_executor("slurmm")


@pytest.mark.parametrize("name", ["dask", "pbs"])
def test_a_strategy_that_was_left_out_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*left out"):
        cluster_tools.get_executor(name)


@pytest.mark.parametrize("name", ["sequential", "multiprocessing"])
def test_keywords_of_other_strategies_are_ignored(name: str) -> None:
    everything: dict[str, Any] = {
        "job_resources": {"mem": "1G"},
        "cfut_dir": "nowhere",
        "max_workers": 1,
        "start_method": None,
        "logging_config": {},
        "batch_size": 3,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster_tools.get_executor(name, **everything).shutdown()


def test_a_keyword_that_no_strategy_knows_warns_where_it_was_given() -> None:
    with pytest.warns(UserWarning, match="job_resource") as warned:
        cluster_tools.get_executor("sequential", job_resource={})
    assert warned[0].filename == __file__


def test_three_strategies_need_nothing_that_windows_lacks(tmp_path: Path) -> None:
    """Not Windows itself: its lacks alone, of which more may be missing here."""
    program = """
        import os
        import sys

        if __name__ == "__main__":
            for name in ("fcntl", "grp", "pwd", "resource", "termios"):
                sys.modules[name] = None
            for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
                delattr(os, name)
            for name in ("getuid", "geteuid", "fchmod", "mkfifo"):
                delattr(os, name)
            import cluster_tools

            for name in ("sequential", "multiprocessing"):
                for keywords in ({}, {"batch_size": 2}):
                    if keywords:
                        keywords["executor"] = {"name": name}
                        name = "batching"
                    with cluster_tools.get_executor(name, **keywords) as executor:
                        print(*executor.map(abs, [-1, 2]))
        """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    assert subprocess.check_output([sys.executable, script], text=True) == "1 2\n" * 4
