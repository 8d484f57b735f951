"""What every strategy can do, as a type: for annotations in code that takes any executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from typing_extensions import ParamSpec, Self

if TYPE_CHECKING:
    from cluster_tools.call_stats import ExecutorStats

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")


class Executor(Protocol):
    """An executor of `concurrent.futures`, with `map_to_futures` and `forward_log`.

    `submit`, `map`, `shutdown` and `with` mean what the standard library's documentation says:
    https://docs.python.org/3/library/concurrent.futures.html#executor-objects
    """

    @property
    def max_workers(self) -> int:
        """How many calls can run at a time, as far as that is known."""
        ...

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Has `fn(*args, **kwargs)` called, and returns the future of its result.

        A keyword argument `__cfut_options={"output_key": key}` is not handed to `fn`: it keeps
        this call's output in the output store, under `key`.
        """
        ...

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Yields the results of `fn` over the zipped iterables, in their order.

        Arguments:
            fn: Called once per tuple of arguments.
            iterables: Zipped, so the shortest one decides how many calls there are.
            timeout: Seconds from the call of `map` in which all results have to be there.
            chunksize: Calls that a worker process takes at once, where there are such. Not given,
                that is decided from how long calls take, and makes no difference but speed.
            buffersize: At most so many calls are submitted ahead of what was yielded; without
                it all are submitted before `map` returns.

        Raises:
            concurrent.futures.TimeoutError: From the iterator, when the time is over.
            Exception: From the iterator, whatever the next call raised.
        """
        ...

    def map_to_futures(
        self,
        fn: Callable[[_S], _T],
        args: Iterable[_S],
        output_pickle_path_getter: Callable[[_S], str | PathLike[str]] | None = None,
        output_key_getter: Callable[[_S], str] | None = None,
    ) -> list[Future[_T]]:
        """Has `fn` called with each of `args`, and returns the futures in the same order.

        Arguments:
            fn: Called with one item.
            args: The items.
            output_pickle_path_getter: The older spelling of `output_key_getter`.
            output_key_getter: Names, per item, the key under which its output is kept.

        Raises:
            ValueError: Both getters are given.
        """
        ...

    @classmethod
    def as_completed(cls, futures: Iterable[Future[_T]]) -> Iterator[Future[_T]]:
        """Yields the futures as they are done: `concurrent.futures.as_completed`."""
        ...

    def share(self, value: _T) -> _T:
        """Writes a value once, for many calls of this executor. What it returns stands for it.

        That is a small handle. Where a call has it as an argument, in a container, a partial or a
        closure, the function gets the value; only `sequential`, whose arguments are not copied,
        returns the value itself. Its type is that of the value, for type checkers: in this process
        it is good for nothing but calls.

        A process that runs calls reads the value at most once: all calls in it get the same object,
        so they must not change it. The memory of arrays (of NumPy, Arrow, and whatever pickles by
        `pickle.PickleBuffer`) is mapped from the file, so that the processes of a machine share it,
        and is read-only. The file is deleted when nobody has the handle any more and the calls with
        it are done, at the latest when the executor ends. Equal values have one file.

        Raises:
            pickle.PicklingError: The value can't be pickled.
            OSError: There is no room for it.
            RuntimeError: The executor was shut down.
        """
        ...

    def forward_log(self, fut: Future[_T]) -> _T:
        """Waits for `fut`, writes its log to stdout meanwhile, and returns its result."""
        ...

    def stats(self) -> ExecutorStats:
        """What has become of this executor's calls by now: counts by state, rate, time left."""
        ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and frees what the executor holds once its calls are done."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None: ...
