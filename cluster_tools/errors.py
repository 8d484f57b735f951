"""All exceptions of the package, and how the exception of a failed call is made.

    RemoteException                              a call failed in its job
    |-- (T, RemoteException)                     it raised a T; the class is made here, once for T
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

Knows pickles and exceptions, no schedulers and no executors.
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

    `error`: what happened, with the traceback from the job if there is one.
    `job_id`: the job, in an array `<jobid>_<index>`; "" if there was none.
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
    """Somebody cancelled the job, and not by this executor."""


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


# id of a class T -> class `(T, RemoteException)`. By id, as a metaclass
# may define `==` as it likes.
_combined: WeakValueDictionary[int, type[BaseException]] = WeakValueDictionary()
# Keeps the classes that were made last. Not all: programs may make a class T anew in each call.
_kept: deque[type[BaseException]] = deque(maxlen=1_000)


def _combine(cls: type[BaseException]) -> type[BaseException]:
    """The class `(cls, RemoteException)`; `cls` itself if it can't be combined, or already is."""
    if not issubclass(cls, Exception) or issubclass(cls, RemoteException):
        return cls
    combined = _combined.get(id(cls))  # refers to `cls`, so no other class can have the same id
    if combined is None:
        try:
            combined = _new_class(cls)
            packed_exceptions.register(combined)
        except Exception:  # a class written in C that is final, or has another memory layout
            combined = cls
        _combined[id(cls)] = combined
        _kept.append(combined)
    return combined


class _NoInitSubclass:
    """As the first base of a new class, hides the `__init_subclass__` of the program's class."""

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
        """Makes a `cls`: programs do `raise type(error)(...)`, which is no call's failure."""
        return cls(*args, **kwargs)

    attributes["__new__"] = new
    text = packed_exceptions.defined(cls, "__str__")
    if text is not None and text[0] in (BaseException, object):
        attributes["__str__"] = BaseException.__str__  # else RemoteException's would be found first
    # Metaclasses of the program are not called, as the class is not the program's. ABCMeta must be.
    metaclass = type(cls)
    maker: Any = ABCMeta if issubclass(metaclass, ABCMeta) else type
    bases = (cls, RemoteException)
    name = vars(type)["__name__"].__get__(cls)
    combined = maker.__new__(metaclass, name, (_NoInitSubclass, *bases), attributes)
    vars(type)["__bases__"].__set__(combined, bases)
    return combined


def _reduce(self: RemoteException, protocol: int = 0) -> tuple[Any, ...]:
    # With the class itself as an argument, so that unpickling it, in a job, imports its module.
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
    """The exception of a call that failed in another process of this machine.

    `packed`: the rows of `packed_exceptions`. `traceback_text`: is shown as the exception's cause.
    """
    exception = None if not packed else packed_exceptions.unpack(packed, _class_like_there)
    if exception is None or type(exception) is packed_exceptions.UnknownException:
        words = f"the exception can't be made here: {exception}; its traceback is above"
        exception = pickle.PicklingError(words)
    _add_remote_traceback(exception, traceback_text)
    return exception


def remote_exception(
    packed: list[dict[str, Any]] | None, traceback_text: str, job_id: str, where: str
) -> RemoteException:
    """The exception of a call that failed in a job.

    `packed`: the rows of `packed_exceptions`; None where the exception could not be packed.
    `traceback_text`: from the job. `where`: a line about the task, its job and its log.
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
                    _add_remote_traceback(original, text)
                return cast(RemoteException, original)
            if type(original) is packed_exceptions.UnknownException:
                original = packed_exceptions.get(original, "__cause__")
        except Exception:  # the bytes are damaged
            original = None
    plain = RemoteException(text, job_id)
    plain.__cause__ = original
    return plain


def _add_remote_attributes(exception: BaseException, text: str, job_id: str) -> None:
    """Sets `error` and `job_id`, unless the exception's own class has such attributes."""
    attributes = packed_exceptions.get(exception, "__dict__")
    for name, value in (("error", text), ("job_id", job_id)):
        if name not in attributes and packed_exceptions.defined(type(exception), name) is None:
            attributes[name] = value


def _add_remote_traceback(exception: BaseException, text: str) -> None:
    """Makes a RemoteTraceback the cause of the first exception that led to `exception`.

    There the interpreter prints it first.
    """
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
    if before is None:  # else causes and contexts form a circle
        suppresses = get(first, "__suppress_context__")
        put(first, "__cause__", RemoteTraceback(text))
        put(first, "__suppress_context__", suppresses)
