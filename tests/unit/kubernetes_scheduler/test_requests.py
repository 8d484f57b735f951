"""Promises of the client's requests on servers that fail, hang, or are no Kubernetes."""

from __future__ import annotations

import json
import logging
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from fake_api_server import JOBS, PODS, FakeApiServer, configure, error_status, pod

from cluster_tools.schedulers.base import Unreachable
from cluster_tools.schedulers.kubernetes.api import (
    ApiError,
    ApiServer,
    CredentialsExpired,
    Forbidden,
    Gone,
    retry_after_s,
)


def test_without_a_configuration_the_error_says_where_it_was_looked_for(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="configuration"):
        ApiServer()
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(kubeconfig.parent))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(RuntimeError, match=r"neither KUBECONFIG nor ~/\.kube/config"):
        ApiServer()


def test_a_context_that_is_not_there_is_a_runtime_error(server: FakeApiServer) -> None:
    with pytest.raises(RuntimeError, match="nowhere"):
        ApiServer("nowhere")


def test_a_list_is_read_page_by_page(server: FakeApiServer, api: ApiServer) -> None:
    server.pods = [pod(index) for index in range(5)]
    server.page = 2
    items, version = api.list(PODS, labelSelector="a=b")
    assert items == server.pods
    assert version == "1"
    assert [seen.query.get("continue") for seen in server.seen("list")] == [None, "2", "4"]
    assert all(seen.query["labelSelector"] == "a=b" for seen in server.seen("list"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_passes_is_unreachable_and_asked_for_once(
    server: FakeApiServer, api: ApiServer, status: int
) -> None:
    server.fail("list", "/pods", status, "too many requests, or so")
    with pytest.raises(Unreachable, match=f"{status} too many requests"):
        api.list(PODS)
    assert len(server.requests) == 1
    assert api.list(PODS)[0] == []


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Forbidden), (410, Gone), (400, ApiError), (422, ApiError)]
)
def test_an_answer_that_stays_is_an_error_with_the_servers_words(
    server: FakeApiServer, api: ApiServer, status: int, kind: type[ApiError]
) -> None:
    server.fail("list", "/pods", status, 'pods is "forbidden"')
    with pytest.raises(kind) as caught:
        api.list(PODS)
    assert (str(caught.value), caught.value.status) == ('pods is "forbidden"', status)


def test_the_page_of_a_proxy_is_no_end(server: FakeApiServer, api: ApiServer) -> None:
    server.answer("list", "/pods", status=502, body=b"<html>Bad Gateway</html>")
    with pytest.raises(Unreachable, match="Bad Gateway"):
        api.list(PODS)
    server.answer("list", "/pods", status=200, body=b"<html>Please log in</html>")
    with pytest.raises(Unreachable):
        api.list(PODS)


@pytest.mark.parametrize("body", [{}, [], None, 7, {"items": None}, {"kind": "List"}])
def test_json_that_is_no_kubernetes_is_said(
    server: FakeApiServer, api: ApiServer, body: object
) -> None:
    """It may come from a login page or a proxy."""
    text = json.dumps(body).encode()
    for verb in ("list", "get", "create", "delete"):
        server.answer(verb, "", body=text)
    for ask in (
        lambda: api.list(PODS),
        lambda: api.get(f"{JOBS}/it"),
        lambda: api.create(JOBS, {}),
        lambda: api.delete(f"{JOBS}/it"),
    ):
        with pytest.raises(Unreachable, match="no API server of Kubernetes") as caught:
            ask()
        assert text.decode() in str(caught.value)


def test_a_busy_servers_plain_words_are_kubernetes(server: FakeApiServer, api: ApiServer) -> None:
    body = b"Too many requests, please try again later.\n"
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    server.answer("list", "/pods", status=429, body=body, headers=headers)
    with pytest.raises(Unreachable, match=r"429 Too many requests, please try again later\.$"):
        api.list(PODS)


def test_a_list_from_which_no_watch_can_go_on_is_no_answer(
    server: FakeApiServer, api: ApiServer
) -> None:
    server.answer("list", "/pods", body={"kind": "List", "metadata": {}, "items": None})
    with pytest.raises(Unreachable, match="resourceVersion"):
        api.list(PODS)


@pytest.mark.parametrize("body", [b"{}", b"[]\n", b'{"type": "ADDED"}\n', b"7\n", b"<html>"])
def test_a_watch_that_is_no_kubernetes_is_said(
    server: FakeApiServer, api: ApiServer, body: bytes
) -> None:
    headers = {"Content-Type": "text/html"} if body == b"<html>" else {}
    server.answer("watch", "/jobs", body=body, headers=headers)
    with pytest.raises(Unreachable, match="no API server of Kubernetes"):
        list(api.watch(JOBS, timeout_s=1.0, resourceVersion="1"))


