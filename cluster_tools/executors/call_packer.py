"""Pickles many calls of one function, and keeps the pickle of the function once for all of them.

    fn ----------------> pickle of the function ----.
                             | what it has pickled    >--- a packed call: both, one behind the other
    arguments of a call ---> refers back to that ----'

As both come from one pickler, an object that the function and an argument share is one object in
the worker, too. Knows pickles; `calls.run_packed_call` reads them.
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

# Equal fragments of several calls are kept once if they are at least so large: for smaller ones
# looking them up is not worth it.
_MIN_SHARED_BYTES = 4096


class CallPacker:
    """Packs calls of `fn`, which is pickled once: later changes of its state are not seen.

    Arguments:
        fn: The function.
        dumps: How to pickle: `dumps_for_relatives` or `pickling.dumps`.
    """

    def __init__(self, fn: Callable[..., Any], dumps: Dumps) -> None:
        self._fn = fn
        self._dumps = dumps
        # Ways to pickle, tried in this order for each call; the same that `dumps` tries.
        self._ways: list[_Way] = [_by_reference, _by_value]
        if dumps is dumps_for_relatives:
            self._ways.insert(0, _for_relatives)
        self._function_error: Exception | None = None
        self._function_pickles: dict[_Way, _FunctionPickle] = {}
        # Large fragments of the calls so far.
        self._fragments: dict[bytes, bytes] = {}

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
                fragments = pickled.with_arguments(args)
            except Exception as arguments_error:
                error = arguments_error
                continue
            if way is _by_value or not pickling.goes_by_value(fragments):
                return pickled.packed_fn, *map(self._kept_once, fragments)
        raise unpicklable_call(self._fn, args, {}, self._dumps, error) from error

    def _function_pickle(self, way: _Way) -> _FunctionPickle | None:
        """The function, pickled this way; None where it can't be, and so not for the next call."""
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

    def _kept_once(self, fragment: bytes) -> bytes:
        if len(fragment) < _MIN_SHARED_BYTES:
            return fragment
        return self._fragments.setdefault(fragment, fragment)


class _FunctionPickle:
    """The pickle of a function, and the pickler that goes on from there with arguments."""

    def __init__(
        self,
        fn: Callable[..., Any],
        pickler: Any,
        fragments: pickling.Fragments,
        only_once: list[str],
    ) -> None:
        self._pickler = pickler
        self._fragments = fragments
        pickler.dump(fn)
        self.packed_fn = b"".join(fragments)
        # The memo after `fn`. Kept in another pickler, as that copies it much faster than a dict.
        self._memo: Any = pickle.Pickler(BytesIO())
        self._memo.memo = pickler.memo
        # Whether the function holds something that can be unpickled
        # only once, such as a connection.
        self.loads_once = bool(only_once)

    def with_arguments(self, args: tuple[Any, ...]) -> Iterable[bytes]:
        """What follows `packed_fn` in a packed call; good until the next call of this."""
        self._fragments.clear()
        self._pickler.memo = self._memo.memo
        self._pickler.dump((args, {}))
        return self._fragments


def _for_relatives(fn: Callable[..., Any]) -> _FunctionPickle:
    fragments = pickling.Fragments()
    only_once: list[str] = []
    return _FunctionPickle(fn, relatives_pickler(fragments, only_once), fragments, only_once)


def _by_reference(fn: Callable[..., Any]) -> _FunctionPickle:
    fragments = pickling.Fragments()
    return _FunctionPickle(fn, reference_pickler(fragments), fragments, [])


def _by_value(fn: Callable[..., Any]) -> _FunctionPickle:
    fragments = pickling.Fragments()
    return _FunctionPickle(fn, pickling.value_pickler(fragments), fragments, [])


_Way = Callable[[Callable[..., Any]], _FunctionPickle]
