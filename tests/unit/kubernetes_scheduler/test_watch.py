"""Promises of the watch on servers that forget, fail or hang: no end is missed, and no server is
flooded.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from pathlib import Path

import pytest
from fake_api_server import JOB, OURS, SESSION, FakeApiServer, configure, error_status
from observing import Make, RequestOf, is_unreachable, wait_for_state

from cluster_tools.schedulers.base import Element, State, Unreachable
from support.waiting import wait_until


def test_a_watch_goes_on_from_the_last_bookmark(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.bookmark(99)
    server.end_watches()
    wait_until(lambda: len(server.seen("watch")) == 2)
    assert server.seen("watch")[1].query["resourceVersion"] == "99"
    assert len(server.seen("list", "/jobs")) == 1
    server.set_status(active=3, ready=3)
    wait_for_state(scheduler, Element(JOB, 0), State.RUNNING)


def test_a_server_that_has_forgotten_is_asked_for_a_list_and_no_end_is_missed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    other = "other-0a1b2c3d-1-0-0"
    scheduler.submit(request_of(token=f"{SESSION}.1.0.0", name="other"))
    wait_for_state(scheduler, Element(JOB, 0), State.PENDING)
    wait_until(lambda: other in scheduler._watch.jobs)
    with server.changed:
        server.jobs[other]["status"] = {"failed": 1, "failedIndexes": "2"}
        del server.jobs[JOB]
        server.version += 10
        body = (
            json.dumps({"type": "ERROR", "object": error_status(410, "too old")}).encode() + b"\n"
        )
        server.answer("watch", "/jobs", body=body)
    server.end_watches()
    wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    wait_until(
        lambda: (
            (report := scheduler.states({other: ""}).get(Element(other, 2))) is not None
            and report.state is State.ENDED
        )
    )
    assert len(server.seen("list", "/jobs")) == 2
    assert server.seen("watch")[-1].query["resourceVersion"] == str(server.version)


def test_a_server_that_is_gone_is_unreachable_and_what_happened_is_seen_later(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.refuse_connections()
    wait_until(lambda: is_unreachable(scheduler), "it to be unreachable")
    with server.changed:
        server.jobs[JOB]["status"] = {"succeeded": 3, "completedIndexes": "0-2"}
    server.listen()
    wait_until(lambda: not is_unreachable(scheduler), "it to be back")
    wait_for_state(scheduler, Element(JOB, 2), State.ENDED)


def test_a_watch_that_breaks_goes_on_where_it_was(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.watches_break = True
    server.end_watches()
    wait_until(lambda: len(server.seen("watch")) == 2)
    server.watches_break = False
    server.set_status(active=3, ready=3)
    wait_until(lambda: not is_unreachable(scheduler))
    wait_for_state(scheduler, Element(JOB, 0), State.RUNNING)
    assert len(server.seen("list", "/jobs")) == 1


def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_a_pause(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.watch_s = 0.0
    scheduler = make()
    scheduler.submit(request_of())
    wait_until(lambda: len(server.seen("watch")) == 4)
    times = [seen.at for seen in server.seen("watch")]
    assert times[3] - times[0] > 1.5  # at least half of 0.5, 1 and 2 s
    server.set_status(failed=1, failedIndexes="0")
    wait_for_state(scheduler, Element(JOB, 0), State.ENDED)


def test_a_server_that_forgets_at_once_is_not_asked_without_a_pause(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    body = json.dumps({"type": "ERROR", "object": error_status(410, "too old")}).encode() + b"\n"
    server.answer("watch", "/jobs", times=None, body=body)
    make().submit(request_of())
    wait_until(lambda: len(server.seen("watch")) >= 5)
    times = [seen.at for seen in server.seen("watch")]
    assert times[4] - times[0] > 1.0


def test_pauses_grow_only_while_nothing_gets_better(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    """As behind a proxy that cuts connections off: each watch was a good one."""
    server.watch_s = 0.6
    server.watches_break = True
    make().submit(request_of())

    def is_begun_again() -> bool:
        server.bookmark(server.version + 1)
        return len(server.seen("watch")) >= 5

    wait_until(is_begun_again)
    pause_s = server.seen("watch")[4].at - server.broken_at[3]
    assert pause_s < 1.5


def _forget_what_was_said(server: FakeApiServer) -> None:
    """No watch brings what was said so far, as if a load balancer held watches back."""
    with server.changed:
        server._log.clear()


@pytest.mark.parametrize("breaks", [False, True])
def test_watches_that_end_without_a_word_are_followed_by_lists_and_begun_ever_more_rarely(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    monkeypatch: pytest.MonkeyPatch,
    breaks: bool,
) -> None:
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.watch._UNHEARD_S", 2.0)
    server.watch_s, server.watches_break = 0.6, breaks
    scheduler = make()
    scheduler.submit(request_of())
    began = time.monotonic()
    with server.changed:
        server.jobs[JOB]["status"] = {"failed": 1, "failedIndexes": "0"}
    _forget_what_was_said(server)
    wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    wait_until(lambda: len(server.seen("list", "/jobs")) >= 3)
    lists = [seen.at for seen in server.seen("list", "/jobs")]
    assert lists[2] - lists[1] > 2.0
    assert len(server.seen("watch")) < 2 + (time.monotonic() - began)


def test_a_watch_that_says_something_is_followed_by_no_list(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.watch._UNHEARD_S", 2.0)
    server.watch_s = 0.6
    make().submit(request_of())

    def is_begun_again() -> bool:
        server.bookmark(server.version + 1)
        return len(server.seen("watch")) >= 6

    wait_until(is_begun_again)
    assert len(server.seen("list", "/jobs")) == 1


def test_a_watch_whose_answer_does_not_begin_is_said_once_and_followed_by_lists(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.api.WATCH_SILENCE_S", 2.0)
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.watch._OPENING_PATIENCE_S", 0.5)
    server.answer("watch", "/jobs", times=None, hangs=True)
    scheduler = make()
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        began = time.monotonic()
        scheduler.submit(request_of())
        assert time.monotonic() - began < 1.9
        with server.changed:
            server.jobs[JOB]["status"] = {"failed": 1, "failedIndexes": "0"}
        wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
        wait_until(lambda: len(server.seen("watch")) == 4)
    assert caplog.text.count("no answer to one began within 2 s") == 1
    assert len(server.seen("list", "/jobs")) == 4
    server.heal()
    server.end_watches()


def test_a_server_that_lets_each_request_wait_is_unreachable(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as behind a firewall that drops packets."""
    scheduler = make()
    scheduler.submit(request_of())
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.api.CONNECT_TIMEOUT_S", 0.7)
    server.refuse_connections()
    with socket.socket() as full, socket.socket() as last:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind(("127.0.0.1", server.port))
        full.listen(0)
        last.connect(("127.0.0.1", server.port))
        wait_until(lambda: scheduler._watch.trouble, "it to be said")
        with pytest.raises(Unreachable, match="timed out"):
            scheduler.states(OURS)


