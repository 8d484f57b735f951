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

from typing import Any, cast

from cluster_tools.worker import HEAP_TYPE, exception_state


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


_combined: dict[type[Exception], type[Exception] | None] = {}


def _combine(cls: type[Exception]) -> type[Exception] | None:
    """The class `(cls, RemoteException)`, or None where `cls` can't be combined."""
    if cls not in _combined:
        try:
            _combined[cls] = cast(
                type[Exception],
                type(
                    cls.__name__,
                    cast(tuple[type, ...], (cls, RemoteException)),
                    {
                        "__module__": cls.__module__,
                        "__qualname__": cls.__qualname__,
                        "__doc__": cls.__doc__,
                        # Without this line RemoteException's would come before BaseException's.
                        "__str__": cls.__str__,
                        "__reduce__": _reduce,
                        "__reduce_ex__": _reduce,
                    },
                ),
            )
        except Exception:  # refuses subclassing, or its metaclass does
            _combined[cls] = None
    return _combined[cls]


def _reduce(self: RemoteException, protocol: int = 0) -> tuple[Any, ...]:
    original = type(self).__mro__[1]
    return rebuild, (original, self.args, exception_state(self))


def rebuild(cls: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """An instance of `(cls, RemoteException)`, or of `cls` alone where they can't be combined.

    The constructor of `cls` is not called: it may ask for other arguments than `args`.
    """
    return exception_from_parts(_combine(cls) or cls, args, state)


def exception_from_parts(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """An instance of `cls` with these `args` and attributes, made without calling its constructor."""
    # The interpreter's own base type of `cls` sets up what it keeps in C (`OSError.errno`).
    base = next(c for c in cls.__mro__ if not c.__flags__ & HEAP_TYPE)
    exc = base.__new__(cls, *args)
    base.__init__(exc, *args)
    BaseException.__setattr__(exc, "args", args)
    for name, value in state.items():
        try:
            BaseException.__setattr__(exc, name, value)  # the class may have its own idea of it
        except Exception:  # a read-only property of the type, which computes it again
            pass
    return exc


def remote_exception(
    exception: object, traceback_text: str, job_id: str, where: str
) -> RemoteException:
    """What `Future.exception()` of a failed call is.

    `exception`: the second pickle of the failure, loaded: (type, args, state), a RemoteException of a
    nested submission, or None. `where`: a line on the task, its job and its log.
    """
    if isinstance(exception, RemoteException):
        return exception
    text = f"{traceback_text.strip()}\n\n{where}"
    original: BaseException | None = None
    if exception is not None:
        try:
            cls, args, state = cast(
                tuple[type[BaseException], tuple[Any, ...], dict[str, Any]], exception
            )
            combined = _combine(cls) if issubclass(cls, Exception) else None
            original = exception_from_parts(combined or cls, args, state)
            if isinstance(original, RemoteException):
                for name, value in (("error", text), ("job_id", job_id)):
                    try:
                        BaseException.__getattribute__(original, name)
                    except AttributeError:
                        BaseException.__setattr__(original, name, value)
                BaseException.__setattr__(original, "__cause__", RemoteTraceback(text))
                return original
        except Exception:  # a type that does not let itself be rebuilt, or extended
            if isinstance(original, RemoteException):
                original = None
    plain = RemoteException(text, job_id)
    plain.__cause__ = original
    return plain
