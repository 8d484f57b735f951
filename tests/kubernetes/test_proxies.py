"""Promises on what lies between a client and the API server, and on a server that is busy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import proxy
import pytest

from cluster_tools.errors import RemoteExitException, SubmissionException
from cluster_tools.schedulers.kubernetes import api
from support import jobs
from support.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.kubernetes

NewExecutor = Callable[..., Any]
_JSON = {"Content-Type": "application/json"}


@pytest.fixture
def between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[proxy.Proxy]:
    with proxy.in_front_of_the_server(tmp_path) as (found, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield found


def test_a_watch_that_says_nothing_is_followed_by_a_list(
    between: proxy.Proxy,
    new_executor: NewExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(api, "WATCH_SILENCE_S", 6.0)
    between.holds_watches = True
    with caplog.at_level(logging.WARNING), new_executor() as executor:
        for _ in range(2):
            error = executor.submit(jobs.kill_itself).exception(3 * LIMIT_S)
            assert isinstance(error, RemoteExitException)
        wait_until(lambda: sum("watch=1" in path for _, path in between.seen) > 2, "more watches")
    told = [record for record in caplog.records if "takes watches" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.timeout(180)
def test_watches_that_end_without_a_word_hide_no_death(
    between: proxy.Proxy, new_executor: NewExecutor
) -> None:
    between.ends_watches_after_s = 2.0
    began = time.monotonic()
    with new_executor() as executor:
        error = executor.submit(jobs.kill_itself).exception(120)
    assert isinstance(error, RemoteExitException)
    watches = sum("watch=1" in path for _, path in between.seen)
    assert 2 < watches < 3 + (time.monotonic() - began) / 3


@pytest.mark.timeout(180)
def test_a_watch_whose_answer_is_held_back_hides_no_death_and_holds_up_no_call(
    between: proxy.Proxy,
    new_executor: NewExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(api, "WATCH_SILENCE_S", 20.0)
    between.withholds_watches = True
    with caplog.at_level(logging.WARNING), new_executor() as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
        for _ in range(2):
            error = executor.submit(jobs.kill_itself).exception(3 * LIMIT_S)
            assert isinstance(error, RemoteExitException)
    told = [record for record in caplog.records if "takes watches" in record.getMessage()]
    assert len(told) == 1


def test_a_conflict_is_tried_again(between: proxy.Proxy, new_executor: NewExecutor) -> None:
    """The words are those for a quota that several change at once."""
    words = "Operation cannot be fulfilled on resourcequotas: please apply your changes"
    conflicts = iter(range(2))

    def interfere(method: str, path: str) -> proxy.Answer:
        if method == "POST" and path.endswith("/jobs") and next(conflicts, None) is not None:
            return 409, _JSON, proxy.status(409, "Conflict", words)
        return None

    between.interfere = interfere
    with new_executor() as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    assert sum(method == "POST" for method, _ in between.seen) == 3


def _pause_after_a_refusal(
    between: proxy.Proxy, new_executor: NewExecutor, refuse: Callable[[], proxy.Answer]
) -> float:
    """Refuses a call's first Job. Returns: seconds from then to the next request of any kind."""
    refused_at: list[float] = []
    asked_at: list[float] = []

    def interfere(method: str, path: str) -> proxy.Answer:
        if refused_at:
            asked_at.append(time.monotonic())
        elif method == "POST" and path.endswith("/jobs"):
            refused_at.append(time.monotonic())
            return refuse()
        return None

    between.interfere = interfere
    with new_executor() as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
    return asked_at[0] - refused_at[0]


def test_a_server_that_names_a_time_is_not_asked_before(
    between: proxy.Proxy, new_executor: NewExecutor
) -> None:
    def refuse() -> proxy.Answer:
        return 429, {**_JSON, "Retry-After": "7"}, proxy.status(429, "TooManyRequests", "busy")

    assert _pause_after_a_refusal(between, new_executor, refuse) >= 7


def test_a_date_before_which_to_ask_nothing_is_kept_to(
    between: proxy.Proxy, new_executor: NewExecutor
) -> None:
    def refuse() -> proxy.Answer:
        until = datetime.now(timezone.utc) + timedelta(seconds=8)
        headers = {**_JSON, "Retry-After": format_datetime(until, usegmt=True)}
        return 503, headers, proxy.status(503, "ServiceUnavailable", "busy")

    # The date has no parts of seconds.
    assert _pause_after_a_refusal(between, new_executor, refuse) >= 6


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"items": null}'])
def test_json_that_is_no_kubernetes_passes(
    between: proxy.Proxy, new_executor: NewExecutor, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """It may come from a proxy that wants a login. The request is made again."""
    strange = {"POST": 1, "GET": 2}

    def interfere(method: str, path: str) -> proxy.Answer:
        left = strange.get(method, 0)
        strange[method] = left - 1
        return (200, _JSON, body) if left > 0 else None

    between.interfere = interfere
    with caplog.at_level(logging.WARNING), new_executor() as executor:
        assert executor.submit(jobs.square, 3).result(2 * LIMIT_S) == 9
    assert "no API server of Kubernetes" in caplog.text
    assert "unexpected error" not in caplog.text


def test_what_is_no_kubernetes_is_said(between: proxy.Proxy, new_executor: NewExecutor) -> None:
    page = b"<html><title>Please log in</title></html>"
    between.interfere = lambda method, path: (404, {"Content-Type": "text/html"}, page)
    with new_executor() as executor:
        error = executor.submit(jobs.square, 3).exception(LIMIT_S)
    assert isinstance(error, SubmissionException)
    assert "as no API server of Kubernetes does" in str(error)
    assert "Please log in" in str(error)
