"""Promises on why a call did not end well: each fault is a real one, and its cause is in the
error.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config
import pytest

import cluster_tools
from cluster_tools.errors import (
    RemoteExitException,
    RemoteNeverStartedException,
    RemoteNodeFailureException,
    SubmissionException,
)
from support import jobs, kube
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.kubernetes

NewExecutor = Callable[..., Any]


def _error(future: Any, kind: type[Exception], *words: str) -> None:
    error = future.exception(LIMIT_S)
    assert isinstance(error, kind), error
    for word in words:
        assert word in str(error)


def test_out_of_memory_tells_what_was_asked_for(new_executor: NewExecutor) -> None:
    future = new_executor({"memory": "100Mi"}).submit(jobs.allocate, 400)
    _error(
        future, cluster_tools.RemoteOutOfMemoryException, "100Mi", "job_resources", "node", "kube."
    )


def test_a_call_over_its_time_limit_is_ended(new_executor: NewExecutor, tmp_path: Path) -> None:
    future = new_executor({"time_limit_s": 3}).submit(jobs.wait_long, tmp_path / "started")
    _error(future, cluster_tools.RemoteTimeLimitException, "3 s", "time_limit_s")


def test_a_killed_process_is_an_exit(new_executor: NewExecutor) -> None:
    _error(new_executor().submit(jobs.kill_itself), RemoteExitException, "signal 9")


def test_an_image_that_does_not_exist_is_named_after_the_limit(
    new_executor: NewExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor = new_executor(
        {"image": "localhost/cluster-tools-tests:nothing", "startup_timeout_s": 3}
    )
    future = executor.submit(jobs.square, 1)
    _error(
        future,
        RemoteNeverStartedException,
        "cluster-tools-tests:nothing",
        "startup_timeout_s = 3 s",
        f"(job {future.cluster_jobid})",
    )
    wait_until(lambda: not kube.admin().pods_of(future), "the pod's end")


def test_an_image_that_comes_late_is_waited_for(
    new_executor: NewExecutor, test_cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    late = "localhost/cluster-tools-tests:late"
    future = new_executor({"image": late}).submit(jobs.square, 3)
    wait_until(lambda: "ErrImage" in caplog.text or "ImagePull" in caplog.text, "the warning")
    for node in ("node1", "node2"):
        test_cluster.in_node(node, "ctr", "-n", "k8s.io", "images", "tag", kube.IMAGE, late)
    assert future.result(LIMIT_S) == 9
    for node in ("node1", "node2"):
        test_cluster.in_node(node, "ctr", "-n", "k8s.io", "images", "rm", late)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"memory": "100000Gi"}, "Insufficient memory"),
        ({"node_selector": {"kubernetes.io/hostname": "nowhere"}}, "node(s) didn't match"),
        ({"gpu": 1}, "Insufficient nvidia.com/gpu"),
    ],
)
def test_what_no_node_can_take_is_said_and_given_up_only_by_the_users_limit(
    new_executor: NewExecutor,
    resources: dict[str, Any],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = new_executor({**resources, "startup_timeout_s": 1}, pending_timeout_s=8)
    future = executor.submit(jobs.square, 1)
    _error(future, RemoteNeverStartedException, "pending_timeout_s = 8 s")
    said = [r.getMessage() for r in caplog.records if words in r.getMessage()]
    assert [message for message in said if "Unschedulable" in message]


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("no-python", "no such Python in the image"),
        ("no-package", "cannot import cluster_tools"),
        ("pause", "could not start"),
    ],
)
def test_a_container_that_cannot_start_says_why(
    new_executor: NewExecutor, tag: str, words: str
) -> None:
    image = f"{kube.IMAGE.rpartition(':')[0]}:{tag}"
    _error(
        new_executor({"image": image}).submit(jobs.square, 1), RemoteNeverStartedException, words
    )


def test_a_run_directory_that_pods_do_not_see_is_named(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    # All that the pod has at this path is an empty directory, as on a node that does not share the
    # disk.
    name = _volume_of(tmp_path)
    volume: dict[str, Any] = {"name": name, "hostPath": None, "emptyDir": {}}
    executor = new_executor({"pod_template": {"spec": {"volumes": [volume]}}})
    _error(
        executor.submit(jobs.square, 1),
        RemoteNeverStartedException,
        "run directory not visible in the pod",
        str(tmp_path),
    )


def _volume_of(directory: Path) -> str:
    """The volume in which pods find the directory."""
    from cluster_tools.schedulers.kubernetes.manifest import job_manifest, parse_resources

    manifest = job_manifest(
        parse_resources(kube.RESOURCES),
        name="x",
        session="x",
        count=1,
        command=[],
        directories=[str(Path.cwd()), str(directory)],
        grace_s=5,
        owner=None,
    )
    mounts = manifest["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    (name,) = [m["name"] for m in mounts if f"{directory}/".startswith(f"{m['mountPath']}/")]
    return name


def test_a_host_path_that_the_node_has_not_is_named_after_the_limit(
    new_executor: NewExecutor,
) -> None:
    executor = new_executor({"mounts": ["/nowhere/data"], "startup_timeout_s": 2})
    future = executor.submit(jobs.square, 1)
    _error(future, RemoteNeverStartedException, "/nowhere/data is not a directory")


def test_a_quota_is_waited_for_and_said(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with kube.new_namespace("cluster-tools-quota") as path:
        monkeypatch.setenv("KUBECONFIG", str(path))
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}
        core = kube.admin().core
        core.create_namespaced_resource_quota("cluster-tools-quota", quota)
        wait_until(
            lambda: core.read_namespaced_resource_quota("q", "cluster-tools-quota").status.hard,
            "the quota",
        )
        executor = new_executor({"namespace": "cluster-tools-quota", "startup_timeout_s": 1})
        future = executor.submit(jobs.square, 4)
        wait_until(lambda: "exceeded quota" in caplog.text, "the warning")
        assert not future.done()
        core.delete_namespaced_resource_quota("q", "cluster-tools-quota")
        assert future.result(LIMIT_S) == 16
        executor.shutdown()


def test_pod_securitys_refusal_is_the_cause_after_the_limit(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    with kube.new_namespace("cluster-tools-secure", labels) as path:
        monkeypatch.setenv("KUBECONFIG", str(path))
        executor = new_executor({"namespace": "cluster-tools-secure", "startup_timeout_s": 2})
        future = executor.submit(jobs.square, 4)
        _error(future, RemoteNeverStartedException, "violates PodSecurity", "hostPath")
        assert "would violate PodSecurity" in caplog.text
        executor.shutdown()


@pytest.mark.parametrize("verb", ["create", "list", "watch"])
def test_what_the_role_lacks_is_named(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    rules = kube.role()["rules"]
    for rule in rules:
        if "jobs" in rule["resources"]:
            rule["verbs"].remove(verb)
    path = kube.become_client(rules=rules, name=f"lacks-{verb}")
    monkeypatch.setenv("KUBECONFIG", str(path))
    future = new_executor().submit(jobs.square, 1)
    _error(future, SubmissionException, f'cannot {verb} resource "jobs"', kube.NAMESPACE, "README")
    path.unlink()


def test_without_the_right_to_look_at_pods_calls_still_end(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rules = [rule for rule in kube.role()["rules"] if "jobs" in rule["resources"]]
    path = kube.become_client(rules=rules, name="blind")
    monkeypatch.setenv("KUBECONFIG", str(path))
    executor = new_executor()
    died = executor.submit(jobs.os_exit)
    assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
    assert isinstance(died.exception(LIMIT_S), cluster_tools.RemoteException)
    assert 'cannot list resource "pods"' in caplog.text
    path.unlink()


@pytest.fixture
def own_token(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A kubeconfig with a token that can be taken back."""
    path = kube.become_client(name="leaver")
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield path
    path.unlink()


