"""The iterator that `map` returns, for all executors that do not use the standard library's.

Knows futures, nothing of whoever resolves them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def check_map_arguments(*, chunksize: int | None, buffersize: int | None) -> None:
    """Refuses what Python 3.14's `map` refuses, on every Python.

    Raises:
        TypeError: `buffersize` is neither an int nor None.
        ValueError: One of them is less than 1.
    """
    if buffersize is not None and not isinstance(buffersize, int):  # pyright: ignore
        raise TypeError(f"buffersize must be an int or None, not {type(buffersize).__name__}")
    if buffersize is not None and buffersize < 1:
        raise ValueError(f"buffersize must be None or at least 1, not {buffersize}")
    if chunksize is not None and chunksize < 1:
        raise ValueError(f"chunksize must be at least 1, not {chunksize}")


def iterate_results(
    futures: deque[Future[_T]],
    *,
    timeout: float | None,
    submit_next: Callable[[], Future[_T] | None] | None = None,
    cancel: bool = True,
) -> Iterator[_T]:
    """Yields the results of futures in their order, as the standard library's `map` does.

    If a started iterator is closed, or raises, the calls that have not started are cancelled. No
    reference is kept to a result that was yielded.

    Arguments:
        futures: In the order of their calls. The iterator removes them.
        timeout: Seconds from now in which all results must be there.
        submit_next: Submits one more call (for `buffersize`), and returns None if there is none.
            It is called before each wait for a result.
        cancel: Cancel calls that have not started if the iterator ends early.

    Raises:
        concurrent.futures.TimeoutError: From the iterator, when the time is over.
    """
    deadline = None if timeout is None else time.monotonic() + timeout

    # An inner generator, so that the time counts from now and not from the first `next`.
    def results() -> Iterator[_T]:
        try:
            while futures:
                if submit_next is not None and (future := submit_next()) is not None:
                    futures.append(future)
                    del future
                yield _result_or_cancel(futures.popleft(), deadline, cancel)
        finally:
            for future in futures if cancel else ():
                future.cancel()

    return results()


def _result_or_cancel(future: Future[_T], deadline: float | None, cancel: bool) -> _T:
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    finally:
        if cancel:
            future.cancel()  # has an effect only if this was interrupted or too late
        # Else a cycle: an exception's traceback has this frame, and the future has the exception.
        del future