def test_an_event_that_is_cut_short_is_no_end(server: FakeApiServer, api: ApiServer) -> None:
    server.answer("watch", "/jobs", body=b'{"type": "ADDED", "obj')
    with pytest.raises(Unreachable, match="broke off"):
        list(api.watch(JOBS, timeout_s=1.0, resourceVersion="1"))


def test_an_answer_that_is_cut_short_is_unreachable(server: FakeApiServer, api: ApiServer) -> None:
    server.answer("list", "/pods", cut=7)
    with pytest.raises(Unreachable, match="cut short"):
        api.list(PODS)
    server.answer("list", "/pods", hangs_up=True)
    with pytest.raises(Unreachable):
        api.list(PODS)
    assert len(server.requests) == 2
    assert api.list(PODS)[0] == []


def test_a_server_that_is_not_there_is_unreachable(server: FakeApiServer, api: ApiServer) -> None:
    server.refuse_connections()
    with pytest.raises(Unreachable, match=f"{server.port}"):
        api.get(PODS)


def test_a_delete_that_hangs_takes_no_longer_than_it_may(
    server: FakeApiServer, api: ApiServer
) -> None:
    server.answer("delete", "/it", times=None, hangs=True)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        api.delete(f"{JOBS}/it", timeout_s=0.5)
    assert 0.4 < time.monotonic() - began < 3
    assert len(server.requests) == 1


def test_to_delete_what_is_not_there_is_no_error(server: FakeApiServer, api: ApiServer) -> None:
    api.delete(f"{JOBS}/nothing")
    server.fail("delete", "/nothing", 403)
    with pytest.raises(Forbidden):
        api.delete(f"{JOBS}/nothing")


def test_the_servers_warnings_are_logged(
    server: FakeApiServer, api: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    words = "would violate PodSecurity: host path volumes"
    server.answer("list", "/pods", headers={"Warning": f'299 - "{words}"'})
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        api.list(PODS)
    assert words in caplog.text


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("9" * 5000, 300),
        ("Sun, 01 Jun 2025 12:00:20 GMT", 20),
        ("Sunday, 01-Jun-25 12:00:20 GMT", 20),
        ("Sun Jun  1 12:00:20 2025", 20),
        ("Sun, 01 Jun 2025 14:00:20 +0200", 20),
        ("Mon, 02 Jun 2025 12:00:00 GMT", 300),
        ("Sun, 01 Jun 2025 11:00:00 GMT", 0),
        ("", None),
        ("-3", None),
        ("1.5", None),
        ("\u00b2", None),
        ("soon", None),
        ("Sun, 99 Jun 2025 12:00:20 GMT", None),
        ("Sun, 01 Jun 2025 12:00:20 +9999", None),
    ],
)
def test_a_time_to_wait_is_seconds_or_a_date_by_the_servers_clock(
    text: str, wait_s: float | None
) -> None:
    headers = {"Retry-After": text, "Date": "Sun, 01 Jun 2025 12:00:00 GMT"}
    assert retry_after_s(headers) == wait_s


def test_a_date_before_which_to_ask_nothing_is_kept_to(
    server: FakeApiServer, api: ApiServer
) -> None:
    until = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    headers = {"Retry-After": until}
    server.answer("list", "/pods", status=503, body=error_status(503, "busy"), headers=headers)
    with pytest.raises(Unreachable, match="busy"):
        api.list(PODS)
    with pytest.raises(Unreachable, match="asked to wait for"):
        api.list(PODS)
    assert len(server.requests) == 1


def test_credentials_that_have_expired_are_read_anew(
    server: FakeApiServer, api: ApiServer, kubeconfig: Path
) -> None:
    server.token = "second"
    configure(kubeconfig, server.port, "second")
    assert api.list(PODS)[0] == []
    sent = [seen.headers["authorization"] for seen in server.requests]
    assert sent == ["Bearer first", "Bearer second"]
    api.list(PODS)
    assert len(server.requests) == 3


def test_credentials_that_stay_unknown_have_expired(
    server: FakeApiServer, api: ApiServer, kubeconfig: Path
) -> None:
    server.token = "second"
    with pytest.raises(CredentialsExpired, match="credentials expired"):
        api.list(PODS)
    assert len(server.requests) == 2
    kubeconfig.unlink()
    with pytest.raises(CredentialsExpired, match="credentials expired"):
        api.list(PODS)