def test_a_passing_error_within_a_watch_passes(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    body = json.dumps({"type": "ERROR", "object": error_status(500, "context canceled")}).encode()
    server.answer("watch", "/jobs", body=body + b"\n")
    scheduler = make()
    scheduler.submit(request_of())
    wait_until(lambda: len(server.seen("watch")) == 2)
    wait_until(lambda: not is_unreachable(scheduler))
    server.set_status(failed=1, failedIndexes="0")
    wait_for_state(scheduler, Element(JOB, 0), State.ENDED)


def test_credentials_that_expire_while_watching_are_said_and_new_ones_taken(
    server: FakeApiServer, make: Make, request_of: RequestOf, kubeconfig: Path
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.token = "second"
    server.end_watches()
    wait_until(lambda: is_unreachable(scheduler))
    with pytest.raises(Unreachable, match="credentials expired"):
        scheduler.states(OURS)
    configure(kubeconfig, server.port, "second")
    wait_until(lambda: not is_unreachable(scheduler))
    server.set_status(failed=1, failedIndexes="0")
    wait_for_state(scheduler, Element(JOB, 0), State.ENDED)


def test_events_on_jobs_that_nobody_asks_about_are_not_kept(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    scheduler.forget(JOB)
    wait_until(lambda: server.jobs == {})
    scheduler.submit(request_of(token=f"{SESSION}.1.0.0", name="other"))
    server.set_status("other-0a1b2c3d-1-0-0", active=1)
    wait_until(lambda: any(job["status"] for job in scheduler._watch.jobs.values()))
    assert set(scheduler._watch.jobs) == {"other-0a1b2c3d-1-0-0"}
    assert scheduler._watch.deleted == set()
