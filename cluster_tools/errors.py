"""Every exception of the package.

    RemoteException                              a call failed in its job
    |-- (T, RemoteException)                     it raised a T: made here, once for each type T
    |-- RemoteResourceLimitException
    |   |-- RemoteOutOfMemoryException
    |   `-- RemoteTimeLimitException
    |-- RemoteCancelledException                 somebody cancelled its job
    |-- RemotePreemptedException                 its job had to make room for another
    |-- RemoteNodeFailureException               its node was lost
    |-- RemoteExitException                      its process ended without an output
    |-- RemoteNeverStartedException              its job ended before the call began
    |-- RemoteLostException                      the scheduler does not know its job any more
    `-- SubmissionException                      the scheduler refused the job

It knows pickles and exceptions, no scheduler and no executor.
"""

from __future__ import annotations

import pickle
from abc import ABCMeta
from collections import deque
from typing import Any, cast
from weakref import WeakValueDictionary

from cluster_tools import packed_exceptions


class RemoteException(Exception):
    """A call failed in its job.

    `error`: what happened, with the traceback of the job where there is one.
    `job_id`: the job, in an array `<jobid>_<index>`; "" where there was none.
    """

    def __init__(self, error: str, job_id: str):
        super().__init__(error, job_id)
        self.error = error
        self.job_id = job_id

    def __str__(self) -> str:
        return f"{self.error.strip()} (job_id={self.job_id})" if self.job_id else self.error.strip()


class RemoteResourceLimitException(RemoteException):
    """The job needed more than it had asked for."""


class RemoteOutOfMemoryException(RemoteResourceLimitException):
    """The job used more memory than it had asked for."""


class RemoteTimeLimitException(RemoteResourceLimitException):
    """The job ran for longer than its time limit."""


class RemoteCancelledException(RemoteException):
    """Somebody else than this executor cancelled the job."""


class RemotePreemptedException(RemoteException):
    """The job had to make room for another one and does not run again."""


class RemoteNodeFailureException(RemoteException):
    """The node of the job failed."""


class RemoteExitException(RemoteException):
    """The process of the call ended without leaving an output: killed, crashed or exited."""


class RemoteNeverStartedException(RemoteException):
    """The job ended before the call began."""


class RemoteLostException(RemoteException):
    """The scheduler answers, but does not know the job any more, and there is no output."""


class SubmissionException(RemoteException):
    """The scheduler refused the job; `error` has its words and the command."""


class RemoteTraceback(Exception):
    """The cause of an exception from a job: shows where it was raised there."""

    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.strip()}\n"""'


# By the class's id: what a metaclass says of equality counts for nothing.
_combined: WeakValueDictionary[int, type[BaseException]] = WeakValueDictionary()
# Those that were made last stay; of classes that are made anew with each call there may be any number.
_kept: deque[type[BaseException]] = deque(maxlen=1_000)


def _combine(cls: type[BaseException]) -> type[BaseException]:
    """The class `(cls, RemoteException)`; `cls` itself where it can't be combined, or is one already."""
    if not issubclass(cls, Exception) or issubclass(cls, RemoteException):
        return cls
    combined = _combined.get(id(cls))  # lives no longer than `cls`, which has the id as long
    if combined is None:
        try:
            combined = _new_class(cls)
            packed_exceptions.register(combined)
        except Exception:  # written in C and final, or of another layout
            combined = cls
        _combined[id(cls)] = combined
        _kept.append(combined)
    return combined


