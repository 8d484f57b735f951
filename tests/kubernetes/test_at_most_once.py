"""Promises on what Kubernetes does to pods: a call runs at most once per submission, and one that
never began goes in again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import (
    RemoteCancelledException,
    RemoteExitException,
    RemotePreemptedException,
)
from support import jobs, kube
from support.clusters import KUBERNETES
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.kubernetes

NewExecutor = Callable[..., Any]


@pytest.fixture
def running(new_executor: NewExecutor, tmp_path: Path) -> Any:
    """The future of a call that notes its runs in `runs` and waits for `gate`."""
    future = new_executor().submit(jobs.note_run_and_wait, tmp_path / "runs", tmp_path / "gate")
    wait_until((tmp_path / "runs").exists, "the call")
    return future


def _runs(directory: Path) -> int:
    return len((directory / "runs").read_text().splitlines())


def test_an_evicted_pods_call_is_preempted_and_does_not_run_again(
    running: Any, tmp_path: Path
) -> None:
    pod = kube.admin().pod_of(running)
    eviction = {"metadata": {"name": pod.metadata.name, "namespace": kube.NAMESPACE}}
    kube.admin().core.create_namespaced_pod_eviction(pod.metadata.name, kube.NAMESPACE, eviction)
    error = running.exception(LIMIT_S)
    assert isinstance(error, RemotePreemptedException)
    assert "evicted" in str(error)
    assert running.cluster_jobid in str(error)
    assert _runs(tmp_path) == 1


@pytest.mark.parametrize("grace_s", [None, 0])
def test_a_deleted_pods_call_is_cancelled_and_does_not_run_again(
    running: Any, tmp_path: Path, grace_s: int | None
) -> None:
    pod = kube.admin().pod_of(running)
    kube.admin().core.delete_namespaced_pod(
        pod.metadata.name, kube.NAMESPACE, grace_period_seconds=grace_s
    )
    error = running.exception(LIMIT_S)
    assert isinstance(error, (RemoteCancelledException, RemotePreemptedException))
    assert "deleted" in str(error) or "gone" in str(error)
    assert _runs(tmp_path) == 1


def test_a_deleted_jobs_calls_are_cancelled(running: Any, tmp_path: Path) -> None:
    kube.admin().batch.delete_namespaced_job(
        running.cluster_jobid, kube.NAMESPACE, propagation_policy="Background"
    )
    error = running.exception(LIMIT_S)
    assert isinstance(error, RemoteCancelledException)
    assert f"The Job {running.cluster_jobid} was deleted by somebody else" in str(error)
    assert _runs(tmp_path) == 1


def _set_suspended(job: str, suspended: bool) -> None:
    kube.admin().batch.patch_namespaced_job(job, kube.NAMESPACE, {"spec": {"suspend": suspended}})


def test_a_call_that_was_suspended_does_not_run_again_when_its_job_is_resumed(
    running: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = running.cluster_jobid
    _set_suspended(job, True)
    wait_until(lambda: not KUBERNETES.elements_of(tmp_path), "the pod's end")
    wait_until(lambda: "Suspended" in caplog.text, "the warning")
    assert not running.done()
    _set_suspended(job, False)
    error = running.exception(LIMIT_S)
    assert isinstance(error, RemotePreemptedException)
    assert _runs(tmp_path) == 1


def test_a_job_that_is_suspended_before_its_calls_begin_runs_them_once_it_is_resumed(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    """As a queue such as Kueue does, which knows its Jobs by a label."""
    queue = {"kueue.x-k8s.io/queue-name": "users"}
    executor = new_executor({"node_selector": {"cluster-tools-tests/free": "yes"}, "labels": queue})
    futures = executor.map_to_futures(jobs.square, [2, 3])
    job = futures[0].cluster_jobid
    labels = kube.admin().batch.read_namespaced_job(job, kube.NAMESPACE).metadata.labels
    assert labels["kueue.x-k8s.io/queue-name"] == "users"
    wait_until(lambda: len(kube.admin().pods_of(futures[0])) == 1, "its pods")
    _set_suspended(job, True)
    wait_until(lambda: not kube.admin().pods_of(futures[0]), "their end")
    with kube.label_of_a_node("cluster-tools-tests/free"):
        _set_suspended(job, False)
        assert [future.result(LIMIT_S) for future in futures] == [4, 9]


def test_a_call_whose_pod_is_deleted_before_it_begins_goes_in_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with KUBERNETES.new_executor(tmp_path, **KUBERNETES.narrow) as executor:
        gate = tmp_path / "gate"
        futures = executor.map_to_futures(
            jobs.touch_and_wait, [(tmp_path / f"started{i}", gate) for i in range(2)]
        )
        wait_until(lambda: list(tmp_path.glob("started*")), "one of them")
        (waiting,) = [f for i, f in enumerate(futures) if not (tmp_path / f"started{i}").exists()]
        pod = kube.admin().pod_of(waiting)
        kube.admin().core.delete_namespaced_pod(pod.metadata.name, kube.NAMESPACE)
        wait_until(lambda: pod.metadata.uid not in _uids(waiting), "its end")
        gate.touch()
        assert [future.result(LIMIT_S) for future in futures] == ["started0", "started1"]


def _uids(future: Any) -> set[str]:
    return {pod.metadata.uid for pod in kube.admin().pods_of(future)}


def test_a_call_that_nodes_turn_away_goes_in_again_three_times(
    new_executor: NewExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (node, *_) = kube.admin().core.list_node().items
    # A node that is named by hand gets a pod that it has no room for.
    executor = new_executor(
        {"cpu": 4000, "pod_template": {"spec": {"nodeName": node.metadata.name}}}
    )
    error = executor.submit(jobs.touch, tmp_path / "ran").exception(LIMIT_S)
    assert isinstance(error, RemotePreemptedException)
    assert "OutOfcpu" in str(error)
    assert caplog.text.count("goes in again") == 3
    assert not (tmp_path / "ran").exists()


def test_a_failing_init_container_is_named_after_three_more_tries(
    new_executor: NewExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    init = {"name": "fetch", "image": kube.IMAGE, "command": ["sh", "-c", "exit 7"]}
    executor = new_executor({"pod_template": {"spec": {"initContainers": [init]}}})
    error = executor.submit(jobs.square, 2).exception(LIMIT_S)
    assert "fetch ended with exit code 7" in str(error)
    assert caplog.text.count("goes in again") == 3


def test_an_element_that_dies_early_again_and_again_is_given_up(new_executor: NewExecutor) -> None:
    executor = new_executor({"parallelism": 2})
    futures = executor.map_to_futures(jobs.os_exit_at_two, [1, 2, 3])
    assert isinstance(futures[1].exception(LIMIT_S), RemoteExitException)
    assert "exit code" in str(futures[1].exception())
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == [1, 3]
