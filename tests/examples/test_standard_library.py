"""The example on real input counts the same, whatever strategy it runs with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "standard_library.py"
MODULES = 30


def what_it_shows(strategy: str, cfut_dir: Path) -> list[str]:
    """The table and the totals, without the lines on progress and time."""
    command = [sys.executable, str(EXAMPLE), "--strategy", strategy]
    command += ["--modules", str(MODULES), "--batch-size", "8"]
    environment = {**os.environ, "CFUT_DIR": str(cfut_dir)}
    shown = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert shown.returncode == 0, shown.stderr
    _, complete, rest = shown.stdout.partition(f"{MODULES} of {MODULES} modules\n")
    assert complete, shown.stdout
    return rest.splitlines()[:-1]


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    shown = what_it_shows("sequential", tmp_path_factory.mktemp("sequential"))
    assert len(shown) == 14, "an empty line, the head, ten modules, an empty line, the totals"
    assert shown[-1].startswith("totals: ")
    return shown


@pytest.mark.parametrize(
    "strategy", ["multiprocessing", "local", pytest.param("slurm", marks=pytest.mark.slurm)]
)
def test_each_strategy_shows_the_same_table_and_totals(
    strategy: str, sequential: list[str], tmp_path: Path
) -> None:
    assert what_it_shows(strategy, tmp_path / "cfut") == sequential
