"""Packs a call for another process, runs it there, and unpacks its outcome.

Knows functions, pickles and exceptions, no pools and no futures. What cannot be pickled becomes the
exception of its call here, because it would break a pool.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, TypeVar

from cluster_tools import pickling
from cluster_tools.errors import RemoteTraceback, local_exception
from cluster_tools.function_name import exception_text, function_name, type_name
from cluster_tools.packed_exceptions import failure_bytes, rows_of

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.output_store import OutputStore

_T = TypeVar("_T")

Dumps = Callable[[object], bytes]
PackedCall = bytes | tuple[bytes, ...]
"""The pickle of `(function, arguments, keywords)`.

Or, as fragments of one pickler, the pickle of the function and behind it that of the other two.
"""
KeptOutput = tuple["OutputStore", str]
"""A store, and the key under which the output of a call is kept there."""


def pack_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    dumps: Dumps = pickling.dumps,
) -> bytes:
    """Pickles a call.

    Raises:
        pickle.PicklingError: Names the function and what of it cannot be pickled; the original
            error is its `__cause__`.
    """
    try:
        return dumps((fn, args, dict(kwargs)))
    except Exception as error:
        raise unpicklable_call(fn, args, kwargs, dumps, error) from error


def unpicklable_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dumps: Dumps,
    error: BaseException | None,
) -> pickle.PicklingError:
    """The exception of a call that cannot be pickled, because of `error`."""
    reason = "" if error is None else f" ({exception_text(error)})"
    return pickle.PicklingError(
        f"call of {function_name(fn)}: {_unpicklable_part(fn, args, kwargs, dumps)} cannot be "
        f"pickled{reason}"
    )


def forget_arguments(error: BaseException) -> None:
    """Turns the tracebacks of an exception raised by packing into text.

    Their frames refer to arguments and pickles, which nobody may keep.
    """
    error.__traceback__ = error.__context__ = None
    cause = error.__cause__
    if cause is None:
        return
    with suppress(Exception):  # its class may define these attributes otherwise
        text = "".join(traceback.format_exception(cause))
        cause.__traceback__ = cause.__context__ = None
        cause.__cause__ = RemoteTraceback(text)


def _unpicklable_part(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], dumps: Dumps
) -> str:
    """Names the first part of a call that cannot be pickled."""
    parts = [
        ("the function", fn),
        *((f"argument {i}", value) for i, value in enumerate(args)),
        *((f"the argument {name!r}", value) for name, value in kwargs.items()),
    ]
    for name, part in parts:
        try:
            dumps(part)
        except Exception:
            return name
    return "the call"


def pack_result(fn: Callable[..., Any], result: object, *, dumps: Dumps = pickling.dumps) -> bytes:
    """Pickles the pair `(True, result)`, which is also the form of a kept output.

    Raises:
        pickle.PicklingError: Names the function; the original error is its `__cause__`.
    """
    try:
        return dumps((True, result))
    except Exception as error:
        raise pickle.PicklingError(
            f"call of {function_name(fn)}: its result, of type {type_name(result)}, cannot be "
            f"pickled ({exception_text(error)})"
        ) from error


def unpack_result(outcome: bytes) -> Any:
    """The result that `pack_result` has packed. Raises: whatever unpickling raises."""
    return pickle.loads(outcome)[1]


def call_and_keep(
    fn: Callable[..., _T],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    keep: KeptOutput | None,
) -> _T:
    """Runs a call in this process, and writes its output to the store if it is kept.

    Raises: what the call raises, what pickling its result raises, and what the store raises.
    """
    result = fn(*args, **kwargs)
    if keep is not None:
        store, key = keep
        store.write(key, pack_result(fn, result), success=True)
    return result


def run_packed_call(call: PackedCall, dumps: Dumps, keep: KeptOutput | None) -> tuple[bool, bytes]:
    """Runs a packed call, in a worker process.

    Returns:
        Whether the call succeeded, and the packed result or the packed exception.
    """
    try:
        fn, args, kwargs = _unpack_call(call)
        result = fn(*args, **kwargs)
        if keep is None:
            return True, pack_result(fn, result, dumps=dumps)
        store, key = keep
        # Not by `dumps`: kept outputs are also read by processes that are no relatives of this one.
        outcome = pack_result(fn, result)
        store.write(key, outcome, success=True)
        return True, outcome
    except BaseException as error:
        return False, failure_bytes(error, frames_to_hide=1)  # the first frame is ours


def _unpack_call(call: PackedCall) -> Any:
    if isinstance(call, bytes):
        return pickle.loads(call)
    unpickler = pickle.Unpickler(BytesIO(b"".join(call)))
    return unpickler.load(), *unpickler.load()


def unpack_outcome(success: bool, outcome: bytes) -> tuple[Any, BaseException | None]:
    """(result, None) or (None, exception) of what `run_packed_call` returned."""
    try:
        return (unpack_result(outcome), None) if success else (None, unpack_exception(outcome))
    except BaseException as unpickling_error:
        return None, unpickling_error


def unpack_exception(outcome: bytes) -> BaseException:
    """The exception of a call that failed in another process, with its traceback from there."""
    _, text = pickle.loads(outcome)
    return local_exception(rows_of(outcome), text)
