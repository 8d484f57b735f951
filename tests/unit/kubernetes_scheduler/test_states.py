"""Promises on the states of elements, also of those beside whose calls other containers run."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fake_api_server import JOB, OURS, PODS, TOKEN, FakeApiServer, failed, pod, running, waiting_for
from observing import Make, RequestOf, is_unreachable, looks_at_pods, state_of, wait_for_state

from cluster_tools.schedulers.base import Cause, Element, Report, State
from cluster_tools.schedulers.kubernetes.pods import INDEX
from cluster_tools.schedulers.kubernetes.scheduler import _indexes
from support.waiting import wait_until


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("", []),
        ("0", [0]),
        ("1,3-5,7", [1, 3, 4, 5, 7]),
        ("0-2", [0, 1, 2]),
        ("8,10-10", [8, 10]),
    ],
)
def test_indexes_are_read_as_a_status_writes_them(text: str | None, expected: list[int]) -> None:
    assert list(_indexes(text)) == expected


def test_states_follow_the_events_of_the_job(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(9))
    assert scheduler.states(OURS)[Element(JOB)].state is State.PENDING
    server.set_status(active=9, ready=0)
    assert scheduler.states(OURS)[Element(JOB)].state is State.PENDING
    server.set_status(active=9, ready=4)
    wait_for_state(scheduler, Element(JOB, 8), State.RUNNING)
    server.set_status(
        active=4, ready=4, succeeded=4, failed=1, completedIndexes="0,2-4", failedIndexes="6"
    )
    wait_for_state(scheduler, Element(JOB, 6), State.ENDED)
    reports = scheduler.states(OURS)
    ended = {element for element, report in reports.items() if report.state is State.ENDED}
    assert ended == {Element(JOB, index) for index in (0, 2, 3, 4, 6)}
    assert reports[Element(JOB)].state is State.RUNNING


def test_a_single_call_is_an_element_without_index(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(1, is_array=False))
    server.set_status(active=1, ready=1)
    wait_for_state(scheduler, Element(JOB), State.RUNNING)
    server.set_status(failed=1, failedIndexes="0")
    wait_for_state(scheduler, Element(JOB), State.ENDED)
    assert list(scheduler.states(OURS)) == [Element(JOB)]


def test_what_is_not_known_is_not_mentioned(make: Make, request_of: RequestOf) -> None:
    scheduler = make()
    assert scheduler.states(OURS) == {}
    scheduler.submit(request_of())
    assert scheduler.states({"another": TOKEN}) == {}


def test_a_suspended_job_waits_and_says_so(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.set_spec(suspend=True)
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].reason == "Suspended")
    report = scheduler.states(OURS)[Element(JOB)]
    assert (report.state, report.notable, report.hopeless) == (State.PENDING, True, "")


def test_the_elements_of_a_job_that_was_deleted_have_ended(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.delete_job()
    report = wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    ended = scheduler.explain({Element(JOB, 1): report}, OURS)[Element(JOB, 1)]
    assert ended.cause is Cause.CANCELLED
    assert "deleted by somebody else" in ended.message


def test_a_failed_index_whose_pod_is_ending_still_runs(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(1, is_array=False))
    server.pods = [pod(0, status=running(), deletionTimestamp="2025-06-01T12:00:10Z")]
    server.set_status(active=0, failed=1, failedIndexes="0")
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].word == "Terminating")
    assert scheduler.states(OURS)[Element(JOB)].state is State.RUNNING
    server.pods = []
    report = wait_for_state(scheduler, Element(JOB), State.ENDED)
    ended = scheduler.explain({Element(JOB): report}, OURS)[Element(JOB)]
    assert (ended.cause, ended.may_go_in_again) == (Cause.CANCELLED, True)


def test_a_pod_of_a_lost_node_that_has_not_said_that_it_began_is_never_left_out(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(1, is_array=False))
    status = waiting_for("ContainerCreating", "")
    server.pods = [pod(0, status=status, deletionTimestamp="2025-06-01T12:00:10Z")]
    server.set_status(active=0, terminating=1)
    reports: list[Report | None] = []

    def is_seen() -> bool:
        reports.append(state_of(scheduler, Element(JOB)))
        return reports[-1] is not None and reports[-1].word == "Terminating"

    wait_until(is_seen)
    assert None not in reports
    assert reports[-1] is not None
    assert reports[-1].state is State.RUNNING


def test_a_look_at_pods_that_failed_is_made_up_for(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    """A failed index whose pod is ending must not pass for ended since the server was busy once."""
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [pod(0, status=running(), deletionTimestamp="2025-06-01T12:00:10Z")]
    server.fail("list", "/pods", 503)
    server.set_status(active=2, ready=2, failed=1, failedIndexes="0")
    wait_until(lambda: is_unreachable(scheduler))
    report = state_of(scheduler, Element(JOB, 0))
    assert report is not None
    assert report.state is State.RUNNING


def test_who_may_not_list_pods_is_told_so_once_and_gets_states_all_the_same(
    server: FakeApiServer, make: Make, request_of: RequestOf, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.fail("list", "/pods", 403, 'User "me" cannot list resource "pods"', times=None)
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        for failed in (1, 2):
            server.set_status(failed=failed, failedIndexes="0,1"[: 2 * failed - 1])
            wait_for_state(scheduler, Element(JOB, failed - 1), State.ENDED)
    assert caplog.text.count("cannot list resource") == 1


def _outlived(phase: str = "Running", **mesh: Any) -> dict[str, Any]:
    """The call was killed, and the container `mesh` is in another state."""
    ended = {"terminated": {"exitCode": 137, "reason": "Error"}}
    beside = [{"name": "worker", "state": ended}, {"name": "mesh", "state": mesh}]
    return {"phase": phase, "containerStatuses": beside}


_NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (_outlived(running={}), "'mesh' goes on"),
        (_outlived("Pending", **_NO_IMAGE), "'mesh' does not begin (ImagePullBackOff: not found)"),
        (_outlived("Pending", waiting={"reason": "ContainerCreating"}), "'mesh' goes on"),
    ],
)
def test_a_call_has_ended_though_a_container_stays_beside_it(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    caplog: pytest.LogCaptureFixture,
    status: dict[str, Any],
    words: str,
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [pod(0, status=running()), pod(1, status=status)]
    server.set_status(active=3, ready=1)
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        report = wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    (deleted,) = server.seen("deletecollection", PODS)
    assert deleted.query["labelSelector"] == f"job-name={JOB},{INDEX} in (1)"
    assert caplog.text.count(words) == 1
    assert "they are deleted" in caplog.text
    # The call has ended as it did, although now its pod is killed.
    server.pods = [pod(1, status=failed(1))]
    server.set_status(active=2, failed=1, failedIndexes="1")
    wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    ended = scheduler.explain({Element(JOB, 1): report}, OURS)[Element(JOB, 1)]
    assert "signal 9" in ended.message


def test_a_call_that_runs_is_not_ended_since_a_container_beside_it_does_not_begin(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at more often."""
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.scheduler._STUCK_QUERY_S", 0.5)
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of(1, is_array=False))
    status = _outlived("Pending", **_NO_IMAGE)
    status["containerStatuses"][0]["state"] = {"running": {}}
    server.pods = [pod(0, status=status)]
    server.set_status(active=1, ready=0)
    states: set[State] = set()

    def is_looked_at_often() -> bool:
        states.update(report.state for report in scheduler.states(OURS).values())
        return looks_at_pods(server) >= 5

    wait_until(is_looked_at_often)
    looks = [seen.at for seen in server.seen("list", "/pods")]
    assert looks[4] - looks[0] < 8
    assert State.ENDED not in states
    assert server.seen("deletecollection") == []


@pytest.mark.parametrize("is_old", [False, True])
def test_that_pods_stay_in_which_calls_have_ended_is_said_once(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    caplog: pytest.LogCaptureFixture,
    is_old: bool,
) -> None:
    """Either the Role forbids to delete them, or an old server would replace them."""
    server.drops_new_fields = is_old
    refusal = 'User "me" cannot deletecollection resource "pods"'
    server.fail("deletecollection", "/pods", 403, refusal, times=None)
    scheduler = make()
    scheduler.submit(request_of())
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        for count in (1, 2):
            server.pods = [pod(index, status=_outlived(running={})) for index in range(count)]
            server.set_status(active=3, ready=3 - count)
            wait_for_state(scheduler, Element(JOB, count - 1), State.ENDED)
    assert caplog.text.count("they stay") == 1
    words = "would put others" if is_old else refusal
    assert words in caplog.text
    assert len(server.seen("deletecollection")) == (0 if is_old else 2)
