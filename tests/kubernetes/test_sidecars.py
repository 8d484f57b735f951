"""Promises on containers beside the call's own: they hide no end, and hold no place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.errors import (
    RemoteExitException,
    RemoteNeverStartedException,
    RemoteOutOfMemoryException,
)
from support import jobs, kube
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.kubernetes

NewExecutor = Callable[..., Any]


def _beside(**more: Any) -> dict[str, Any]:
    container = {
        "name": "mesh",
        "image": kube.IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"],
        **more,
    }
    return {"pod_template": {"spec": {"containers": [container]}}, "memory": "200Mi"}


_NO_SECRET = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "none", "key": "none"}}}
# How a sidecar is that holds its pod, and what is said of it.
_SIDECARS = [
    pytest.param(_beside(), "'mesh' goes on", id="stays"),
    pytest.param(
        _beside(image="localhost/cluster-tools-tests:none"),
        "'mesh' does not begin (",
        id="no-image",
    ),
    pytest.param(_beside(env=[_NO_SECRET]), "'mesh' does not begin (CreateC", id="no-secret"),
]


def _check_ends(futures: list[Any]) -> None:
    right, failed, exited, killed, full, last = futures
    assert right.result(3 * LIMIT_S) == 4
    assert isinstance(failed.exception(3 * LIMIT_S), ZeroDivisionError)
    error = exited.exception(3 * LIMIT_S)
    assert isinstance(error, RemoteExitException)
    assert "exit code 3" in str(error)
    assert isinstance(killed.exception(3 * LIMIT_S), RemoteExitException)
    assert isinstance(full.exception(3 * LIMIT_S), RemoteOutOfMemoryException)
    assert last.result(3 * LIMIT_S) == 25


_STEPS = [
    partial(jobs.square, 2),
    partial(jobs.reciprocal, 0),
    jobs.os_exit,
    jobs.kill_itself,
    partial(jobs.allocate, 400),
    partial(jobs.square, 5),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("sidecar", "words"), _SIDECARS)
def test_a_sidecar_hides_no_end_and_holds_no_place(
    new_executor: NewExecutor,
    caplog: pytest.LogCaptureFixture,
    sidecar: dict[str, Any],
    words: str,
) -> None:
    """Two pods run at a time, so the last begins only if those before it have gone."""
    with (
        caplog.at_level(logging.WARNING),
        new_executor({**sidecar, "parallelism": 2}) as executor,
    ):
        _check_ends(executor.map_to_futures(jobs.run, _STEPS))
    told = [record for record in caplog.records if words in record.getMessage()]
    assert len(told) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "sidecar", [pytest.param(param.values[0], id=param.id) for param in _SIDECARS]
)
def test_a_sidecar_hides_no_end_of_a_pilot(
    new_executor: NewExecutor, sidecar: dict[str, Any]
) -> None:
    with new_executor(sidecar, pilot_jobs=1) as executor:
        _check_ends(executor.map_to_futures(jobs.run, _STEPS))


@pytest.mark.timeout(180)
def test_that_pods_with_sidecars_may_not_be_deleted_is_said_once(
    new_executor: NewExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """No end is hidden then, but the last call has to wait."""
    rules = kube.role()["rules"]
    for rule in rules:
        if "pods" in rule["resources"]:
            rule["verbs"].remove("deletecollection")
    config = kube.become_client(rules=rules, name="may-delete-no-pods")
    monkeypatch.setenv("KUBECONFIG", str(config))
    executor = new_executor({**_beside(), "parallelism": 2})
    with caplog.at_level(logging.WARNING):
        futures = executor.map_to_futures(jobs.run, [*_STEPS[2:4], *_STEPS[:1]])
        for future in futures[:2]:
            assert isinstance(future.exception(3 * LIMIT_S), RemoteExitException)
        wait_until(lambda: "they stay" in caplog.text, "it to be said")
    assert not futures[2].done()
    told = [record for record in caplog.records if "they stay" in record.getMessage()]
    assert len(told) == 1
    assert "cannot deletecollection" in told[0].getMessage()
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: not kube.jobs_in(tmp_path), "the end of the Job")
    config.unlink()


# -- containers that keep the call from beginning --


def _before(*, stays: bool, command: str, **more: Any) -> dict[str, Any]:
    container = {
        "name": "prepare",
        "image": kube.IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "command": ["/bin/sh", "-c", command],
        **({"restartPolicy": "Always"} if stays else {}),
        **more,
    }
    return {"pod_template": {"spec": {"initContainers": [container]}}, "startup_timeout_s": 15}


_PROBE = {"startupProbe": {"exec": {"command": ["false"]}, "failureThreshold": 1000}}


@pytest.mark.timeout(240)
def test_what_keeps_a_pod_from_beginning_is_named_and_ends_it(new_executor: NewExecutor) -> None:
    """All cases run at the same time, as each takes long."""
    # Without a probe, one that is seen in its short life has begun, and the call begins too.
    crashes = _before(stays=True, command="echo no license; exit 7", **_PROBE)
    never_ready = _before(stays=True, command="sleep 3600", **_PROBE)
    never_ends = _before(stays=False, command="sleep 3600")
    futures = [
        new_executor(resources).submit(jobs.square, 3)
        for resources in (crashes, never_ready, never_ends)
    ]
    texts: list[str] = []
    for future in futures:
        error = future.exception(4 * LIMIT_S)
        assert isinstance(error, RemoteNeverStartedException)
        texts.append(str(error))
        assert "prepare" in texts[-1]
        assert "startup_timeout_s = 15 s" in texts[-1]
        assert "Its log is" not in texts[-1]
    assert "exit code 7" in texts[0]
    assert "no license" in texts[0]
    assert "startup probe" in texts[1]
    assert "has not ended" in texts[2]


def test_a_start_that_fails_is_in_the_pods_words(new_executor: NewExecutor) -> None:
    """No log was made, so the error names none."""
    worker = {"name": "worker", "env": [{"name": "LONG", "value": "x" * 200_000}]}
    executor = new_executor({"pod_template": {"spec": {"containers": [worker]}}})
    error = executor.submit(jobs.square, 3).exception(3 * LIMIT_S)
    assert isinstance(error, RemoteNeverStartedException)
    assert "argument list too long" in str(error)
    assert "Its log is" not in str(error)


def test_a_directory_that_is_read_only_is_in_the_pods_words(
    new_executor: NewExecutor, tmp_path: Path
) -> None:
    mount = {"name": "fixed", "mountPath": str(tmp_path), "readOnly": True}
    worker = {"name": "worker", "volumeMounts": [mount]}
    volume = {"name": "fixed", "hostPath": {"path": str(tmp_path), "type": "Directory"}}
    template = {"spec": {"containers": [worker], "volumes": [volume]}}
    error = new_executor({"pod_template": template}).submit(jobs.square, 3).exception(3 * LIMIT_S)
    assert error is not None
    assert "Read-only file system" in str(error)
    assert "Its log is" not in str(error)
