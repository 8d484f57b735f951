"""Runs calls in this process, but pickles them as for a cluster: tests see what can't be."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cluster_tools import pickling
from cluster_tools.executors.calls import (
    KeptOutput,
    call_and_keep,
    pack_call,
    pack_result,
    unpack_result,
)
from cluster_tools.executors.sequential import SequentialExecutor
from cluster_tools.executors.temporary_shared import TemporarySharedFiles
from cluster_tools.function_name import function_name
from cluster_tools.output_store import OutputStore
from cluster_tools.sharing import Uses

_T = TypeVar("_T")


class SequentialPickleExecutor(SequentialExecutor):
    """A `SequentialExecutor` that pickles and unpickles function, arguments and result.

    So it does with the `initializer` and its arguments, when the executor is made.

    Raises:
        pickle.PicklingError: `initializer` or `initargs` cannot be pickled.
    """

    def __init__(self, output_store: OutputStore | None = None, **keywords: Any) -> None:
        super().__init__(output_store, **keywords)
        self._shared = TemporarySharedFiles()

    def share(self, value: _T) -> _T:
        """Writes the value to a temporary file; see `cluster_tools.Executor.share`."""
        self._check_open("cannot share a value after shutdown")
        return self._shared.share(value)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses further calls, and deletes shared values."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._shared.close()

    def _prepared(
        self, initializer: Callable[..., object], initargs: tuple[Any, ...]
    ) -> Callable[[], object]:
        try:
            packed = pickling.dumps((initializer, initargs))
        except Exception as error:
            raise pickle.PicklingError(
                f"the initializer {function_name(initializer)} or its initargs cannot be pickled "
                f"({type(error).__name__}: {error})"
            ) from error

        def initialize() -> None:
            unpickled, arguments = pickling.loads(packed)
            unpickled(*arguments)

        return initialize

    def _call(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        keep: KeptOutput | None,
    ) -> _T:
        with Uses(self._shared):
            packed = pack_call(fn, args, kwargs)
        fn, args, kwargs = pickling.loads(packed)
        return unpack_result(pack_result(fn, call_and_keep(fn, args, kwargs, keep)))
