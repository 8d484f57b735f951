"""What runs in the worker processes of a pool: their start, and chunks of a `map`.

A worker that is started by spawn imports this module, so it imports little, and nothing of the
client's side. Single calls are run by `run_measured_call`.

    pool's loop         run_chunk: calls, one after the other
    takes a chunk ----> may the next one begin? its outcome ---> ChunkProgress <--- the client
    sends the rest <--- outcomes that the client has not taken
"""

from __future__ import annotations

import copyreg
import io
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import _ResultItem  # pyright: ignore[reportPrivateUsage]
from functools import partial
from multiprocessing.reduction import ForkingPickler
from types import MethodDescriptorType, MethodType, WrapperDescriptorType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from cluster_tools import pickling
from cluster_tools.by_reference import reduce_method
from cluster_tools.executors.calls import (
    Dumps,
    PackedCall,
    pack_call,
    pack_result,
    run_packed_call,
    unpack_exception,
)
from cluster_tools.executors.chunk_progress import ChunkProgress
from cluster_tools.function_name import type_name
from cluster_tools.packed_exceptions import failure_bytes
from cluster_tools.usage import Meter

if TYPE_CHECKING:
    from cluster_tools.executors.calls import KeptOutput
    from cluster_tools.usage import Used

PLAIN_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes})
"""Types whose values nobody can change, so that values of several calls may be in one pickle.

Other values get a pickle for each call: in one pickle, what two calls share would be one object.
"""

# Set by `start_worker`: the pool's queue of results, this worker's ChunkProgress and its Meter.
_answers: Any = None
_progress: Any = None
_meter: Any = None


class ChunkAnswer(NamedTuple):
    """Outcomes of a chunk, which a worker sends at its end, and before that if there are many.

    `first`: how many outcomes of the chunk came before these.
    `outcomes`: of the next calls, in their order: a result of a plain type itself, or else the pair
        that `run_packed_call` returns; of submitted calls, what `run_measured_call` returns.
    `seconds_per_call`: so far.
    `goes_on`: another answer will follow. If not, calls without an outcome have not begun.
    """

    first: int
    outcomes: list[Any]
    seconds_per_call: float
    goes_on: bool


def run_measured_call(
    call: PackedCall, dumps: Dumps, keep: KeptOutput | None
) -> tuple[bool, bytes, Used]:
    """`run_packed_call`, and what the call has used."""
    began = _meter.begin()
    success, outcome = run_packed_call(call, dumps, keep)
    return success, outcome, _meter.end(began)


def run_chunk(
    chunk_id: int,
    packed_fn: bytes | None,
    calls: list[Any],
    dumps: Dumps,
) -> ChunkAnswer:
    """Runs calls of a `map`, except those that the client takes back.

    Arguments:
        chunk_id: The id under which the pool waits for answers.
        packed_fn: The pickled function; None where `calls` are packed calls.
        calls: Packed calls; or, for each argument of the function, the list of its values, which
            are of plain types.
        dumps: Pickles results.
    """
    if packed_fn is None:
        return _run(chunk_id, partial(_run_packed, calls, dumps))
    return _run(chunk_id, lambda keep: _run_plain(_loaded(packed_fn), zip(*calls), dumps, keep))


def run_batch(chunk_id: int, calls: list[PackedCall], dumps: Dumps) -> ChunkAnswer:
    """Runs submitted calls, except those that the client takes back.

    Arguments: as of `run_chunk`. An outcome is what `run_measured_call` returns.
    """
    return _run(chunk_id, partial(_run_measured, calls, dumps))


def _run(chunk_id: int, run_calls: Callable[[Callable[[Any], None]], None]) -> ChunkAnswer:
    began_s = time.perf_counter()

    def answer(first: int, outcomes: list[Any], *, goes_on: bool) -> ChunkAnswer:
        seconds = time.perf_counter() - began_s
        return ChunkAnswer(first, outcomes, seconds / max(1, first + len(outcomes)), goes_on)

    def send(first: int, outcomes: list[Any]) -> None:
        _answers.put(_ResultItem(chunk_id, result=answer(first, outcomes, goes_on=True)))

    keep = _progress.begin(chunk_id, send)
    if keep is None:
        return answer(0, [], goes_on=False)
    run_calls(keep)
    return answer(*_progress.end(), goes_on=False)


def _run_packed(calls: list[PackedCall], dumps: Dumps, keep: Callable[[Any], None]) -> None:
    for call in calls:
        if not _progress.next_may_begin():
            return
        keep(run_packed_call(call, dumps, None))


def _run_measured(calls: list[PackedCall], dumps: Dumps, keep: Callable[[Any], None]) -> None:
    for call in calls:
        if not _progress.next_may_begin():
            return
        keep(run_measured_call(call, dumps, None))


