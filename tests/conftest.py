"""What all tests share: Slurm's are left out where no Slurm answers, and the summary says so."""

from __future__ import annotations

import shutil
import subprocess

import pytest

_SCONTROL_LIMIT_S = 20  # it tries a controller that is not there for a while

_left_out = pytest.StashKey[str]()


def _reason_against_slurm() -> str | None:
    """Why jobs cannot be submitted here, None where they can."""
    if shutil.which("sbatch") is None:
        return "there is no sbatch on PATH"
    try:
        ping = subprocess.run(
            ["scontrol", "ping"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SCONTROL_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"there is an sbatch, but scontrol ping fails: {error}"
    if ping.returncode == 0 and "UP" in ping.stdout:
        return None
    words = (ping.stdout + ping.stderr).strip().splitlines()
    return f"there is an sbatch, but no controller answers: {words[-1] if words else 'no output'}"


@pytest.hookimpl(trylast=True)  # after -m and -k: what they leave out needs no explanation
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slurm_items = [item for item in items if item.get_closest_marker("slurm")]
    if not slurm_items or (reason := _reason_against_slurm()) is None:
        return
    config.stash[_left_out] = f"{len(slurm_items)} tests on Slurm: {reason}"
    config.hook.pytest_deselected(items=slurm_items)
    items[:] = [item for item in items if not item.get_closest_marker("slurm")]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _left_out in config.stash:
        terminalreporter.section("left out")
        terminalreporter.write_line(config.stash[_left_out])
