"""A call on its way to another process, and its outcome on the way back, as bytes.

Knows functions, pickles and exceptions; nothing of pools and futures. What cannot make the way
becomes that call's exception here, because a pool breaks of it.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cluster_tools import pickling
from cluster_tools.errors import RemoteTraceback, exception_from_parts
from cluster_tools.function_name import function_name
from cluster_tools.worker import exception_state

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.output_store import OutputStore

_T = TypeVar("_T")

Dumps = Callable[[object], bytes]
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
        raise pickle.PicklingError(
            f"call of {function_name(fn)}: {_culprit(fn, args, kwargs, dumps)} cannot be pickled "
            f"({type(error).__name__}: {error})"
        ) from error


def _culprit(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], dumps: Dumps
) -> str:
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
            f"call of {function_name(fn)}: its result, of type {type(result).__name__}, cannot be "
            f"pickled ({type(error).__name__}: {error})"
        ) from error


def unpack_result(outcome: bytes) -> Any:
    """The result of which `pack_result` made the bytes. Raises whatever unpickling it raises."""
    return pickle.loads(outcome)[1]


def call_and_keep(
    fn: Callable[..., _T],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    keep: KeptOutput | None,
) -> _T:
    """Runs a call in this process; a result that cannot be kept is an error of the call."""
    result = fn(*args, **kwargs)
    if keep is not None:
        store, key = keep
        store.write(key, pack_result(fn, result), success=True)
    return result


def run_packed_call(call: bytes, dumps: Dumps, keep: KeptOutput | None) -> tuple[bool, bytes]:
    """Runs a packed call; this is what a worker process does.

    Returns:
        Whether the call succeeded, and the packed result or the packed exception.
    """
    try:
        fn, args, kwargs = pickle.loads(call)
        result = fn(*args, **kwargs)
        if keep is None:
            return True, pack_result(fn, result, dumps=dumps)
        store, key = keep
        # The store's bytes outlive this process, so nothing that only a sibling can read.
        outcome = pack_result(fn, result)
        store.write(key, outcome, success=True)
        return True, outcome
    except BaseException as error:
        return False, pack_exception(error)


def pack_exception(error: BaseException) -> bytes:
    """Pickles an exception and its traceback's text, by whichever way brings it back."""
    frames = error.__traceback__
    try:
        # The first frame is ours.
        text = "".join(traceback.format_exception(type(error), error, frames and frames.tb_next))
    except Exception:  # the function's own class may do anything in __str__
        text = f"{type(error).__name__} (its message cannot be formatted)\n"
    # First the parts: the constructor that a class's own pickle calls may want other arguments.
    state = exception_state(error)
    parts = (type(error), error.args, state)
    without = (type(error), error.args, {k: v for k, v in state.items() if _is_picklable(v)})
    for form in (parts, error, without):
        try:
            packed = pickling.dumps((text, form))
            if type(_rebuilt(pickling.loads(packed)[1])) is type(error):
                return packed
        except Exception:
            continue  # an attribute that refuses, or a type
    lost = pickle.PicklingError(
        f"an exception of type {type(error).__name__} cannot be pickled; its traceback is above"
    )
    return pickling.dumps((text, lost))


def _is_picklable(value: object) -> bool:
    try:
        pickling.dumps(value)
    except Exception:
        return False
    return True


def unpack_outcome(success: bool, outcome: bytes) -> tuple[Any, BaseException | None]:
    """The result, or None and the exception, of what `run_packed_call` returned."""
    try:
        return (unpack_result(outcome), None) if success else (None, unpack_exception(outcome))
    except BaseException as unpickling_error:
        return None, unpickling_error


def unpack_exception(outcome: bytes) -> BaseException:
    """The exception of a call that failed in another process.

    Where this process cannot rebuild it, that is the exception. The traceback that it had there
    is its `__cause__`.
    """
    text = ""
    try:
        text, form = pickling.loads(outcome)
        error = _rebuilt(form)
    except Exception as unpickling_error:
        error = unpickling_error
    error.__cause__ = RemoteTraceback(text)
    return error


def _rebuilt(form: Any) -> BaseException:
    return form if isinstance(form, BaseException) else exception_from_parts(*form)
