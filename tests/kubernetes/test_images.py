"""Promises on how pods come by their image: from real registries that refuse, fail, are slow or not
there.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import registry
from registry import Registry

from cluster_tools.errors import RemoteNeverStartedException
from support import jobs, kube
from support.waiting import LIMIT_S, wait_until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(240)]

NewExecutor = Callable[..., Any]

# In which calls fail whose image its registry refuses.
_REFUSED_WITHIN_S = 90
_PORT = 5000
# Where nobody listens.
_OTHER_PORT = 5999
_NODE = {"node_selector": {"kubernetes.io/hostname": "node1"}}


@pytest.fixture
def images(test_cluster: Any, tmp_path: Path) -> Iterator[Registry]:
    """In the network of node1."""
    pid = (test_cluster.directory / "run" / "node1.pid").read_text().strip()
    enter = ["nsenter", "--target", pid, "--net", "--"]
    archive = test_cluster.directory / "images" / "package.tar"
    with registry.running(tmp_path / "registry", archive, enter, _PORT) as images:
        yield images


@pytest.fixture
def name_in_node(test_cluster: Any) -> Iterator[Callable[[str], None]]:
    """Gives the tests' image one more name, in node1 alone."""
    names: list[str] = []

    def ctr(*words: str) -> None:
        test_cluster.in_node("node1", "ctr", "-n", "k8s.io", "images", *words)

    def name_it(name: str) -> None:
        ctr("tag", kube.IMAGE, name)
        names.append(name)

    yield name_it
    for name in names:
        ctr("rm", name)


def _error_by(future: Any, deadline: float) -> str:
    error = future.exception(max(0.0, deadline - time.monotonic()))
    assert isinstance(error, RemoteNeverStartedException), error
    return str(error)


def test_an_image_that_its_registry_refuses_fails_its_calls_within_90_s(
    new_executor: NewExecutor, images: Registry
) -> None:
    expected = {
        "404": ("does not exist", "not found"),
        "401": ("image_pull_secrets", "401 Unauthorized"),
        "403": ("image_pull_secrets", "403 Forbidden"),
        "basic": ("image_pull_secrets", "401 Unauthorized"),
        "token-401": ("image_pull_secrets", "401 Unauthorized"),
        "token-403": ("image_pull_secrets", "403 Forbidden"),
    }
    deadline = time.monotonic() + _REFUSED_WITHIN_S
    futures = {
        mode: new_executor({**_NODE, "image": images.image(mode)}).submit(jobs.square, 1)
        for mode in expected
    }
    for mode, future in futures.items():
        text = _error_by(future, deadline)
        for word in (images.image(mode), *expected[mode]):
            assert word in text, text
        assert "startup_timeout_s" not in text


def test_all_calls_of_an_array_and_of_pilots_fail_when_its_image_is_refused(
    new_executor: NewExecutor, images: Registry
) -> None:
    resources = {**_NODE, "image": images.image("404")}
    deadline = time.monotonic() + _REFUSED_WITHIN_S
    futures = new_executor({**resources, "parallelism": 3}).map_to_futures(jobs.square, range(40))
    futures += new_executor(resources, pilot_jobs=2).map_to_futures(jobs.square, range(40))
    for future in futures:
        assert "does not exist" in _error_by(future, deadline)


def test_a_registry_that_is_ill_or_not_there_is_tried_until_the_limit(
    new_executor: NewExecutor, images: Registry
) -> None:
    limit_s = 45
    expected = {
        images.image("429"): "429 Too Many Requests",
        images.image("500"): "500 Internal Server Error",
        images.image("token-500"): "500 Internal Server Error",
        f"localhost:{_OTHER_PORT}/nobody:1": "connection refused",
    }
    began = time.monotonic()
    # Those whose pods are still to come do not wait anew.
    resources = {**_NODE, "startup_timeout_s": limit_s, "parallelism": 2}
    futures = {
        image: new_executor({**resources, "image": image}).map_to_futures(jobs.square, range(6))
        for image in expected
    }
    for image, of_image in futures.items():
        for future in of_image:
            text = _error_by(future, began + limit_s + 45)
            assert time.monotonic() - began >= limit_s
            for word in (image, expected[image], f"startup_timeout_s = {limit_s} s"):
                assert word in text, text


