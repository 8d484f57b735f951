"""Executors on Kubernetes, and faults of the cluster that the project brings up itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import kube
from support.clusters import KUBERNETES
from support.waiting import wait_until

_SERVICE_LIMIT_S = 120
_SCRIPTS = Path(__file__).parent / "cluster"


@pytest.fixture
def new_executor(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes executors; `resources` are added to those of the tests."""
    executors: list[Any] = []

    def new(resources: dict[str, Any] | None = None, **keywords: Any) -> Any:
        all_resources = {**kube.RESOURCES, **(resources or {})}
        executors.append(KUBERNETES.new_executor(tmp_path, job_resources=all_resources, **keywords))
        return executors[-1]

    yield new
    for executor in executors:  # what a failing test has left runs for minutes
        executor.__exit__(TimeoutError, None, None)


class TestCluster:
    """The cluster of tests/kubernetes/cluster."""

    def __init__(self, directory: Path):
        self.directory = directory

    def service(self, name: str, action: str) -> None:
        """Stops or starts one of its parts, as its README says."""
        self._run(str(_SCRIPTS / "service"), name, action, str(self.directory))

    def in_node(self, node: str, *command: str) -> None:
        self._run(
            *(
                "bash",
                "-euc",
                '. "$1/common"; . "$1/components"; use_directory "$2"; in_node "${@:3}"',
            ),
            *("_", str(_SCRIPTS), str(self.directory), node, *command),
        )

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SERVICE_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.fixture
def test_cluster() -> TestCluster:
    """For what only its owner may do to a cluster."""
    directory = Path(kube.ADMIN_CONFIG or "").parent
    if not (directory / "run" / "settings").exists() or os.geteuid() != 0:
        pytest.skip("the cluster that KUBECONFIG names is not one of tests/kubernetes/cluster/up")
    return TestCluster(directory)


@pytest.fixture(scope="module")
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """By the tests of a module."""
    base = tmp_path_factory.getbasetemp()
    before = {job.metadata.name for job in kube.jobs_in(base)}
    yield
    wait_until(
        lambda: {job.metadata.name for job in kube.jobs_in(base)} <= before, "the end of the Jobs"
    )
