"""Promises on why pods have not begun, and on how long that may go on."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cluster_tools.schedulers.kubernetes.pods import INDEX, Pod, read_pod
from cluster_tools.schedulers.kubernetes.waiting import (
    Event,
    StartupTimes,
    Waiting,
    job_waits_for,
    read_events,
    waits_for,
)

NOON = datetime(2025, 6, 1, 12, tzinfo=timezone.utc)
NAME = "call-0-abcde"
IMAGE = "r.example/a:1"
PULL = f'Failed to pull image "{IMAGE}": '
NOT_FOUND = f'failed to resolve reference "{IMAGE}": {IMAGE}: not found'
REFUSED = (
    f'failed to resolve reference "{IMAGE}": dial tcp 1.1.1.1:443: connect: connection refused'
)
HANGING = f'failed to resolve reference "{IMAGE}": failed to do request: context canceled'


def _at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def _pod(status: dict[str, Any], *, node: str = "node-1", written: float | None = None) -> Pod:
    fields = [{"subresource": "status", "time": _at(written or 0)}, {"time": _at(999)}]
    metadata: dict[str, Any] = {
        "name": NAME,
        "uid": "1",
        "creationTimestamp": _at(0),
        "labels": {"job-name": "call"},
        "annotations": {INDEX: "0"},
    }
    if written is not None:
        metadata["managedFields"] = fields
    return read_pod(
        {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}
    )


def _waiting(reason: str, message: str = "", written: float | None = None) -> Pod:
    worker = {
        "name": "worker",
        "image": IMAGE,
        "state": {"waiting": {"reason": reason, "message": message}},
    }
    return _pod({"phase": "Pending", "containerStatuses": [worker]}, written=written)


def _events(*said: tuple[float, str, str]) -> list[Event]:
    """Of the container `worker`: seconds, reason, message."""
    return read_events(
        {
            "reason": reason,
            "message": message,
            "involvedObject": {"name": NAME, "fieldPath": "spec.containers{worker}"},
            "metadata": {"managedFields": [{"time": _at(at)}]},
            "lastTimestamp": _at(at),
        }
        for at, reason, message in said
    ).get(NAME, [])


# -- why --


@pytest.mark.parametrize(
    "reason",
    [
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RegistryUnavailable",
        "RunContainerError",
        "SignatureValidationFailed",
    ],
)
def test_a_pod_that_needs_help_says_so_in_the_servers_words(reason: str) -> None:
    waiting = waits_for(_waiting(reason, "its words"))
    assert waiting is not None
    assert (waiting.reason, waiting.message, waiting.needs_help) == (reason, "its words", True)


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_pod_that_is_being_made_waits_for_nothing(reason: str) -> None:
    assert waits_for(_waiting(reason)) is None


def test_a_pod_without_a_node_waits_for_one() -> None:
    words = "0/3 nodes are available: 3 Insufficient cpu."
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": words,
    }
    pod = _pod({"phase": "Pending", "conditions": [condition]}, node="")
    assert waits_for(pod) == Waiting("Unschedulable", words)
    scheduled = {**condition, "status": "True"}
    assert waits_for(_pod({"phase": "Pending", "conditions": [scheduled]})) is None


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("Running", {"running": {}}),
        ("Failed", {"terminated": {"exitCode": 1}}),
        ("Failed", {"waiting": {"reason": "ErrImagePull"}}),
    ],
)
def test_a_pod_that_runs_or_has_ended_does_not_wait(phase: str, state: dict[str, Any]) -> None:
    pod = _pod({"phase": phase, "containerStatuses": [{"name": "worker", "state": state}]})
    assert waits_for(pod, _events((0, "FailedMount", "no"))) is None


def test_a_pod_whose_init_container_needs_help_says_so_for_its_image() -> None:
    init = {
        "name": "prepare",
        "image": "other:1",
        "state": {"waiting": {"reason": "ErrImagePull", "message": NOT_FOUND}},
    }
    worker = {"name": "worker", "state": {"waiting": {"reason": "PodInitializing"}}}
    pod = _pod({"initContainerStatuses": [init], "containerStatuses": [worker]})
    # An event on the other container says nothing of this one.
    waiting = waits_for(pod, _events((5, "Pulling", "Pulling image")))
    assert waiting is not None
    assert (waiting.reason, waiting.needs_help) == ("ErrImagePull", True)
    assert "other:1" in waiting.advice


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("ErrImagePull", NOT_FOUND, "does not exist"),
        ("ImagePullBackOff", f'Back-off pulling image "{IMAGE}": {NOT_FOUND}', "does not exist"),
        ("ErrImagePull", f"{REFUSED[:30]}: unexpected status: 403 Forbidden", "image_pull_secrets"),
        ("InvalidImageName", "", "lower case"),
        ("ErrImageNeverPull", "", "image_pull_policy"),
    ],
)
def test_what_no_waiting_mends_is_given_up_soon_with_what_to_do(
    reason: str, message: str, words: str
) -> None:
    waiting = waits_for(_waiting(reason, message))
    assert waiting is not None
    assert waiting.patience_s is not None
    assert waiting.patience_s <= 30
    assert IMAGE in waiting.advice
    assert words in waiting.advice


def test_the_registrys_words_are_taken_from_an_event_where_the_state_has_none() -> None:
    state = f'Back-off pulling image "{IMAGE}"'  # before Kubernetes 1.32
    said = _events(
        (0, "Pulling", "Pulling"), (1, "Failed", PULL + NOT_FOUND), (2, "Failed", "Error")
    )
    waiting = waits_for(_waiting("ImagePullBackOff", state), said)
    assert waiting is not None
    assert NOT_FOUND in waiting.message
    assert waiting.patience_s is not None


def test_a_node_that_pulls_others_first_needs_no_help() -> None:
    waiting = waits_for(_waiting("ErrImagePull", "pull QPS exceeded"))
    assert waiting is not None
    assert not waiting.needs_help


# -- what holds no more --


def test_an_image_that_is_pulled_again_has_not_failed() -> None:
    said = _events((10, "Pulling", "Pulling it"), (11, "Failed", PULL + REFUSED))
    pod = _waiting("ImagePullBackOff", REFUSED, written=25)
    failing = waits_for(pod, said)
    assert failing is not None
    assert failing.needs_help
    again = _events((11, "Failed", PULL + REFUSED), (31, "Pulling", "Pulling it"))
    for written in (25, None):  # a server that does not say when the state was written
        pod = _waiting("ImagePullBackOff", REFUSED, written=written)
        assert waits_for(pod, again) == Waiting("Pulling", "Pulling it", notable=False)


def test_a_pull_whose_failure_was_not_told_is_over_when_the_state_was_written_later() -> None:
    # A node that has said much of a pod says no more for a while.
    said = _events((11, "Failed", PULL + REFUSED), (31, "Pulling", "Pulling it"))
    waiting = waits_for(_waiting("ErrImagePull", REFUSED, written=44), said)
    assert waiting is not None
    assert (waiting.reason, waiting.needs_help) == ("ErrImagePull", True)


@pytest.mark.parametrize("reason", ["FailedMount", "FailedAttachVolume"])
def test_a_mount_that_failed_is_the_reason_until_the_node_has_gone_on(reason: str) -> None:
    pod = _waiting("ContainerCreating")
    failed = waits_for(pod, _events((9, reason, "no such directory")))
    assert failed is not None
    assert (failed.reason, failed.message, failed.needs_help) == (reason, "no such directory", True)
    for later in ("Pulling", "FailedCreatePodSandBox"):
        went_on = waits_for(pod, _events((9, reason, "no"), (9, later, "on")))
        assert went_on is None or not went_on.needs_help


def test_a_mount_that_fails_after_a_pull_is_the_reason_again() -> None:
    said = _events((5, "Pulling", "Pulling it"), (9, "FailedMount", "no"))
    waiting = waits_for(_waiting("ContainerCreating"), said)
    assert waiting is not None
    assert waiting.reason == "FailedMount"


def test_the_last_refusal_of_a_jobs_pods_is_the_reason() -> None:
    policy = (
        1,
        "FailedCreate",
        'Error creating: pods "call-0-x7f" is forbidden: violates a policy',
    )
    quota = (2, "FailedCreate", "exceeded quota: q")
    assert job_waits_for(_events()) is None
    by_policy = job_waits_for(_events(policy))
    by_quota = job_waits_for(_events(quota, policy))
    assert by_policy is not None
    assert by_quota is not None
    assert (by_policy.message, by_policy.needs_help) == ("forbidden: violates a policy", True)
    assert not by_quota.needs_help


@pytest.mark.parametrize(
    "times",
    [
        {"lastTimestamp": _at(7), "firstTimestamp": _at(1)},
        {"eventTime": _at(1), "series": {"count": 3, "lastObservedTime": _at(7)}},
        {"eventTime": _at(7), "lastTimestamp": None, "series": None},
        {"metadata": {"creationTimestamp": _at(7)}},
    ],
)
def test_an_event_is_as_old_as_it_was_said_last(times: dict[str, Any]) -> None:
    item = {"reason": "FailedMount", "involvedObject": {"name": NAME}, **times}
    (event,) = read_events([item])[NAME]
    assert event.at == NOON + timedelta(seconds=7)


# -- for how long --


def _needs_help(**more: Any) -> dict[int, Waiting]:
    return {0: Waiting("ErrImagePull", "", needs_help=True, **more)}


def _hopeless(times: StartupTimes, waiting: dict[int, Waiting], now: float) -> str:
    times.take(waiting, now)
    return times.hopeless(0, waiting[0])


def test_time_in_states_that_need_help_is_summed_and_no_other() -> None:
    times = StartupTimes(60)
    pulls = {0: Waiting("Pulling", "", notable=False)}
    assert not _hopeless(times, _needs_help(), 1000)
    assert not _hopeless(times, _needs_help(), 1040)
    for now in (1050, 1100, 1150):  # a long pull, or no node
        assert not _hopeless(times, pulls, now)
    assert not _hopeless(times, _needs_help(), 1200)
    assert times.left_s(0, _needs_help()[0]) == 20
    text = _hopeless(times, _needs_help(advice="do this"), 1220)
    assert text == "for longer than startup_timeout_s = 60 s: do this"


def test_what_nobody_could_see_does_not_count() -> None:
    times = StartupTimes(180)
    assert not _hopeless(times, _needs_help(), 0)
    assert not _hopeless(times, _needs_help(), 3600)  # the client was stopped


def test_a_registry_that_says_no_is_asked_for_30_s_and_one_that_comes_back_is_not_blamed() -> None:
    times = StartupTimes(180)
    no = _needs_help(patience_s=30.0, advice="for an image that is not there")
    assert not _hopeless(times, _needs_help(), 0)
    assert not _hopeless(times, _needs_help(), 50)
    assert not _hopeless(times, no, 60)
    assert not _hopeless(times, no, 80)
    assert _hopeless(times, no, 90) == "for an image that is not there"


def test_a_look_while_the_registry_is_asked_once_more_forgets_no_refusal() -> None:
    times = StartupTimes(180)
    no = _needs_help(patience_s=30.0, advice="for an image that is not there")
    pulls = {0: Waiting("Pulling", "", notable=False)}
    for now, waiting in ((0, no), (20, no), (30, pulls), (40, no)):
        assert not _hopeless(times, waiting, now)
    assert _hopeless(times, no, 50)


def test_a_pull_that_hung_counts_from_its_begin() -> None:
    said = _events((0, "Pulling", "Pulling it"), (300, "Failed", PULL + HANGING))
    waiting = waits_for(_waiting("ErrImagePull", HANGING, written=310), said)
    assert waiting is not None
    assert "startup_timeout_s = 180 s" in _hopeless(StartupTimes(180), {0: waiting}, 1000)


def test_a_mount_that_fails_no_more_is_no_reason_after_a_while() -> None:
    times = StartupTimes(180)
    once = waits_for(_waiting("ContainerCreating"), _events((0, "FailedMount", "no")))
    assert once is not None
    held = [now for now in range(0, 600, 10) if times.take({0: once}, now)]
    assert held == list(range(0, 150, 10))
    assert times.left_s(0, once) > 0
    again = waits_for(_waiting("ContainerCreating"), _events((122, "FailedMount", "no")))
    assert again is not None
    assert times.take({0: again}, 600) == {0: again}