def _take_back_token(config: Path) -> None:
    """Returns when the server does not take it any more: it remembers for a while what it has
    taken.
    """
    kube.admin().core.delete_namespaced_service_account("leaver", kube.NAMESPACE)
    api = kubernetes.client.BatchV1Api(kubernetes.config.new_client_from_config(str(config)))

    def is_refused() -> bool:
        try:
            api.list_namespaced_job(kube.NAMESPACE)
        except kubernetes.client.ApiException as error:
            refusal: Any = error
            return refusal.status == 401
        return False

    wait_until(is_refused, "the end of the token")


def test_expired_credentials_are_said_and_results_come_all_the_same(
    new_executor: NewExecutor, own_token: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = new_executor()
    future = executor.submit(jobs.wait_minutes_for, tmp_path / "gate")
    wait_until(future.running, "the call")
    _take_back_token(own_token)
    later = executor.submit(jobs.square, 3)
    wait_until(lambda: "credentials expired" in caplog.text, "the warning")
    (tmp_path / "gate").touch()
    assert future.result(LIMIT_S) == "gate"
    assert not later.done()
    later.cancel()
    kube.admin().batch.delete_namespaced_job(  # which we can't any more
        future.cluster_jobid, kube.NAMESPACE, propagation_policy="Background"
    )


def test_credentials_that_are_renewed_in_the_configuration_are_taken(
    new_executor: NewExecutor, own_token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = new_executor()
    assert executor.submit(jobs.square, 2).result(LIMIT_S) == 4
    _take_back_token(own_token)
    renewed = kube.become_client(name="leaver")
    own_token.write_text(renewed.read_text())
    renewed.unlink()
    assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9


def _wait_until_given_up(future: Any) -> None:
    """By Kubernetes, which takes 25 s to tell the pods of a lost node to end, and more where all
    are slow.
    """
    deadline = time.monotonic() + 240
    while not kube.admin().pod_of(future).metadata.deletion_timestamp:
        assert time.monotonic() < deadline, str(kube.admin().core.list_node())
        time.sleep(1)


@pytest.mark.timeout(480)
def test_a_lost_node_is_said_and_its_call_not_run_again(
    new_executor: NewExecutor, test_cluster: Any, tmp_path: Path
) -> None:
    executor = new_executor({"node_selector": {"kubernetes.io/hostname": "node2"}})
    future = executor.submit(jobs.note_run_and_wait_long, tmp_path / "runs")
    wait_until((tmp_path / "runs").exists, "the call")
    test_cluster.service("node2-kubelet", "stop")
    try:
        _wait_until_given_up(future)
        # After a minute more we do, too.
        with contextlib.suppress(TimeoutError):
            future.exception(150)
        assert future.done(), (kube.admin().pods_of(future), kube.admin().jobs())
        error = future.exception(0)
        assert isinstance(error, RemoteNodeFailureException), error
        assert "node2" in str(error)
        assert "may still be running" in str(error)
        assert len((tmp_path / "runs").read_text().splitlines()) == 1
    finally:
        test_cluster.service("node2-kubelet", "start")


@pytest.mark.timeout(300)
def test_an_api_server_that_is_away_for_a_minute_costs_nothing(
    new_executor: NewExecutor, test_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = new_executor()
    gates = [tmp_path / "gate1", tmp_path / "gate2"]
    first, second = executor.map_to_futures(jobs.wait_minutes_for, gates)
    wait_until(lambda: first.running() and second.running(), "the calls")
    test_cluster.service("control-plane", "stop")
    try:
        wait_until(lambda: "does not answer" in caplog.text, "the warning")
        (tmp_path / "gate1").touch()
        assert first.result(LIMIT_S) == "gate1"
        later = executor.submit(jobs.square, 5)
        with contextlib.suppress(TimeoutError):
            later.exception(60)
        assert not later.done()
        assert not second.done()
    finally:
        test_cluster.service("control-plane", "start")
    assert later.result(90) == 25
    wait_until(lambda: "answers again" in caplog.text, "the good news")
    (tmp_path / "gate2").touch()
    assert second.result(LIMIT_S) == "gate2"


@contextlib.contextmanager
def _limit_range(memory: str) -> Generator[None]:
    """What the namespace gives to containers that ask for nothing."""
    core = kube.admin().core
    limit = {"type": "Container", "default": {"memory": memory}}
    body = {"metadata": {"name": "small"}, "spec": {"limits": [limit]}}
    core.create_namespaced_limit_range(kube.NAMESPACE, body)
    try:
        yield
    finally:
        core.delete_namespaced_limit_range("small", kube.NAMESPACE)


def test_out_of_memory_by_a_limit_of_the_namespace_says_so(new_executor: NewExecutor) -> None:
    with _limit_range("100Mi"):
        future = new_executor().submit(jobs.allocate, 400)
        _error(future, cluster_tools.RemoteOutOfMemoryException, "its limit is 100Mi", "LimitRange")


@pytest.mark.timeout(180)
def test_a_call_that_fills_its_pods_disk_is_told_which_limit(new_executor: NewExecutor) -> None:
    worker = {"name": "worker", "resources": {"limits": {"ephemeral-storage": "10Mi"}}}
    executor = new_executor({"pod_template": {"spec": {"containers": [worker]}}})
    error = executor.submit(_fill_own_disk).exception(3 * LIMIT_S)
    assert isinstance(error, RemoteExitException)
    assert "ephemeral-storage" in str(error)
    assert "10Mi" in str(error)


def _fill_own_disk() -> None:
    with open("/var/tmp/filler", "wb") as file:
        file.write(bytes(100 << 20))
    time.sleep(600)


def test_a_selector_of_nodes_may_be_true(new_executor: NewExecutor) -> None:
    core = kube.admin().core
    name = core.list_node().items[0].metadata.name
    core.patch_node(name, {"metadata": {"labels": {"cluster-tools-gpu": "true"}}})
    try:
        executor = new_executor({"node_selector": {"cluster-tools-gpu": True}})
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    finally:
        core.patch_node(name, {"metadata": {"labels": {"cluster-tools-gpu": None}}})