class _Quiet:
    """In front of a class, its `__init_subclass__` is not called: it is for classes of the program's own."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


def _new_class(cls: type[Exception]) -> type[Exception]:
    own = packed_exceptions.class_attributes(cls)
    attributes: dict[str, Any] = {
        "__module__": vars(type)["__module__"].__get__(cls),
        "__qualname__": vars(type)["__qualname__"].__get__(cls),
        "__doc__": own.get("__doc__"),
        "__slots__": (),
        "__reduce_ex__": _reduce,
    }

    def new(_: type, *args: Any, **kwargs: Any) -> Exception:
        """For `raise type(error)(words)`: it is no call's failure, and has `cls`'s constructor."""
        return cls(*args, **kwargs)

    attributes["__new__"] = new
    text = packed_exceptions.defined(cls, "__str__")
    if text is not None and text[0] in (
        BaseException,
        object,
    ):  # RemoteException's would come first
        attributes["__str__"] = BaseException.__str__
    # The program's own metaclasses are to hear nothing of this class; ABCMeta's is for each of its classes.
    metaclass = type(cls)
    maker: Any = ABCMeta if issubclass(metaclass, ABCMeta) else type
    bases = (cls, RemoteException)
    name = vars(type)["__name__"].__get__(cls)
    combined = maker.__new__(metaclass, name, (_Quiet, *bases), attributes)
    vars(type)["__bases__"].__set__(combined, bases)
    return combined


def _reduce(self: RemoteException, protocol: int = 0) -> tuple[Any, ...]:
    # With the class by itself, so that who unpickles it, a job, imports what that needs.
    return rebuild, (packed_exceptions.original_class(self), packed_exceptions.pack(self))


def rebuild(cls: type[BaseException], packed: bytes) -> BaseException:
    """The exception that was packed, an instance of `(cls, RemoteException)`."""
    return packed_exceptions.unpack(packed, _class_like_there)


def _class_like_there(
    cls: type[BaseException], is_first: bool, was_remote: bool
) -> type[BaseException]:
    return _combine(cls) if was_remote else cls


def _class_from_job(
    cls: type[BaseException], is_first: bool, was_remote: bool
) -> type[BaseException]:
    return _combine(cls) if is_first or was_remote else cls


def local_exception(packed: list[dict[str, Any]] | None, traceback_text: str) -> BaseException:
    """The exception of a call that failed in another process of this machine, with its traceback there."""
    exception = None if not packed else packed_exceptions.unpack(packed, _class_like_there)
    if exception is None or type(exception) is packed_exceptions.UnknownException:
        words = f"the exception can't be made here: {exception}; its traceback is above"
        exception = pickle.PicklingError(words)
    _lead_from(exception, traceback_text)
    return exception


def remote_exception(
    packed: list[dict[str, Any]] | None, traceback_text: str, job_id: str, where: str
) -> RemoteException:
    """What `Future.exception()` of a failed call is.

    `packed`: the rows of `packed_exceptions`; None where there is nothing of the exception. `where`: a line on the task, its job and its log.
    """
    text = f"{traceback_text.strip()}\n\n{where}"
    original: BaseException | None = None
    if packed:
        try:
            original = packed_exceptions.unpack(packed, _class_from_job)
            if packed_exceptions.is_exception(original, RemoteException):
                is_combined = packed_exceptions.original_class(original) is not type(original)
                if is_combined and not packed[0]["is_remote"]:
                    _add_remote_attributes(original, text, job_id)
                    _lead_from(original, text)
                return cast(RemoteException, original)
            if type(original) is packed_exceptions.UnknownException:
                original = packed_exceptions.get(original, "__cause__")
        except Exception:  # bytes that were changed on their way
            original = None
    plain = RemoteException(text, job_id)
    plain.__cause__ = original
    return plain


def _add_remote_attributes(exception: BaseException, text: str, job_id: str) -> None:
    """`error` and `job_id`, unless the function's own class has such."""
    attributes = packed_exceptions.get(exception, "__dict__")
    for name, value in (("error", text), ("job_id", job_id)):
        if name not in attributes and packed_exceptions.defined(type(exception), name) is None:
            attributes[name] = value


def _lead_from(exception: BaseException, text: str) -> None:
    """Puts the traceback where the interpreter prints it: before the first of what led to `exception`."""
    get, put = packed_exceptions.get, packed_exceptions.put
    seen: set[int] = set()
    first, before = exception, None
    while id(first) not in seen:
        seen.add(id(first))
        before = get(first, "__cause__")
        if before is None and not get(first, "__suppress_context__") and first is not exception:
            before = get(first, "__context__")
        if before is None:
            break
        first = before
    if before is None:  # else they lead to each other in a circle
        suppresses = get(first, "__suppress_context__")
        put(first, "__cause__", RemoteTraceback(text))
        put(first, "__suppress_context__", suppresses)
