"""Promises on what is submitted: one Job for an array, once, and refusals that say what is
needed.
"""

from __future__ import annotations

import json
import logging
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from fake_api_server import JOB, JOBS, NAMESPACE, SESSION, TOKEN, FakeApiServer
from observing import Make, RequestOf, wait_for_state

from cluster_tools.schedulers.base import Element, Refused, State, Unreachable
from cluster_tools.schedulers.kubernetes.manifest import SESSION_LABEL


def test_an_array_is_one_job(
    server: FakeApiServer, make: Make, request_of: RequestOf, tmp_path: Path
) -> None:
    assert make().submit(request_of(3)) == JOB
    (created,) = server.seen("create")
    assert created.path == JOBS
    assert created.body["metadata"]["name"] == JOB
    assert created.body["metadata"]["labels"] == {SESSION_LABEL: SESSION}
    assert created.body["spec"]["completions"] == 3
    (watched,) = server.seen("watch")
    assert watched.query["labelSelector"] == f"{SESSION_LABEL}={SESSION}"
    assert watched.query["allowWatchBookmarks"] == "true"


def test_the_clients_environment_is_a_file_that_only_it_reads(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "it's")
    request = request_of()
    scheduler = make()
    scheduler.submit(request)
    files = set(Path(request.run_directory).iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    (path,) = (p for p in files if b"export SECRET='it'\"'\"'s'\n" in p.read_bytes())
    (created,) = server.seen("create")
    assert "it's" not in json.dumps(created.body)
    assert str(path) in created.body["spec"]["template"]["spec"]["containers"][0]["command"][2]
    (script,) = files - {path}
    scheduler.submit(request_of(token=f"{SESSION}.1.0.0"))
    assert set(Path(request.run_directory).iterdir()) == files
    scheduler.forget(JOB)
    assert not script.exists()


def test_an_answer_that_was_lost_makes_no_second_job(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    server.answer("create", "/jobs", is_done=True, hangs_up=True)
    with pytest.raises(Unreachable):
        scheduler.submit(request_of())
    assert list(server.jobs) == [JOB]
    assert scheduler.find(TOKEN) == JOB
    assert scheduler.submit(request_of()) == JOB
    assert list(server.jobs) == [JOB]
    server.set_status(active=3, ready=3)
    wait_for_state(scheduler, Element(JOB, 2), State.RUNNING)


def test_an_array_that_did_not_arrive_is_not_found(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    assert scheduler.find(TOKEN) is None
    server.answer("create", "/jobs", hangs_up=True)
    with pytest.raises(Unreachable):
        scheduler.submit(request_of())
    assert scheduler.find(TOKEN) is None
    server.fail("get", f"/{JOB}", 503)
    with pytest.raises(Unreachable):
        scheduler.find(TOKEN)
    server.fail("get", f"/{JOB}", 403)
    with pytest.raises(Unreachable):
        scheduler.find(TOKEN)


def test_somebody_elses_job_of_that_name_is_a_refusal(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    theirs: dict[str, Any] = {
        "metadata": {"name": JOB, "labels": {SESSION_LABEL: "another"}},
        "spec": {},
    }
    server.add_job(theirs)
    with pytest.raises(Refused, match=f"Kubernetes says: .*{JOB}.* already exists"):
        make().submit(request_of())
    assert server.jobs[JOB]["metadata"]["labels"] == {SESSION_LABEL: "another"}


def test_who_may_not_create_jobs_is_told_so_and_what_is_needed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    words = f'jobs.batch is forbidden: User "me" cannot create resource "jobs" in "{NAMESPACE}"'
    server.fail("create", "/jobs", 403, words)
    with pytest.raises(Refused, match=re.escape(f"Kubernetes says: {words}.") + ".*README"):
        make().submit(request_of())


def test_who_may_not_watch_jobs_is_told_so_before_any_is_created(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    words = 'jobs.batch is forbidden: User "me" cannot list resource "jobs"'
    server.fail("list", "/jobs", 403, words, times=None)
    with pytest.raises(Refused, match="cannot list resource"):
        make().submit(request_of())
    assert server.seen("create") == []


def test_what_admission_refuses_is_a_refusal_without_advice_on_roles(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.fail("create", "/jobs", 422, 'Job.batch "x" is invalid: spec.template: Required')
    with pytest.raises(Refused, match="is invalid") as caught:
        make().submit(request_of())
    assert "README" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "exceeded quota: few, requested: count/jobs.batch=1"), (429, "slow"), (503, "not yet")],
)
def test_what_may_pass_is_worth_another_try(
    server: FakeApiServer, make: Make, request_of: RequestOf, status: int, words: str
) -> None:
    scheduler = make()
    server.fail("create", "/jobs", status, words)
    with pytest.raises(Unreachable, match=words[:8]):
        scheduler.submit(request_of())
    assert scheduler.submit(request_of()) == JOB


def test_a_namespace_that_is_not_there_is_made(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.namespaces.clear()
    assert make().submit(request_of()) == JOB
    assert server.namespaces == {NAMESPACE}
    assert [seen.path for seen in server.seen("create")] == [JOBS, "/api/v1/namespaces", JOBS]


def test_a_namespace_that_somebody_else_makes_meanwhile_will_do(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.fail("create", "/jobs", 404, f'namespaces "{NAMESPACE}" not found')
    server.fail("create", "/namespaces", 409, "already exists")
    assert make().submit(request_of()) == JOB


def test_who_may_not_make_the_namespace_is_told_so(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.namespaces.clear()
    server.fail("create", "/namespaces", 403, 'User "me" cannot create resource "namespaces"')
    with pytest.raises(Refused, match='cannot create resource "namespaces"'):
        make().submit(request_of())


def test_many_elements_are_advised_to_be_batched(
    make: Make, request_of: RequestOf, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make()
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        scheduler.submit(request_of(1001))
    assert "batching" in caplog.text
    assert scheduler.max_array_size() == 100_000
    assert scheduler.max_submitted() is None
