"""Promises on log lines about failures that the strategies do not show."""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError, Future

import pytest

from cluster_tools.failure_log import FailureLog, first_line


class _Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_a_cancellation_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    log = FailureLog(2)
    log.note(CancelledError(), "Job 1")
    future: Future[int] = Future()
    log.watch(future, "Job 2")
    future.cancel()
    assert caplog.records == []


def test_ten_failures_have_a_line_each_and_the_rest_is_counted_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FailureLog(30)
    for index in range(29):
        log.note(ValueError(index) if index % 2 else None, f"Job {index}")
    assert [r.getMessage() for r in caplog.records] == [
        f"Job {index} failed: ValueError: {index}" for index in range(1, 21, 2)
    ]
    log.note(None, "Job 29")
    assert "14 of 30 calls failed" in caplog.records[10].getMessage()
    assert {r.levelno for r in caplog.records} == {logging.ERROR}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError(), "ValueError"),
        (_Mute(), "_Mute"),
        (
            RuntimeError(
                "Traceback (most recent call last):\n  File 'a'\n\nKeyError: 1\nwith a note"
            ),
            "RuntimeError: KeyError: 1",
        ),
    ],
)
def test_the_first_line_tells_what_happened(error: Exception, expected: str) -> None:
    assert first_line(error) == expected
