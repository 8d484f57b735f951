"""The future that the standard library's pool has of its own work.

Knows why a pool may break; nothing of what is done with the outcome.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cluster_tools.function_name import exception_text

_T = TypeVar("_T")


class PoolFuture(Future[_T]):
    """The pool's future. Where the pool breaks, its thread fails them all, and before Python 3.13 dies itself of
    one that was cancelled: the others would never be done.
    """

    def set_exception(self, exception: BaseException | None) -> None:
        name_cause(exception, threading.current_thread())
        with contextlib.suppress(InvalidStateError):
            super().set_exception(exception)


def name_cause(exception: BaseException | None, pool_thread: threading.Thread | None) -> None:
    """Lets a BrokenProcessPool say that an initializer failed, where that was noted by the pool's thread."""
    cause = getattr(pool_thread, "initializer_error", None)
    if cause is not None and isinstance(exception, BrokenProcessPool):
        exception.args = (f"the initializer of a worker failed: {exception_text(cause)}",)
        exception.__cause__ = cause
