"""Calls in this process that are pickled as for a cluster: tests find there what cannot be sent."""

from __future__ import annotations

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

_T = TypeVar("_T")


class SequentialPickleExecutor(SequentialExecutor):
    """A `SequentialExecutor` that pickles and unpickles function, arguments and result."""

    def _call(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        keep: KeptOutput | None,
    ) -> _T:
        fn, args, kwargs = pickling.loads(pack_call(fn, args, kwargs))
        return unpack_result(pack_result(fn, call_and_keep(fn, args, kwargs, keep)))
