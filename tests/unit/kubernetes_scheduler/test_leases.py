"""Promises on leases: Jobs end after a client that is gone, and not before."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fake_api_server import JOB, JOBS, LEASE_S, FakeApiServer
from observing import Make, RequestOf, is_unreachable

from cluster_tools.schedulers.base import Unreachable
from cluster_tools.schedulers.kubernetes.scheduler import KubernetesScheduler
from support.waiting import wait_until


def _poll_until(scheduler: KubernetesScheduler, condition: Callable[[], object]) -> None:
    def is_so() -> object:
        is_unreachable(scheduler)
        return condition()

    wait_until(is_so)


def test_a_lease_is_renewed_after_a_third_of_its_time_and_no_earlier(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(client_lease_s=LEASE_S)
    scheduler.submit(request_of())
    _poll_until(scheduler, lambda: len(server.seen("patch")) == 2)
    (created,) = server.seen("create")
    assert created.body["spec"]["activeDeadlineSeconds"] == LEASE_S
    for number, patched in enumerate(server.seen("patch"), 1):
        age_s = patched.at - created.at
        assert number * LEASE_S / 3 - 0.2 < age_s < number * LEASE_S / 3 + 0.9
        assert patched.path == f"{JOBS}/{JOB}"
        assert patched.headers["content-type"] == "application/merge-patch+json"
        deadline_s = patched.body["spec"]["activeDeadlineSeconds"]
        assert patched.body == {"spec": {"activeDeadlineSeconds": deadline_s}}
        assert age_s + LEASE_S - 1.1 < deadline_s < age_s + LEASE_S + 0.2


def test_a_lease_that_could_not_be_renewed_is_tried_again(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(client_lease_s=LEASE_S)
    scheduler.submit(request_of())
    server.fail("patch", f"/{JOB}", 503)
    _poll_until(scheduler, lambda: len(server.seen("patch")) == 2)
    first, second = server.seen("patch")
    assert second.at - first.at < LEASE_S / 3


def test_without_a_lease_nothing_is_renewed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(client_lease_s=None)
    scheduler.submit(request_of())
    began = time.monotonic()
    _poll_until(scheduler, lambda: time.monotonic() - began > 1.5)
    assert server.seen("patch") == []


def test_the_lease_of_a_job_that_a_lost_answer_made_counts_from_its_creation(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    """Kubernetes counts from there; the time until another try arrives is not to be missing."""
    scheduler = make(client_lease_s=LEASE_S)
    server.answer("create", "/jobs", is_done=True, hangs_up=True)
    with pytest.raises(Unreachable):
        scheduler.submit(request_of())
    made_at = server.seen("create")[0].at
    wait_until(lambda: time.monotonic() - made_at > 2)
    scheduler.submit(request_of())
    _poll_until(scheduler, lambda: server.seen("patch"))
    patched = server.seen("patch")[0]
    left_s = patched.body["spec"]["activeDeadlineSeconds"] - (patched.at - made_at)
    assert left_s > LEASE_S - 1.1
