"""Promises on what the log says about failures."""

from __future__ import annotations

import logging
from typing import Any

import calls
import pytest
from strategies import NewExecutor

from support.waiting import LIMIT_S, wait_until


def _errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


@pytest.mark.filterwarnings("ignore:BatchingExecutor.submit bypasses batching")
def test_a_failure_is_logged_once_with_its_first_line(
    executor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    future = executor.submit(calls.raise_refusal, 7)
    future.exception(LIMIT_S)
    wait_until(lambda: _errors(caplog), "the log record")
    (message,) = _errors(caplog)
    assert "raise_refusal" in message
    assert "Refusal: refused with 7: it refuses" in message
    if hasattr(future, "cluster_jobid"):
        assert future.cluster_jobid in message


@pytest.mark.holds_for("makes_no_batches")
def test_after_ten_failures_of_an_array_one_line_has_the_count(
    new_executor: NewExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor = new_executor()
    for future in executor.map_to_futures(calls.refuse_odd, range(24)):
        future.exception(LIMIT_S)
    executor.shutdown()
    messages = _errors(caplog)
    assert len(messages) == 11
    assert all("it is odd" in message for message in messages[:10])
    assert "12 of 24 calls failed" in messages[10]