def _run_plain(
    fn: Callable[..., Any],
    calls: Iterator[tuple[Any, ...]],
    dumps: Dumps,
    keep: Callable[[Any], None],
) -> None:
    next_may_begin = _progress.next_may_begin
    for args in calls:
        if not next_may_begin():
            return
        try:
            result = fn(*args)
            if type(result) not in PLAIN_TYPES:  # pickled now, as the next call may change it
                result = True, pack_result(fn, result, dumps=dumps)
        except BaseException as error:
            result = False, failure_bytes(error, frames_to_hide=1)
        keep(result)  # not in `try`: an exception of a signal handler would add a second outcome


def _loaded(packed_fn: bytes) -> Callable[..., Any]:
    try:
        return pickle.loads(packed_fn)
    except BaseException:
        # Then each call fails with this exception, a new one each time.
        return lambda *_: pickle.loads(packed_fn)


def start_worker(
    answers: Any, progress: ChunkProgress | None, sender: Any, initializer: Initializer | None
) -> None:
    """The pool's initializer: called when a worker process starts.

    Arguments:
        answers: The pool's queue of results.
        progress: This worker's progress. None if it gets no chunks.
        sender: A RecordSender; None in a forked worker, which has the parent's handlers.
        initializer: The user's.
    """
    global _answers, _progress, _meter
    _meter = Meter()
    _answers = answers
    _progress = progress
    if sender is not None:
        sender.install()
    if initializer is None:
        return
    try:
        initializer()
    except BaseException as error:
        # This ends the process, which breaks the pool; without this answer it would not know why.
        answers.put(InitializerFailure(failure_bytes(error, frames_to_hide=2)))
        raise


class Initializer:
    """The user's initializer, in the parent process.

    It arrives in workers as a `PackedInitializer`, which is unpickled only after logging was set
    up; an exception of that counts as the initializer's.
    """

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._call = fn, args

    def __call__(self) -> None:
        fn, args = self._call
        fn(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        # Called while a worker is started: only then can locks and queues be pickled.
        fn, args = self._call
        try:
            return PackedInitializer, (pack_call(fn, args, {}, dumps=dumps_for_relatives),)
        except pickle.PicklingError as error:
            return PackedInitializer, (None, failure_bytes(error, frames_to_hide=1))


class PackedInitializer:
    """The user's initializer, in a worker. `failure`: why it could not be pickled."""

    def __init__(self, call: bytes | None, failure: bytes = b"") -> None:
        self._call = call
        self._failure = failure

    def __call__(self) -> None:
        if self._call is None:
            raise unpack_exception(self._failure)
        fn, args, _ = pickle.loads(self._call)
        fn(*args)


class InitializerFailure:
    """Says, in the pool's queue of results, why a worker ends before its first call."""

    def __init__(self, failure: bytes) -> None:
        self._failure = failure

    def __reduce__(self) -> tuple[Any, ...]:
        return _note_failure, (self._failure,)


def _note_failure(failure: bytes) -> _ResultItem:
    """Notes the exception in the pool's thread, which calls this. Returns a result of no call."""
    thread: Any = threading.current_thread()
    thread.initializer_error = unpack_exception(failure)
    nobody: Any = None
    return _ResultItem(nobody)


def dumps_for_relatives(obj: object) -> bytes:
    """Pickles as multiprocessing does for related processes, which can share connections."""
    if _is_plain_tuple(obj):
        return pickle.dumps(obj, 5)  # the same bytes, but at once
    buffer = io.BytesIO()
    try:
        relatives_pickler(buffer).dump(obj)
    except Exception:
        return pickling.dumps(obj)
    pickled = buffer.getvalue()
    return pickling.dumps(obj) if pickling.goes_by_value((pickled,)) else pickled


def _is_plain_tuple(value: Any) -> bool:
    if type(value) is not tuple:
        return False
    return PLAIN_TYPES.issuperset(map(type, cast("tuple[Any, ...]", value)))


# Types that multiprocessing pickles specially, but of which a pickle may be loaded many times.
_LOAD_AGAIN = frozenset[Any]({MethodType, MethodDescriptorType, WrapperDescriptorType, partial})


def relatives_pickler(file: Any, only_once: list[str] | None = None) -> Any:
    """The pickler that `dumps_for_relatives` tries first.

    Arguments:
        file: Gets the pickle.
        only_once: Gets the names of those types in it whose pickles may be loaded only once.
    """
    pickler: Any = pickle.Pickler(file, 5)
    forking: Any = ForkingPickler
    reducers: dict[Any, Any] = forking._extra_reducers  # noqa: SLF001
    table: dict[Any, Any] = {**copyreg.dispatch_table, **reducers, MethodType: reduce_method}
    if only_once is not None:
        for kind in reducers:
            if kind not in _LOAD_AGAIN:
                table[kind] = partial(_reduce_and_note, table[kind], only_once)
    pickler.dispatch_table = table
    return pickler


def _reduce_and_note(reduce: Callable[[Any], Any], only_once: list[str], obj: Any) -> Any:
    only_once.append(type_name(obj))
    return reduce(obj)
