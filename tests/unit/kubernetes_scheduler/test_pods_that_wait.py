"""Promises on pods that do not begin: what they wait for, and when they are given up."""

from __future__ import annotations

from typing import Any

import pytest
from fake_api_server import JOB, OURS, FakeApiServer, pod, running, waiting_for
from observing import Make, RequestOf, state_of

from cluster_tools.schedulers.base import Element, Report, State
from cluster_tools.schedulers.kubernetes.scheduler import KubernetesScheduler
from support.waiting import wait_until


def test_what_pods_wait_for_is_said_and_given_up_after_its_time(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of())
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available",
    }
    server.pods = [
        pod(0, status={"phase": "Pending", "conditions": [unschedulable]}),
        pod(1, status=waiting_for("ImagePullBackOff", "no such image")),
        pod(2, status=waiting_for("ContainerCreating", "")),
    ]
    mounting = {
        "reason": "FailedMount",
        "involvedObject": {"name": f"{JOB}-2-x"},
        "message": "hostPath type check failed: /work is not a directory",
    }
    server.events = [mounting]
    server.set_status(active=3, ready=0)
    first: dict[Element, Report] = {}
    latest: dict[Element, Report] = {}

    def is_given_up() -> bool:
        for element, report in scheduler.states(OURS).items():
            if element.index is not None:
                first.setdefault(element, report)
                latest[element] = report
        return sum(bool(report.hopeless) for report in latest.values()) == 2

    wait_until(is_given_up, "startup_timeout_s to pass")
    said = {element.index: (report.reason, report.details) for element, report in first.items()}
    assert said == {
        0: ("Unschedulable", "0/3 nodes are available"),
        1: ("ImagePullBackOff", "no such image"),
        2: ("FailedMount", mounting["message"]),
    }
    for report in first.values():
        assert (report.state, report.notable, report.hopeless) == (State.PENDING, True, "")
    assert not latest[Element(JOB, 0)].hopeless
    assert "startup_timeout_s = 1 s" in latest[Element(JOB, 1)].hopeless


def _given_up(scheduler: KubernetesScheduler, element: Element) -> str:
    report = state_of(scheduler, element)
    return "" if report is None else report.hopeless


def test_elements_without_a_pod_are_given_up_with_those_whose_image_is_refused(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [pod(0, status=waiting_for("InvalidImageName", "bad"))]
    server.set_status(active=1, ready=0)
    wait_until(lambda: _given_up(scheduler, Element(JOB, 2)), "the end of an element without a pod")
    assert _given_up(scheduler, Element(JOB, 0))


def test_elements_without_a_pod_are_given_up_with_the_last_that_could_begin(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of())
    server.pods = [
        pod(0, status=waiting_for("ErrImagePull", "connection refused")),
        pod(1, status=waiting_for("ContainerCreating", "")),
    ]
    server.set_status(active=2, ready=0)
    wait_until(lambda: _given_up(scheduler, Element(JOB, 0)), "the end of the first")
    assert not scheduler.states(OURS)[Element(JOB)].hopeless
    server.pods[1] = pod(1, status=waiting_for("CreateContainerConfigError", "no secret"))
    wait_until(lambda: _given_up(scheduler, Element(JOB, 2)), "the end of one without a pod")


@pytest.mark.parametrize("seen", ["running", "succeeded"])
def test_elements_without_a_pod_are_not_given_up_where_another_got_the_image(
    server: FakeApiServer, make: Make, request_of: RequestOf, seen: str
) -> None:
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of())
    server.pods = [
        pod(0, status=waiting_for("ErrImageNeverPull", "not here")),
        *([pod(1, status=running())] if seen == "running" else []),
    ]
    others: dict[str, Any] = {"running": {"active": 2}, "succeeded": {"active": 1, "succeeded": 1}}
    server.set_status(ready=0, **others[seen])
    found: dict[Element, Report] = {}

    def is_given_up() -> bool:
        found.update(scheduler.states(OURS))
        return Element(JOB, 0) in found and bool(found[Element(JOB, 0)].hopeless)

    wait_until(is_given_up, "the end of the element whose node lacks the image")
    assert not found[Element(JOB)].hopeless


def test_a_server_that_counts_no_ready_pods_is_asked_why_they_wait(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [pod(0, status=waiting_for("InvalidImageName", "bad"))]
    server.set_status(active=3)  # before 1.24
    wait_until(lambda: _given_up(scheduler, Element(JOB, 0)), "the look at pods")


def test_what_is_pulled_is_asked_for_only_where_pods_have_not_begun(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.events = [{"reason": "FailedCreate", "involvedObject": {"name": JOB}, "message": "no"}]
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].notable)
    selectors = [seen.query["fieldSelector"] for seen in server.seen("list", "/events")]
    assert set(selectors) == {"type=Warning"}


def test_a_job_that_may_make_no_pod_says_so(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    words = 'pods is forbidden: violates PodSecurity "restricted"'
    server.events = [
        {"reason": "FailedCreate", "involvedObject": {"name": JOB}, "message": words},
        {"reason": "FailedCreate", "involvedObject": {"name": "another"}, "message": "other"},
    ]
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].notable)
    report = scheduler.states(OURS)[Element(JOB)]
    assert (report.state, report.reason, report.details) == (State.PENDING, "FailedCreate", words)