def test_a_name_that_is_none_and_an_image_that_may_not_be_pulled_are_named(
    new_executor: NewExecutor, images: Registry
) -> None:
    deadline = time.monotonic() + _REFUSED_WITHIN_S
    bad = f"localhost:{_PORT}/Upper:1"
    resources = {**_NODE, "image": images.image("serve"), "image_pull_policy": "Never"}
    futures = [new_executor(r).submit(jobs.square, 1) for r in ({"image": bad}, resources)]
    texts = [_error_by(future, deadline) for future in futures]
    assert "InvalidImageName" in texts[0]
    assert f"{bad}, which is no name" in texts[0]
    assert images.image("serve") in texts[1]
    assert 'image_pull_policy of job_resources to "IfNotPresent"' in texts[1]


def test_an_image_that_is_there_is_not_pulled_whatever_its_tag(
    new_executor: NewExecutor, name_in_node: Callable[[str], None]
) -> None:
    latest = f"localhost:{_OTHER_PORT}/there:latest"
    name_in_node(latest)
    resources = {**_NODE, "startup_timeout_s": 3}
    for image in (latest, latest.removesuffix(":latest")):
        for more in ({}, {"image_pull_policy": "Never"}):
            executor = new_executor({**resources, "image": image, **more})
            assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    always = {**resources, "image": latest, "image_pull_policy": "Always"}
    text = _error_by(new_executor(always).submit(jobs.square, 3), time.monotonic() + LIMIT_S)
    assert "connection refused" in text


def test_a_long_pull_is_no_failure_after_a_registry_that_was_ill(
    new_executor: NewExecutor, images: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    image = images.image("500", name="ill-then-slow")
    executor = new_executor({**_NODE, "image": image, "startup_timeout_s": 25})
    future = executor.submit(jobs.square, 3)
    wait_until(lambda: "500 Internal Server Error" in caplog.text, "the warning")
    images.set_mode("ill-then-slow", "slow-45")
    assert future.result(120) == 9


def test_a_pull_that_brings_nothing_is_said_and_given_up_only_by_the_users_limit(
    new_executor: NewExecutor, images: Registry
) -> None:
    # Nothing tells it from a long one, until the node's container runtime gives up: 1.7 after 5
    # minutes.
    resources = {**_NODE, "image": images.image("hang"), "startup_timeout_s": 5}
    future = new_executor(resources, pending_timeout_s=20).submit(jobs.square, 1)
    text = _error_by(future, time.monotonic() + LIMIT_S)
    for words in ("reason Pulling", images.image("hang"), "pending_timeout_s = 20 s"):
        assert words in text


@pytest.fixture
def late_directory() -> Iterator[Path]:
    """One that is not there yet, and in no other mount of the tests."""
    path = Path("/srv") / f"cluster-tools-{uuid.uuid4()}"
    yield path
    path.rmdir()


def test_a_long_pull_is_no_failure_after_a_mount_that_failed_first(
    new_executor: NewExecutor,
    images: Registry,
    late_directory: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mounts = [*kube.RESOURCES["mounts"], str(late_directory)]
    resources = {**_NODE, "image": images.image("slow-45"), "mounts": mounts}
    future = new_executor({**resources, "startup_timeout_s": 25}).submit(jobs.square, 3)
    wait_until(lambda: "FailedMount" in caplog.text, "the warning")
    late_directory.mkdir()
    assert future.result(120) == 9


def test_what_a_pod_refers_to_and_comes_late_is_waited_for(
    new_executor: NewExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    name = "cluster-tools-late"
    variables = [{"configMapRef": {"name": name}}, {"secretRef": {"name": name}}]
    template = {"spec": {"containers": [{"name": "worker", "envFrom": variables}]}}
    future = new_executor({"pod_template": template}).submit(jobs.square, 3)
    wait_until(lambda: f'configmap "{name}" not found' in caplog.text, "the warning")
    core = kube.admin().core
    made = {"metadata": {"name": name}}
    core.create_namespaced_config_map(kube.NAMESPACE, made)
    core.create_namespaced_secret(kube.NAMESPACE, made)
    try:
        assert future.result(LIMIT_S) == 9
    finally:
        core.delete_namespaced_config_map(name, kube.NAMESPACE)
        core.delete_namespaced_secret(name, kube.NAMESPACE)
