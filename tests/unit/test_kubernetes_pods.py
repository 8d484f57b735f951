"""Promises on what is said of pods, from objects as an API server sends them."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_tools.format.exit_codes import EXIT_NO_ARRAY, EXIT_NO_PACKAGE, EXIT_REFUSED
from cluster_tools.schedulers.base import Cause
from cluster_tools.schedulers.kubernetes.manifest import Resources
from cluster_tools.schedulers.kubernetes.pods import (
    INDEX,
    Pod,
    ending,
    index_of,
    job_of,
    pod_that_explains,
    read_pod,
)

RESOURCES = Resources("image", time_limit_s=60, limits={"memory": "2Gi"})
DELETED = {"deletionTimestamp": "2025-06-01T12:00:10Z", "deletionGracePeriodSeconds": 5}


def _object(
    status: dict[str, Any], name: str = "call-0-abcde", node: str | None = "node-1", **metadata: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "creationTimestamp": "2025-06-01T12:00:00Z",
            "labels": {"job-name": "call"},
            "annotations": {INDEX: "3"},
            **metadata,
        },
        "spec": {} if node is None else {"nodeName": node},
        "status": status,
    }


def _pod(status: dict[str, Any], **metadata: Any) -> Pod:
    return read_pod(_object(status, **metadata))


def _state(kind: str, **state: Any) -> list[dict[str, Any]]:
    """Of the container `worker`, which others stand around."""
    return [
        {"name": "proxy", "state": {"running": {}}},
        {"name": "worker", "ready": False, "restartCount": 0, "state": {kind: state}},
        {"name": "side", "state": {"terminated": {"exitCode": 99, "reason": "OOMKilled"}}},
    ]


def _terminated(code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    state: dict[str, Any] = {"exitCode": code, "reason": reason}
    if message is not None:
        state["message"] = message
    return {"phase": "Failed", "containerStatuses": _state("terminated", **state)}


def _disrupted(why: str, words: str = "", **status: Any) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": why, "message": words}
    ready = {"type": "Ready", "status": "False"}
    return {**_terminated(143), "conditions": [ready, condition], **status}


# -- what an object says --


def test_a_pod_names_its_job_and_index() -> None:
    assert job_of(_object({})) == "call"
    assert index_of(_object({})) == 3
    assert index_of(_object({}, annotations={})) is None
    assert index_of(_object({}, annotations=None)) is None
    assert index_of(_object({}, annotations={INDEX: "x"})) is None


def test_a_pod_that_was_just_made_has_no_status() -> None:
    pod = _pod({}, node=None)
    assert (pod.phase, pod.node, pod.state) == ("", "", {})
    assert (pod.began, pod.has_ended, pod.is_ending) == (False, False, False)
    for empty in ("conditions", "containerStatuses", "initContainerStatuses"):
        assert not _pod({empty: None}).has_ended
    without = {**_object({}), "status": None}
    assert not read_pod(without).has_ended


@pytest.mark.parametrize(
    ("status", "began", "ended"),
    [
        ({"phase": "Pending"}, False, False),
        ({"phase": "Running", "containerStatuses": _state("running")}, True, False),
        (_terminated(1), True, True),
        ({**_terminated(0), "phase": "Running"}, True, True),  # another container runs on
        ({"phase": "Failed"}, False, True),
        ({"phase": "Succeeded"}, False, True),
        ({"phase": "Unknown", "containerStatuses": _state("running")}, True, False),
    ],
)
def test_whether_a_pod_has_begun_and_ended(
    status: dict[str, Any], began: bool, ended: bool
) -> None:
    assert (_pod(status).began, _pod(status).has_ended) == (began, ended)
    assert _pod(status, **DELETED).is_ending is not ended
    assert not _pod(status).is_ending


@pytest.mark.parametrize(
    ("phase", "mesh", "outlives", "blocked"),
    [
        ("Running", {"running": {}}, True, None),
        ("Pending", {"waiting": {"reason": "ErrImagePull"}}, True, "ErrImagePull"),
        (
            "Pending",
            {"waiting": {"reason": "CreateContainerConfigError"}},
            True,
            "CreateContainerConfigError",
        ),
        ("Pending", {"waiting": {"reason": "ContainerCreating"}}, True, None),
        ("Running", {"terminated": {"exitCode": 1}}, False, None),
        ("Failed", {"waiting": {"reason": "ErrImagePull"}}, False, "ErrImagePull"),
        ("Running", {}, False, None),
    ],
)
def test_what_stays_beside_a_call_that_has_ended(
    phase: str, mesh: dict[str, Any], outlives: bool, blocked: str | None
) -> None:
    worker = {"name": "worker", "state": {"terminated": {"exitCode": 3}}}
    pod = _pod({"phase": phase, "containerStatuses": [worker, {"name": "mesh", "state": mesh}]})
    assert pod.outlives_worker is outlives
    assert (pod.blocked_beside and pod.blocked_beside.reason) == blocked
    assert pod.blocked is None
    running: dict[str, Any] = {"name": "worker", "state": {"running": {}}}
    pod = _pod({"phase": phase, "containerStatuses": [running, {"name": "mesh", "state": mesh}]})
    assert not pod.outlives_worker


def test_the_time_of_a_deletion_is_that_of_the_server() -> None:
    deleted_at = _pod({}, **DELETED).deleted_at
    assert deleted_at is not None
    assert deleted_at.isoformat() == "2025-06-01T12:00:10+00:00"


# -- endings --


@pytest.mark.parametrize(
    ("status", "cause", "words"),
    [
        # -- time and memory --
        (
            {
                **_terminated(143),
                "reason": "DeadlineExceeded",
                "message": "Pod was active on the node longer than the specified deadline",
            },
            Cause.TIME_LIMIT,
            ["call-0-abcde", "60 s", "node-1"],
        ),
        (_terminated(137, "OOMKilled"), Cause.OUT_OF_MEMORY, ["asked for 2Gi", "node-1"]),
        # -- disruptions --
        (
            _disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate"),
            Cause.PREEMPTED,
            ["higher priority", "preempting to accommodate"],
        ),
        (
            _disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
            Cause.NODE_FAILURE,
            ["does not answer"],
        ),
        (
            _disrupted("EvictionByEvictionAPI", "Eviction API: evicting"),
            Cause.PREEMPTED,
            ["drained"],
        ),
        (
            _disrupted("DeletionByPodGC", "PodGC: node no longer exists"),
            Cause.NODE_FAILURE,
            ["is gone", "no longer exists"],
        ),
        (
            _disrupted(
                "TerminationByKubelet",
                "The node was low on resource: memory.",
                reason="Evicted",
                message="The node was low on resource: memory. Threshold quantity: 100Mi",
            ),
            Cause.PREEMPTED,
            ["short of", "low on resource: memory", "Threshold"],
        ),
        (_disrupted("SomethingNew"), Cause.PREEMPTED, ["SomethingNew"]),
        # -- nodes --
        (
            {"phase": "Failed", "reason": "NodeShutdown", "message": "Pod was rejected"},
            Cause.NODE_FAILURE,
            ["lost", "Pod was rejected"],
        ),
        ({"phase": "Failed", "reason": "NodeLost"}, Cause.NODE_FAILURE, ["NodeLost"]),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "Pod ephemeral storage exceeds"},
            Cause.PREEMPTED,
            ["turned away", "Evicted", "ephemeral storage"],
        ),
        (
            {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough"},
            Cause.PREEMPTED,
            ["OutOfcpu", "Node didn't have enough"],
        ),
        (
            {"phase": "Failed", "reason": "UnexpectedAdmissionError"},
            Cause.PREEMPTED,
            ["UnexpectedAdmissionError"],
        ),
        ({"phase": "Failed", "reason": "NodeAffinity"}, Cause.PREEMPTED, ["NodeAffinity"]),
        # -- beginnings --
        (
            {
                "phase": "Failed",
                "containerStatuses": _state("waiting", reason="PodInitializing"),
                "initContainerStatuses": [
                    {"name": "first", "state": {"terminated": {"exitCode": 0}}},
                    {
                        "name": "prepare",
                        "state": {"terminated": {"exitCode": 3, "message": "no disk"}},
                    },
                ],
            },
            Cause.NEVER_STARTED,
            ["init container", "prepare ended with exit code 3 no disk"],
        ),
        (
            _terminated(128, "StartError", 'exec: "/bin/sh": stat /bin/sh: no such file'),
            Cause.NEVER_STARTED,
            ["could not start", "stat /bin/sh: no such file"],
        ),
        (
            _terminated(127, "ContainerCannotRun"),
            Cause.NEVER_STARTED,
            ["could not start", "ContainerCannotRun"],
        ),
        (
            _terminated(127, message="sh: 1: exec: python: not found"),
            Cause.NEVER_STARTED,
            ["no such Python", "127", "python_executable"],
        ),
        (_terminated(126), Cause.NEVER_STARTED, ["126", "python_executable"]),
        # -- the process --
        (_terminated(1), Cause.EXIT, ["exit code 1", "node-1"]),
        (_terminated(137), Cause.EXIT, ["signal 9", "Killed"]),
        (_terminated(139), Cause.EXIT, ["signal 11", "Segmentation fault"]),
        (_terminated(128 + 64), Cause.EXIT, ["signal 64"]),
        ({"phase": "Failed"}, Cause.LOST, ["does not say how"]),
        ({}, Cause.LOST, ["does not say how"]),
    ],
)
def test_a_pod_says_why_it_has_ended(
    status: dict[str, Any], cause: Cause, words: list[str]
) -> None:
    said = ending(_pod(status), RESOURCES)
    assert said.cause is cause
    for word in words:
        assert word in said.message


@pytest.mark.parametrize("code", [193, 200, 254, 255])
def test_an_exit_code_that_is_no_signal_is_an_exit_code(code: int) -> None:
    """As that of `sys.exit(-1)`."""
    said = ending(_pod(_terminated(code)), RESOURCES)
    assert said.cause is Cause.EXIT
    assert str(code) in said.message


@pytest.mark.parametrize("code", [1, 3, 77])
def test_an_exit_code_is_told_apart_from_words(code: int) -> None:
    assert ending(_pod(_terminated(code)), RESOURCES).exit_code == code
    assert ending(_pod(_terminated(137)), RESOURCES).exit_code is None


@pytest.mark.parametrize("code", [EXIT_NO_PACKAGE, EXIT_REFUSED, EXIT_NO_ARRAY])
def test_the_last_of_the_workers_own_words_is_the_message(code: int) -> None:
    words = "Traceback\ncluster_tools: early\ncluster_tools: the image needs it\nbye\n"
    said = ending(_pod(_terminated(code, message=words)), RESOURCES)
    assert (said.cause, said.message, said.exit_code) == (Cause.EXIT, "the image needs it", code)


def test_other_exit_codes_do_not_speak_for_the_worker() -> None:
    said = ending(_pod(_terminated(1, message="cluster_tools: I was printed")), RESOURCES)
    assert "exit code 1" in said.message


def test_a_child_that_ran_out_of_memory_is_not_the_end_of_its_pod() -> None:
    status = {**_terminated(0, "OOMKilled"), "phase": "Succeeded"}
    assert ending(_pod(status), RESOURCES).cause is not Cause.OUT_OF_MEMORY


def test_without_a_limit_the_nodes_memory_was_not_enough() -> None:
    said = ending(_pod(_terminated(137, "OOMKilled")), Resources("image"))
    assert said.cause is Cause.OUT_OF_MEMORY
    assert "the node has no more" in said.message
    assert "memory" in said.advice


def test_a_pod_that_somebody_deleted_was_cancelled_and_may_go_in_again() -> None:
    said = ending(_pod(_terminated(143), **DELETED), RESOURCES)
    assert (said.cause, said.may_go_in_again) == (Cause.CANCELLED, True)
    assert "somebody else" in said.message


def test_a_shutdown_of_the_node_is_a_node_failure() -> None:
    """A kubelet marks these pods with the condition of an eviction, too."""
    words = "Pod was terminated in response to imminent node shutdown."
    status = _disrupted("TerminationByKubelet", words, reason="Terminated", message=words)
    said = ending(_pod(status), RESOURCES)
    assert said.cause is Cause.NODE_FAILURE
    assert "imminent node shutdown" in said.message


def test_a_disruption_that_did_not_come_is_no_cause() -> None:
    status = _disrupted("PreemptionByScheduler")
    for condition in status["conditions"]:
        condition["status"] = "False"
    assert "signal 15" in ending(_pod(status), RESOURCES).message


@pytest.mark.parametrize(
    ("status", "may"),
    [
        ({"phase": "Failed", "reason": "OutOfmemory"}, True),
        ({"phase": "Failed", "reason": "Evicted"}, True),
        (_terminated(1), False),
        (_terminated(137, "OOMKilled"), False),
        (_terminated(127), False),
    ],
)
def test_only_what_was_not_the_elements_doing_may_go_in_again(
    status: dict[str, Any], may: bool
) -> None:
    assert ending(_pod(status), RESOURCES).may_go_in_again is may


def test_without_a_node_no_node_is_named() -> None:
    assert "on node" not in ending(_pod(_terminated(1), node=None), RESOURCES).message


# -- several pods of one element --


def _at(second: int, status: dict[str, Any]) -> Pod:
    return _pod(status, name=f"pod-{second}", creationTimestamp=f"2025-06-01T12:00:{second:02}Z")


def test_the_first_pod_that_began_is_to_blame() -> None:
    first, second = _at(1, _terminated(137)), _at(2, _terminated(1))
    assert pod_that_explains([second, first]) is first


def test_a_pod_that_never_began_is_to_blame_only_where_none_did() -> None:
    refused = _at(1, {"phase": "Failed", "reason": "OutOfcpu"})
    later = _at(2, {"phase": "Failed", "reason": "Evicted"})
    ran = _at(3, _terminated(1))
    assert pod_that_explains([refused, later, ran]) is ran
    assert pod_that_explains([later, refused]) is refused


def test_a_pod_that_ended_well_is_not_to_blame() -> None:
    good = _at(1, {**_terminated(0, "Completed"), "phase": "Succeeded"})
    bad = _at(2, _terminated(1))
    assert pod_that_explains([good, bad]) is bad
    assert pod_that_explains([good]) is None
    assert pod_that_explains([]) is None


def test_a_pod_whose_container_ended_well_is_not_to_blame_before_its_phase_says_so() -> None:
    good = _at(1, {**_terminated(0, "Completed"), "phase": "Running"})
    assert pod_that_explains([good]) is None
