"""Promises on a client in a pod whose service account has only the Role of the README."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import client_in_pod
import pytest

from support import kube
from support.waiting import wait_until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

_NAMESPACE = "cluster-tools-inside"


@pytest.fixture
def namespace() -> Iterator[str]:
    with kube.new_namespace(_NAMESPACE):
        yield _NAMESPACE


class _Client:
    """A pod that runs `client_in_pod`. It was made by hand, as users do, and not by the package."""

    def __init__(self, namespace: str, directory: Path, *parts: str):
        mounts = [Path(path) for path in kube.RESOURCES["mounts"]]
        names = [f"mount-{number}" for number in range(len(mounts))]
        container = {
            "name": "client",
            "image": kube.IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", client_in_pod.__file__, namespace, str(directory), *parts],
            "workingDir": str(directory),
            "env": [{"name": "PYTHONPATH", "value": str(Path(kube.__file__).parents[1])}],
            "volumeMounts": [
                {"name": name, "mountPath": str(path)} for name, path in zip(names, mounts)
            ],
        }
        spec = {
            "serviceAccountName": kube.SERVICE_ACCOUNT,
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": os.getuid(), "runAsGroup": os.getgid()},
            "containers": [container],
            "volumes": [
                {"name": name, "hostPath": {"path": str(path)}} for name, path in zip(names, mounts)
            ],
        }
        self._core = kube.admin().core
        self._directory = directory
        self._of = ("client", namespace)
        self._core.create_namespaced_pod(namespace, {"metadata": {"name": "client"}, "spec": spec})

    def wait_for(self, name: str) -> None:
        """For a file. Raises: AssertionError, where the pod ends without."""
        path = self._directory / name
        wait_until(lambda: path.exists() or self._has_ended(), name)
        assert path.exists(), self._core.read_namespaced_pod_log(*self._of)

    def delete(self) -> None:
        self._core.delete_namespaced_pod(*self._of)

    def _has_ended(self) -> bool:
        return self._core.read_namespaced_pod(*self._of).status.phase in ("Failed", "Succeeded")


def test_the_readmes_role_is_enough_for_a_client_in_a_pod(namespace: str, tmp_path: Path) -> None:
    parts = [part for part in client_in_pod.PARTS if part != "waiting"]
    client = _Client(namespace, tmp_path, *parts)
    for part in parts:
        client.wait_for(part)
    wait_until(lambda: not kube.admin().jobs(namespace), "the end of the Jobs")


def test_a_client_in_a_pod_that_is_told_to_end_cancels_its_calls(
    namespace: str, tmp_path: Path
) -> None:
    """The client is the first process of its container: all others are killed when it ends."""
    client = _Client(namespace, tmp_path, "waiting")
    client.wait_for("started")
    client.delete()
    wait_until(lambda: not kube.admin().jobs(namespace), "the end of the Job")
    wait_until(lambda: not kube.admin().pods(namespace=namespace), "the end of the pods")
