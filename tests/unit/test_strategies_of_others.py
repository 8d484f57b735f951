"""Promises on strategies that other packages bring."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cluster_tools

_MODULE = """\
from cluster_tools import LocalExecutor


class TheirExecutor(LocalExecutor):
    pass
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a package that has an entry point, as an installation leaves it."""
    (tmp_path / "their_scheduler.py").write_text(_MODULE)
    metadata = tmp_path / "their_scheduler-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their_scheduler\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[cluster_tools.schedulers]\n"
        "theirs = their_scheduler:TheirExecutor\n"
        "broken = their_scheduler_of_old:TheirExecutor\n"
        "slurm = their_scheduler:TheirExecutor\n"
        "pbs = their_scheduler:TheirExecutor\n"
    )
    return tmp_path


def _run(site: Path, body: str) -> str:
    program = f"import sys\nsys.path.insert(0, {str(site)!r})\n" + textwrap.dedent(body)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=site, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_is_found_by_its_entry_point_and_takes_what_clusters_take(site: Path) -> None:
    body = """
        import cluster_tools, warnings

        warnings.simplefilter("error")
        with cluster_tools.get_executor("theirs", max_workers=1, start_method="spawn") as executor:
            print(type(executor).__name__, executor.submit(sum, [1, 2]).result())
    """
    assert _run(site, body) == "TheirExecutor 3\n"


def test_batching_wraps_it(site: Path) -> None:
    body = """
        import cluster_tools

        theirs = {"name": "theirs"}
        with cluster_tools.get_executor("batching", executor=theirs, batch_size=2) as executor:
            print(list(executor.map(abs, [-1, -2, -3])))
    """
    assert _run(site, body) == "[1, 2, 3]\n"


def test_one_that_does_not_import_says_what_is_missing(site: Path) -> None:
    body = """
        import cluster_tools

        try:
            cluster_tools.get_executor("broken")
        except ImportError as exc:
            print(exc)
    """
    assert "their_scheduler_of_old" in _run(site, body)


def test_it_is_named_where_a_strategy_is_unknown(site: Path) -> None:
    body = """
        import cluster_tools

        try:
            cluster_tools.get_executor("nothing")
        except ValueError as exc:
            print(exc)
    """
    assert "theirs" in _run(site, body)


def test_one_that_was_left_out_here_may_come_from_others(site: Path) -> None:
    body = """
        import cluster_tools

        with cluster_tools.get_executor("pbs", max_workers=1) as executor:
            print(executor.submit(sum, [1, 2]).result())
    """
    assert _run(site, body) == "3\n"


def test_ours_come_first(site: Path) -> None:
    body = """
        from cluster_tools import _factory

        print(_factory._executor_class("slurm").__module__)
    """
    assert _run(site, body) == "cluster_tools.executors.slurm\n"


def test_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'nothing'; there are batching,"):
        cluster_tools.get_executor("nothing")
