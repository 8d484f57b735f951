"""Waiting for what a test needs, with a limit: the one place in the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 40.0  # in which everything that a test waits for has to happen
_POLL_S = 0.01


def wait_until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Returns when `condition()` is true. Raises TimeoutError, with `what`, after LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {LIMIT_S} s for {what}")
        time.sleep(_POLL_S)
