"""Promises on why elements have ended, and on which have."""

from __future__ import annotations

import pytest
from fake_api_server import JOB, OURS, FakeApiServer, failed, pod
from observing import Make, RequestOf, looks_at_pods, state_of, wait_for_state

from cluster_tools.schedulers.base import Cause, Element, State
from support.waiting import wait_until


def test_why_an_element_ended_is_what_its_pod_says(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [pod(0, status=failed(3)), pod(1, status=failed(137))]
    elements = {Element(JOB, 0): None, Element(JOB, 1): None}
    endings = scheduler.explain(elements, OURS)
    assert endings[Element(JOB, 0)].exit_code == 3
    assert "signal 9" in endings[Element(JOB, 1)].message
    assert looks_at_pods(server) == 1


def test_why_elements_ended_is_said_even_where_the_server_is_gone(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.refuse_connections()
    elements = {Element(JOB, 0): None, Element("another"): None}
    endings = scheduler.explain(elements, OURS)
    assert set(endings) == set(elements)
    assert endings[Element("another")].cause is Cause.LOST


@pytest.mark.parametrize("is_leased", [True, False])
def test_a_job_that_failed_as_a_whole_ends_all_its_elements(
    server: FakeApiServer, make: Make, request_of: RequestOf, is_leased: bool
) -> None:
    scheduler = make(client_lease_s=900 if is_leased else None)
    scheduler.submit(request_of())
    condition = {
        "type": "FailureTarget",
        "status": "True",
        "reason": "DeadlineExceeded",
        "message": "Job was active longer than specified deadline",
    }
    server.set_status(conditions=[condition])
    report = wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    assert report.word == "DeadlineExceeded"
    ended = scheduler.explain({Element(JOB, 1): report}, OURS)[Element(JOB, 1)]
    assert ended.cause is Cause.CANCELLED
    words = "client_lease_s = 900" if is_leased else "active longer than specified deadline"
    assert words in ended.message


def test_failed_indexes_do_not_end_the_others(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    condition = {"type": "Failed", "status": "True", "reason": "FailedIndexes", "message": ""}
    server.set_status(active=1, ready=1, failed=1, failedIndexes="0", conditions=[condition])
    wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    report = state_of(scheduler, Element(JOB, 1))
    assert report is not None
    assert report.state is State.RUNNING


def test_an_index_that_a_second_pod_completed_was_preempted(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.set_status(succeeded=1, completedIndexes="0")
    report = wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    ended = scheduler.explain({Element(JOB, 0): report}, OURS)[Element(JOB, 0)]
    assert ended.cause is Cause.PREEMPTED
    assert not ended.may_go_in_again


def test_a_server_without_limits_per_index_replaces_pods_until_three_have_failed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.drops_new_fields = True
    scheduler = make()
    scheduler.submit(request_of())
    for count in (1, 2, 3):
        server.pods = [pod(0, f"pod-{number}", failed(1)) for number in range(count)]
        server.set_status(active=3, ready=2, failed=count)
        looks = looks_at_pods(server)
        wait_until(lambda looks=looks: scheduler.states(OURS) and looks_at_pods(server) > looks)
        report = state_of(scheduler, Element(JOB, 0))
        assert report is not None
        assert (report.state is State.ENDED) is (count == 3)
    report = state_of(scheduler, Element(JOB, 1))
    assert report is not None
    assert report.state is State.RUNNING


def test_pods_that_a_server_replaces_are_preempted_if_they_were_last_seen_before_they_began(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.drops_new_fields = True
    scheduler = make()
    scheduler.submit(request_of())
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    evicted = {"phase": "Failed", "conditions": [condition]}
    server.pods = [pod(0, f"pod-{number}", evicted) for number in range(3)]
    server.set_status(active=3, ready=2, failed=3)
    report = wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    ended = scheduler.explain({Element(JOB, 0): report}, OURS)[Element(JOB, 0)]
    assert ended.cause is Cause.PREEMPTED
    assert not ended.may_go_in_again


def test_a_failed_pod_ends_nothing_by_itself_where_the_server_knows_indexes(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [pod(0, f"pod-{number}", failed(1)) for number in range(3)]
    server.set_status(active=3, ready=2, failed=3)
    wait_until(lambda: scheduler.states(OURS) and looks_at_pods(server))
    report = state_of(scheduler, Element(JOB, 0))
    assert report is not None
    assert report.state is not State.ENDED
