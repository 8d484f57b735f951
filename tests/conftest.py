"""What all tests share: those of a cluster that does not answer are left out, and the summary says
so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from support import kube, sge
from support.waiting import wait_until

_SCONTROL_LIMIT_S = 20  # it tries a controller that is not there for a while


def _has_kubernetes_client() -> bool:
    try:
        return importlib.util.find_spec("kubernetes.client") is not None
    except ModuleNotFoundError:
        return False


# Modules that use the client of the extra: the summary says so, too.
collect_ignore_glob = (
    [] if _has_kubernetes_client() else ["kubernetes/*", "unit/kubernetes_scheduler"]
)

_left_out = pytest.StashKey[list[str]]()


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


_CLUSTERS = {
    "slurm": ("Slurm", _reason_against_slurm),
    "gridengine": ("Grid Engine", sge.reason_against),
    "kubernetes": ("Kubernetes", kube.reason_against_kubernetes),
}


@pytest.hookimpl(trylast=True)  # after -m and -k: what they leave out needs no explanation
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[_left_out] = []
    if collect_ignore_glob:
        files = ", ".join(collect_ignore_glob)
        config.stash[_left_out].append(
            f"{files}: the client of the extra `kubernetes` is not installed"
        )
    for marker, (name, reason_against) in _CLUSTERS.items():
        concerned = [item for item in items if item.get_closest_marker(marker)]
        if not concerned or (reason := reason_against()) is None:
            continue
        config.stash[_left_out].append(f"{len(concerned)} tests on {name}: {reason}")
        config.hook.pytest_deselected(items=concerned)
        items[:] = [item for item in items if not item.get_closest_marker(marker)]


@pytest.fixture(scope="session", autouse=True)
def _as_client(request: pytest.FixtureRequest) -> Iterator[None]:
    """On Kubernetes, what is tested has the rights that the README says it needs, and no more."""
    if not any(item.get_closest_marker("kubernetes") for item in request.session.items):
        yield
        return
    before = os.environ["KUBECONFIG"]
    path = kube.become_client()
    os.environ["KUBECONFIG"] = str(path)
    yield
    with contextlib.suppress(TimeoutError):  # what deletes Jobs is a process that needs the file
        wait_until(lambda: not kube.admin().jobs(), "the end of all Jobs")
    os.environ["KUBECONFIG"] = before
    path.unlink()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash.get(_left_out, list[str]())
    if lines:
        terminalreporter.section("left out")
        for line in lines:
            terminalreporter.write_line(line)
