"""The future of a call in the standard library's pool, which tells why the pool broke.

Knows pools and their exceptions, nothing of what is done with the outcome.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import PENDING, RUNNING
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cluster_tools.function_name import exception_text

_T = TypeVar("_T")


class PoolFuture(Future[_T]):
    """A future of the pool that may be failed after it was cancelled.

    When a pool breaks, its thread fails all futures. Before Python 3.13 a cancelled one would end
    that thread by an exception, and the other futures would never be done.
    """

    def wait_again(self) -> None:
        """To be called for a call that a worker has given back without beginning it."""
        with self._condition:  # pyright: ignore
            if self._state == RUNNING:  # pyright: ignore
                self._state = PENDING

    def set_exception(self, exception: BaseException | None) -> None:
        add_initializer_error(exception, threading.current_thread())
        with contextlib.suppress(InvalidStateError):
            super().set_exception(exception)


def add_initializer_error(
    exception: BaseException | None, pool_thread: threading.Thread | None
) -> None:
    """Lets a BrokenProcessPool say that an initializer failed, if the pool's thread knows that."""
    cause = getattr(pool_thread, "initializer_error", None)
    if cause is not None and isinstance(exception, BrokenProcessPool):
        exception.args = (f"the initializer of a worker failed: {exception_text(cause)}",)
        exception.__cause__ = cause
