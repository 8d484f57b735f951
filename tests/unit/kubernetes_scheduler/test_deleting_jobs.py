"""Promises on cancelling, on deleting Jobs, and on what is left when a scheduler is closed."""

from __future__ import annotations

import logging
import re
import time

import pytest
from fake_api_server import JOB, JOBS, OURS, PODS, SESSION, FakeApiServer
from observing import Make, RequestOf, is_unreachable, own_threads

from cluster_tools.schedulers.base import Element, Refused, Unreachable
from cluster_tools.schedulers.kubernetes.pods import INDEX
from support.waiting import wait_until


def test_what_was_submitted_can_be_cancelled_by_its_indexes(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(600))
    scheduler.cancel([Element(JOB, index) for index in reversed(range(600))], SESSION)
    scheduler.cancel([Element("another", 3)], SESSION)
    selectors = [seen.query["labelSelector"] for seen in server.seen("deletecollection", PODS)]
    found: list[int] = []
    for selector in selectors:
        match = re.fullmatch(rf"job-name={JOB},{re.escape(INDEX)} in \(([0-9,]+)\)", selector)
        assert match is not None
        found += map(int, match[1].split(","))
    assert sorted(found) == list(range(600))
    assert len(selectors) == 2
    server.fail("deletecollection", "/pods", 403)
    with pytest.raises(Unreachable):
        scheduler.cancel([Element(JOB, 1)], SESSION)


def test_a_job_that_is_done_is_deleted_with_its_pods(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    scheduler.forget("another")
    scheduler.forget(JOB)
    scheduler.forget(JOB)
    (deleted,) = server.seen("delete")
    assert deleted.path == f"{JOBS}/{JOB}"
    assert deleted.query == {"propagationPolicy": "Background"}
    assert server.jobs == {}
    assert scheduler.states(OURS) == {}


def test_who_may_not_delete_jobs_is_told_so_once(
    server: FakeApiServer, make: Make, request_of: RequestOf, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make()
    server.fail("delete", "", 403, 'User "me" cannot delete resource "jobs"', times=None)
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        for number in range(2):
            scheduler.forget(scheduler.submit(request_of(token=f"{SESSION}.{number}.0.0")))
    assert caplog.text.count("cannot delete resource") == 1
    assert len(server.seen("delete")) == 2


def test_a_delete_that_hangs_holds_up_one_time_limit_for_all_jobs(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    jobs = [scheduler.submit(request_of(token=f"{SESSION}.{n}.0.0")) for n in range(3)]
    server.answer("delete", "", times=None, hangs=True)
    began = time.monotonic()
    for job in jobs:
        scheduler.forget(job)
    assert time.monotonic() - began < 8
    assert len(server.seen("delete")) == 1
    server.heal()
    server.end_watches()


def test_jobs_that_could_not_be_deleted_are_deleted_when_all_is_over(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    for number in range(2):
        scheduler.submit(request_of(token=f"{SESSION}.{number}.0.0"))
    server.refuse_connections()
    began = time.monotonic()
    for name in list(server.jobs):
        scheduler.forget(name)
    assert time.monotonic() - began < 2
    server.listen()
    scheduler.close()
    wait_until(lambda: server.jobs == {}, "a process of its own to delete them")
    assert all(seen.query["propagationPolicy"] == "Background" for seen in server.seen("delete"))


@pytest.mark.parametrize("what", ["nothing", "watching", "unreachable", "forbidden"])
def test_no_thread_is_left_when_it_is_closed(
    server: FakeApiServer, make: Make, request_of: RequestOf, what: str
) -> None:
    before = own_threads()
    scheduler = make()
    assert len(own_threads()) == len(before) + 1
    if what == "forbidden":
        server.fail("list", "/jobs", 403, times=None)
        with pytest.raises(Refused):
            scheduler.submit(request_of())
    elif what != "nothing":
        scheduler.submit(request_of())
    if what == "unreachable":
        server.refuse_connections()
        wait_until(lambda: is_unreachable(scheduler))
    began = time.monotonic()
    scheduler.close()
    wait_until(lambda: own_threads() == before)
    assert time.monotonic() - began < 1


def test_no_connection_is_left_when_it_is_closed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    assert server.connections
    began = time.monotonic()
    scheduler.close()
    wait_until(lambda: time.monotonic() - began > 2 or not server.connections)
    assert not server.connections
