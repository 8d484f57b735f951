"""Promises on servers from before Kubernetes 1.29, which know no limit per index and replace each
pod that fails.

They hold on newer ones too; `EMULATE=1.32 tests/kubernetes/cluster/up` brings up an older one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from cluster_tools.errors import RemoteExitException, RemoteNeverStartedException
from support import jobs, kube
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.kubernetes

_MOST_PODS = 4  # of an element that never begins


@pytest.mark.usefixtures("test_cluster")
def test_the_server_is_as_old_as_it_was_asked_to_be() -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": kube.IMAGE}]}
    spec = {"completionMode": "Indexed", "completions": 1, "backoffLimitPerIndex": 0}
    job = {"metadata": {"name": "age"}, "spec": {**spec, "template": {"spec": pod}}}
    made = kube.admin().batch.create_namespaced_job(kube.NAMESPACE, job, dry_run="All")
    assert (made.spec.backoff_limit_per_index is None) == ("EMULATE" in os.environ)


def test_an_element_that_never_begins_is_given_up_after_few_pods_and_no_other_with_it(
    new_executor: Callable[..., Any],
) -> None:
    lines = ['test "$JOB_COMPLETION_INDEX" != 1']
    futures = new_executor(additional_setup_lines=lines).map_to_futures(jobs.square, [2, 3, 4])
    seen: set[str] = set()

    def is_given_up() -> bool:
        seen.update(pod.metadata.uid for pod in kube.admin().pods_of(futures[1]))
        return futures[1].done()

    wait_until(is_given_up, "its end")
    error = futures[1].exception(LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    assert "a set-up line failed" in str(error)
    assert [futures[0].result(LIMIT_S), futures[2].result(LIMIT_S)] == [4, 16]
    assert 1 <= len(seen) <= _MOST_PODS


@pytest.mark.timeout(180)
def test_a_sidecar_that_stays_hides_no_end_and_is_said(
    new_executor: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that replaces pods would begin the call's index anew for each that is deleted."""
    mesh = {
        "name": "mesh",
        "image": kube.IMAGE,
        "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"],
    }
    executor = new_executor({"pod_template": {"spec": {"containers": [mesh]}}})
    error = executor.submit(jobs.kill_itself).exception(3 * LIMIT_S)
    assert isinstance(error, RemoteExitException)
    assert ("they stay" if "EMULATE" in os.environ else "they are deleted") in caplog.text
