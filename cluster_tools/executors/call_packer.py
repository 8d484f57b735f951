"""Pickles of many calls of one function: what the function carries is kept once, not once a call.

    fn ----------------> pickle of the function ----.
                             | what it has pickled    >--- a packed call: both, one behind the other
    arguments of a call ---> refers back to that ----'

As both come from one pickler, what the function and an argument share is one object in the call,
too. Knows pickles; what reads them is `calls.run_packed_call`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from cluster_tools import pickling
from cluster_tools.by_reference import reference_pickler
from cluster_tools.executors.calls import Dumps, PackedCall, unpicklable_call
from cluster_tools.executors.pool_worker import dumps_for_relatives, relatives_pickler

# Pieces from this size on that several calls have are kept once.
_MIN_SHARED_BYTES = 4096


class CallPacker:
    """Packs calls of `fn`. For calls that are packed at one time: `fn` is not looked at again.

    Arguments:
        fn: The function.
        dumps: The way of pickling: that of multiprocessing, or else `pickling.dumps`.
    """

    def __init__(self, fn: Callable[..., Any], dumps: Dumps) -> None:
        self._fn = fn
        self._dumps = dumps
        # Tried in this order for each call, as by `dumps`.
        self._ways: list[_Way] = [_by_reference, _by_value]
        if dumps is dumps_for_relatives:
            self._ways.insert(0, _for_relatives)
        self._function_error: Exception | None = None
        self._function_pickles: dict[_Way, _FunctionPickle] = {}
        self._pieces: dict[bytes, bytes] = {}

    def pack(self, args: tuple[Any, ...]) -> PackedCall:
        """Pickles a call with these arguments.

        Raises:
            pickle.PicklingError: As `calls.pack_call`.
        """
        error = self._function_error
        for way in list(self._ways):
            pickled = self._function_pickle(way)
            if pickled is None:
                error = self._function_error
                continue
            try:
                pieces = pickled.with_arguments(args)
            except Exception as arguments_error:
                error = arguments_error
                continue
            if way is _by_value or not pickling.goes_by_value(pieces):
                return pickled.packed_fn, *map(self._kept_once, pieces)
        raise unpicklable_call(self._fn, args, {}, self._dumps, error) from error

    def _function_pickle(self, way: _Way) -> _FunctionPickle | None:
        """None where the function does not go this way; nor will it with the next call."""
        if way in self._function_pickles:
            return self._function_pickles[way]
        try:
            pickled = way(self._fn)
        except Exception as error:
            self._function_error = error
        else:
            if way is _by_value or not pickling.goes_by_value((pickled.packed_fn,)):
                if not pickled.loads_once:
                    self._function_pickles[way] = pickled
                return pickled
        self._ways.remove(way)
        return None

    def _kept_once(self, piece: bytes) -> bytes:
        return piece if len(piece) < _MIN_SHARED_BYTES else self._pieces.setdefault(piece, piece)


class _FunctionPickle:
    """The pickle of a function, and the pickler that goes on from there with arguments."""

    def __init__(
        self, fn: Callable[..., Any], pickler: Any, pieces: pickling.Pieces, only_once: list[str]
    ) -> None:
        self._pickler = pickler
        self._pieces = pieces
        pickler.dump(fn)
        self.packed_fn = b"".join(pieces)
        # Another pickler copies what one has pickled much faster than a dict would.
        self._memo: Any = pickle.Pickler(BytesIO())
        self._memo.memo = pickler.memo
        # Whether the function has what can be taken out of a pickle only once, such as a connection.
        self.loads_once = bool(only_once)

    def with_arguments(self, args: tuple[Any, ...]) -> Iterable[bytes]:
        """Behind `packed_fn`, the pickle of a call; it holds until the next one."""
        self._pieces.clear()
        self._pickler.memo = self._memo.memo
        self._pickler.dump((args, {}))
        return self._pieces


def _for_relatives(fn: Callable[..., Any]) -> _FunctionPickle:
    pieces = pickling.Pieces()
    only_once: list[str] = []
    return _FunctionPickle(fn, relatives_pickler(pieces, only_once), pieces, only_once)


def _by_reference(fn: Callable[..., Any]) -> _FunctionPickle:
    pieces = pickling.Pieces()
    return _FunctionPickle(fn, reference_pickler(pieces), pieces, [])


def _by_value(fn: Callable[..., Any]) -> _FunctionPickle:
    pieces = pickling.Pieces()
    return _FunctionPickle(fn, pickling.value_pickler(pieces), pieces, [])


_Way = Callable[[Callable[..., Any]], _FunctionPickle]
