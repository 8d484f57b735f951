"""The fake API server, and schedulers and clients that talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_api_server import NAMESPACE, TOKEN, FakeApiServer, configure
from observing import Make

from cluster_tools.schedulers.base import ArrayRequest, Options
from cluster_tools.schedulers.kubernetes.api import ApiServer
from cluster_tools.schedulers.kubernetes.manifest import parse_resources
from cluster_tools.schedulers.kubernetes.scheduler import KubernetesScheduler


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return path


@pytest.fixture
def server(kubeconfig: Path) -> Iterator[FakeApiServer]:
    server = FakeApiServer()
    configure(kubeconfig, server.port)
    yield server
    server.close()


@pytest.fixture
def make(server: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes schedulers, and closes them."""
    made: list[KubernetesScheduler] = []

    def make(**job_resources: Any) -> KubernetesScheduler:
        given = {"image": "image", "namespace": NAMESPACE, **job_resources}
        options = Options(job_resources=given, log_directory=str(tmp_path))
        scheduler = KubernetesScheduler(options, parse_resources(given))
        made.append(scheduler)
        return scheduler

    yield make
    # Processes that go on deleting Jobs have nothing to go on with.
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    for scheduler in made:
        scheduler.close()


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., ArrayRequest]:
    run_directory = tmp_path / "run"
    run_directory.mkdir()

    def request_of(
        count: int = 3, *, is_array: bool = True, token: str = TOKEN, name: str = "call"
    ) -> ArrayRequest:
        return ArrayRequest(
            name, token, count, is_array, ["python", "-c", ""], str(tmp_path), str(run_directory)
        )

    return request_of


@pytest.fixture
def api(server: FakeApiServer) -> Iterator[ApiServer]:
    api = ApiServer()
    yield api
    api.close()
