"""The base classes of all our futures: the standard library's, without its errors.

They know nothing of whoever resolves a future.
"""

from __future__ import annotations

import platform
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from cluster_tools.call_stats import CallStats, call_stats
from cluster_tools.format.measured import measured
from cluster_tools.function_name import type_name

if TYPE_CHECKING:
    from cluster_tools.usage import Used

_T = TypeVar("_T")


class RaisingFuture(Future[_T]):
    """A `concurrent.futures.Future` that raises its exception even if `bool(exception)` is False.

    Up to Python 3.13.3, `result()` returns None then:
    https://github.com/python/cpython/issues/132063
    """

    _exception: BaseException | None

    # Called by `result`; the name is that of a private method of the standard library's class.
    def _Future__get_result(self) -> _T:
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                # The exception's traceback refers to this frame.
                self = None
        result: Any = self._result  # pyright: ignore
        return result

    def __repr__(self) -> str:
        """As the standard library's, but without `__class__` of the result or the exception."""
        state: str = self._state  # pyright: ignore
        text = f"<{type_name(self)} at {id(self):#x} state={state.lower().partition('_')[0]}"
        if state != "FINISHED":
            return f"{text}>"
        if self._exception is not None:
            return f"{text} raised {type_name(self._exception)}>"
        return f"{text} returned {type_name(self._result)}>"  # pyright: ignore


class LocalFuture(RaisingFuture[_T]):
    """The future of a call that runs on this machine, in this process or in a worker of its own."""

    # What was measured of the call; set before the future is done.
    used: Used | None = None

    def __init__(self) -> None:
        super().__init__()
        self._submitted_at = time.time()

    @property
    def cluster_stats(self) -> CallStats:
        """What is known about the call: until it has ended that is when it was submitted."""
        used = self.used
        known = None if used is None else measured(platform.node(), used)
        return call_stats(known, submitted_at=self._submitted_at)
