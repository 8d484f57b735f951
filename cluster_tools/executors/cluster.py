"""The public class of all cluster executors: `concurrent.futures` on the outside, a session inside."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar, cast

from typing_extensions import ParamSpec

from cluster_tools import job, pickling
from cluster_tools.call_stats import ExecutorStats
from cluster_tools.cluster import failures, process_wide
from cluster_tools.cluster.calls import Call
from cluster_tools.cluster.future import ClusterFuture, end_quietly
from cluster_tools.cluster.run_directory import ArrayWriter
from cluster_tools.cluster.session import Session
from cluster_tools.cluster.settings import Settings
from cluster_tools.counts import check_count
from cluster_tools.executor_stub import StaysHere
from cluster_tools.failure_log import FailureLog
from cluster_tools.function_name import exception_text, function_name
from cluster_tools.mapping import check_map_arguments, iterate_results
from cluster_tools.observers.failures import FailureObserver
from cluster_tools.output_options import pop_output_key, resolve_output_key_getter
from cluster_tools.output_store import FileOutputStore, OutputStore
from cluster_tools.schedulers.base import Options, Scheduler

_T = TypeVar("_T")
_S = TypeVar("_S")
_P = ParamSpec("_P")

# Longer than any disk or network is away; shorter than a queue is long.
_CLIENT_TIMEOUT_S = 1800.0
_DEFAULT_GRACE_S = 5.0  # PyPI's cluster_tools 4.3.3

_logger = logging.getLogger("cluster_tools")


class ClusterExecutor(StaysHere, concurrent.futures.Executor, ABC):
    """An executor whose calls are jobs of a scheduler.

    Arguments:
        debug: Log each job that is submitted at level info, instead of debug.
        keep_logs: Leave the jobs' logs in `cfut_dir`.
        cfut_dir: Where logs and the run directory go; a directory that jobs see too. Default: the
            environment's CFUT_DIR, else `.cfut`.
        job_resources: What each job asks for, in the scheduler's words.
        job_name: The jobs' name; default: the function's.
        additional_setup_lines: Lines of shell to run in each job before the worker. A failing one
            ends the task.
        output_store: Keeps the outputs that the caller names keys for; default: files.
        logging_config: Arguments of `logging.basicConfig` for the jobs.
        logging_setup_fn: Called in each job instead, with the path of its log without ".stdout".
        python_executable: The jobs' interpreter, of the same minor version; default: this one.
        command_prefix: Words before the interpreter: `["apptainer", "exec", "image.sif"]`.
        pending_timeout_s: Give up what has waited in the queue for so long; default: never.
        client_timeout_s: A task that would begin when nothing was heard of this process for so long (it
            was killed, its machine is down) is not begun; default: 30 minutes. None: it always is.
        pilot_jobs: Run the calls on so many long-lived jobs, which take one after the other, instead of
            a job for each. For many short calls.
        pilot_idle_timeout_s: After so long without work such a job leaves; more work makes others.
        linger_s: So many seconds a job stays at the most for what its call has left behind (threads,
            exit functions, child processes), once its output is written. Executors of the call's own
            that have work are waited for.
        max_workers: At most so many calls of this executor run at a time, over all its arrays; default: as
            many as the scheduler lets.
        initializer: Called in each process that runs calls (a job's, a pilot), before its first call, with
            the script and logging set up. Where it fails, that is the exception of the calls that would
            have run there; where it fails on two pilots in a row, of all calls that are left.
        initargs: The arguments of `initializer`.
        trust_group: The group of `cfut_dir` may write to it, and logs get the mode that this
            process's umask gives. Everybody in that group could then have code run as you. Without
            it such a directory is refused, and logs have mode 0600.
        keep_jobs_on_exit: Where this process ends by an exception or a signal, its jobs are not
            cancelled, and go on without it. For calls whose outputs are kept.

    Raises:
        ValueError: An argument makes no sense.
        TypeError: `initializer` can't be called.
        pickle.PicklingError: `initializer` or `initargs` can't be pickled.
        OSError: `cfut_dir` can't be written.
        PermissionError: `cfut_dir` belongs to somebody else, or others may write to it. One with
            the sticky bit, as /tmp has, may belong to root, and others may write to it.
    """

    def __init__(
        self,
        debug: bool = False,
        keep_logs: bool = True,
        cfut_dir: str | os.PathLike[str] | None = None,
        job_resources: dict[str, Any] | None = None,
        job_name: str | None = None,
        additional_setup_lines: Sequence[str] | None = None,
        *,
        output_store: OutputStore | None = None,
        logging_config: dict[str, Any] | None = None,
        logging_setup_fn: Callable[[str], object] | None = None,
        python_executable: str | None = None,
        command_prefix: Sequence[str] | None = None,
        pending_timeout_s: float | None = None,
        client_timeout_s: float | None = _CLIENT_TIMEOUT_S,
        keep_jobs_on_exit: bool = False,
        pilot_jobs: int | None = None,
        pilot_idle_timeout_s: float = 60.0,
        linger_s: float = 10.0,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        trust_group: bool = False,
    ):
        if getattr(sys.modules.get("__main__"), "__cluster_tools_bootstrapping__", False):
            raise RuntimeError(_NO_GUARD)
        if logging_config is not None and logging_setup_fn is not None:
            raise ValueError("give logging_config or logging_setup_fn, not both")
        if job_name is not None and job_name.splitlines() != [job_name]:
            raise ValueError(f"job_name {job_name!r} is not one line of text")
        if client_timeout_s is not None and not client_timeout_s >= 1:
            raise ValueError("client_timeout_s must be at least 1")
        pilot_jobs = check_count("pilot_jobs", pilot_jobs)
        max_workers = check_count("max_workers", max_workers)
        if not pilot_idle_timeout_s >= 0:
            raise ValueError("pilot_idle_timeout_s must not be negative")
        if not isinstance(linger_s, (int, float)) or not 0 <= linger_s < float("inf"):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"linger_s must be a number of seconds, 0 or more, not {linger_s!r}")
        if isinstance(command_prefix, str):
            raise ValueError("command_prefix is a list of words, not a string")
        if isinstance(additional_setup_lines, str):
            raise ValueError("additional_setup_lines is a list of lines, not a string")
        if job_resources is not None and not isinstance(job_resources, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"job_resources is a dict, not {job_resources!r}")
        if cfut_dir is None:
            cfut_dir = os.environ.get("CFUT_DIR") or ".cfut"
        self.debug = debug
        self.keep_logs = keep_logs
        self.cfut_dir = os.path.abspath(cfut_dir)
        self.job_resources = job_resources
        self.job_name = job_name
        self.additional_setup_lines = list(additional_setup_lines or [])
        self.output_store = FileOutputStore() if output_store is None else output_store
        packed_initializer = _packed_initializer(initializer, initargs)
        log = None
        if logging_config is not None or logging_setup_fn is not None:
            log = (logging_config or {}, logging_setup_fn)
        scheduler = self._make_scheduler(
            Options(
                job_resources=job_resources or {},
                setup_lines=self.additional_setup_lines,
                log_directory=self.cfut_dir,
                grace_s=_grace_s(),
                keep_jobs_on_exit=keep_jobs_on_exit,
                max_workers=max_workers,
                wanted_slots=pilot_jobs,
                may_run_again=pilot_jobs is None,
                trust_group=trust_group,
                keep_logs=keep_logs,
            )
        )
        settings = Settings(
            cfut_dir=self.cfut_dir,
            debug=debug,
            keep_logs=keep_logs,
            trust_group=trust_group,
            worker=[
                *(command_prefix or []),
                *_with_our_flags(self._worker_words(python_executable)),
            ],
            logging=log,
            pending_timeout_s=pending_timeout_s,
            client_timeout_s=None if keep_jobs_on_exit else client_timeout_s,
            keep_jobs_on_exit=keep_jobs_on_exit,
            pilot_jobs=_at_most(pilot_jobs, max_workers),
            pilot_idle_timeout_s=pilot_idle_timeout_s,
            max_workers=None if scheduler.keeps_max_workers else max_workers,
            initializer=packed_initializer,
            pilot_name=job_name or Settings.pilot_name,
            linger_s=linger_s,
            own_outputs=isinstance(self.output_store, FileOutputStore)
            and self.output_store.directory is None,
            store=self.output_store,
        )
        try:
            self._session = Session(scheduler, settings, [FailureObserver()])
        except BaseException:
            scheduler.close()
            raise
        # An executor that nobody refers to any more ends when its calls are done.
        self._finalizer = weakref.finalize(self, Session.close, self._session, wait=False)
        self._finalizer.atexit = False
        if threading.current_thread() is threading.main_thread():
            process_wide.install_signal_handlers()
        elif not process_wide.has_signal_handlers():
            _logger.warning(
                "This executor was made outside the main thread: signals do not cancel its jobs. "
                "Call ClusterExecutor.install_signal_handlers() in the main thread first."
            )

    @property
    def max_workers(self) -> int:
        """How many calls can run at a time, as far as that is known; also `_max_workers` and `size`.

        The first time it may ask the scheduler.
        """
        return self._known_width

    @cached_property
    def _known_width(self) -> int:
        settings, width = self._session.settings, self._session.scheduler.width
        asked = settings.pilot_jobs or settings.max_workers
        if asked is None:
            return width()
        return min(asked, width()) if self._session.scheduler.keeps_max_workers else asked

    # Names under which libraries look for it, as in the standard library's pools and in others'.
    @property
    def _max_workers(self) -> int:
        return self.max_workers

    @property
    def size(self) -> int:
        """`max_workers`."""
        return self.max_workers

    @abstractmethod
    def _make_scheduler(self, options: Options) -> Scheduler: ...

    def _worker_words(self, python_executable: str | None) -> list[str]:
        """What starts the worker in a job: an interpreter that sees the client's files."""
        start = os.path.join(os.path.dirname(os.path.abspath(job.__file__)), "start_worker.py")
        return [python_executable or sys.executable, start]

    @staticmethod
    def install_signal_handlers() -> None:
        """Makes SIGINT, SIGTERM and SIGHUP cancel the jobs of all executors of this process.

        For programs that make executors outside the main thread; otherwise it is done anyway.
        Raises: RuntimeError, outside the main thread.
        """
        process_wide.install_signal_handlers()

    @classmethod
    def as_completed(cls, futures: Iterable[Future[_T]]) -> Iterator[Future[_T]]:
        """Yields the futures as they are done: `concurrent.futures.as_completed`."""
        return concurrent.futures.as_completed(futures)

    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> ClusterFuture[_T]:
        """Has `fn(*args, **kwargs)` called in a job; see `Executor.submit` of this package.

        Raises: RuntimeError after shutdown, and in a forked child.
        """
        named = pop_output_key(cast(dict[str, Any], kwargs))
        return self._submit_call(fn, args, cast(dict[str, Any], kwargs), named)

    def map_to_futures(
        self,
        fn: Callable[[_S], _T],
        args: Iterable[_S],
        output_pickle_path_getter: Callable[[_S], str | os.PathLike[str]] | None = None,
        output_key_getter: Callable[[_S], str] | None = None,
    ) -> list[Future[_T]]:
        """Submits one call per item as an array; see `Executor.map_to_futures` of this package."""
        getter = resolve_output_key_getter(output_pickle_path_getter, output_key_getter)
        return self._submit_array(
            fn, (((item,), None if getter is None else getter(item)) for item in args)
        )

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """As `concurrent.futures.Executor.map`; each call is a task, whatever `chunksize` says."""
        check_map_arguments(chunksize=chunksize, buffersize=buffersize)
        self._session.check_open()
        began = time.monotonic()

        def left() -> float | None:
            return None if timeout is None else timeout - (time.monotonic() - began)

        calls = zip(*iterables)
        # Whoever keeps jobs does so where an exception ends the loop over this, too.
        cancel = not self._session.settings.keep_jobs_on_exit
        if buffersize is None:
            futures = deque(self._submit_array(fn, ((arguments, None) for arguments in calls)))
            return iterate_results(futures, timeout=left(), cancel=cancel)

        def submit_next() -> Future[_T] | None:
            arguments = next(calls, None)
            return None if arguments is None else self._submit_call(fn, arguments, {}, None)

        first = [
            self._submit_call(fn, arguments, {}, None) for arguments in islice(calls, buffersize)
        ]
        return iterate_results(deque(first), timeout=left(), submit_next=submit_next, cancel=cancel)

    def forward_log(self, fut: Future[_T]) -> _T:
        """Writes the call's log to stdout until it is done, each piece behind `(jid=<jobid>) `.

        Returns: the result. Raises: what `fut.result()` raises.
        """
        self._session.follow_log(cast(ClusterFuture[_T], fut))
        return fut.result()

    def stats(self) -> ExecutorStats:
        """What has become of the calls of this executor by now: counts by state, rate, time left."""
        return self._session.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls; with `wait` returns when all futures are done and all is cleaned up.

        `cancel_futures` cancels what is not known to run.
        """
        if self._session.is_of_parent:
            return  # the forked child's copy has nothing to end
        self._session.refuse_calls()
        if cancel_futures:
            self._session.cancel_pending()
        self._session.close(wait=wait)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        if exc_type is None or self._session.is_of_parent:
            self.shutdown(wait=True)
        else:
            process_wide.end_at_once(self._session)
            self._session.join()
        return False

    # -- submission --

    def _name_of(self, fn: Callable[..., Any]) -> str:
        if self.job_name is not None:
            return self.job_name
        return " ".join(function_name(fn).split()) or "call"

    def _submit_call(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        named_key: str | None,
    ) -> ClusterFuture[_T]:
        session = self._session
        session.check_open()
        name = self._name_of(fn)
        future = ClusterFuture[_T](session.owner)
        try:
            cwd = _working_directory()
            function = b"".join(_pickled(fn, f"The function {name}"))
            call = _pickled((args, kwargs), f"An argument of the call of {name}")
            key = self._key(named_key)
            if named_key is not None and key is not None:
                self._delete_stale(key)
        except Exception as exc:
            error = _submission_error(f"The call of {name}", exc)
            session.count_failed(1)
            future.resolve(None, error)
            FailureLog(1).note(error, f"The call of {name}")
            return future
        session.take(Call(future, name, function, call, key, named_key is not None, cwd))
        if session.lifecycle.aborted:
            future.cancel_for_shutdown()
        return future

    def _submit_array(
        self,
        fn: Callable[..., _T],
        calls: Iterable[tuple[tuple[Any, ...], str | None]],
    ) -> list[Future[_T]]:
        """Submits calls of one function as an array. `calls`: positional arguments and the caller's key."""
        session = self._session
        session.check_open()
        draft = _Draft(self._name_of(fn))
        try:
            self._write(draft, fn, calls)
        except BaseException:  # of the caller's iterable, or Ctrl-C: nobody has these futures
            for future in draft.futures:
                future.cancel()
            raise
        finally:
            if draft.writer is not None:
                draft.writer.discard()
        if session.lifecycle.aborted:  # which takes the run directory away
            for future in draft.futures:
                future.cancel_for_shutdown()
        else:
            session.count_failed(len(draft.failing()))
            draft.fail()
        return cast(list[Future[_T]], draft.futures)

    def _write(
        self,
        draft: _Draft,
        fn: Callable[..., Any],
        calls: Iterable[tuple[tuple[Any, ...], str | None]],
    ) -> None:
        """Writes the array file and hands the array over; what can't be is left in the draft."""
        session = self._session
        function = b""
        try:
            function = b"".join(_pickled(fn, f"The function {draft.name}"))
            draft.writer = session.arrays.begin()
        except Exception as exc:
            draft.error = exc
        good: list[ClusterFuture[Any]] = []
        numbers: list[int] = []
        keys: list[str] = []
        kept = False
        for number, (arguments, named_key) in enumerate(calls):
            future = ClusterFuture[Any](session.owner)
            draft.futures.append(future)
            if draft.error is not None or draft.writer is None:
                continue
            try:
                no_keywords: dict[str, Any] = {}
                call = _pickled(
                    (arguments, no_keywords), f"An argument of task {number} of {draft.name}"
                )
                key = self._key(named_key)
                if named_key is not None and key is not None:
                    self._delete_stale(key)
            except Exception as exc:
                draft.failed[number] = exc
                continue
            try:
                draft.writer.add(function, call, key)
            except OSError as exc:
                draft.error = exc
                continue
            kept = kept or named_key is not None
            if key is not None:
                keys.append(key)
            good.append(future)
            numbers.append(number)
        if draft.error is not None or draft.writer is None or not good:
            return
        try:
            array = session.arrays.finish(
                draft.writer,
                draft.name,
                good,
                keys or None,
                working_directory=_working_directory(),
                kept=kept,
                indexed=True,
                numbers=numbers if draft.failed else None,
                total=len(draft.futures),
            )
        except Exception as exc:
            draft.error = exc
            return
        draft.writer = None
        session.take(array)

    def _key(self, named_key: str | None) -> str | None:
        """The key in the output store; None where the output goes into the run directory."""
        if named_key is not None:
            return self.output_store.resolve_key(named_key)
        if self._session.settings.own_outputs:
            return None
        return self.output_store.default_key(self._session.arrays.unique_id())

    def _delete_stale(self, key: str) -> None:
        """What is left of an earlier call must not be taken for this one's."""
        if self.output_store.poll([key]):
            self.output_store.delete(key)


@dataclass
class _Draft:
    """An array while its calls are being written."""

    name: str
    futures: list[ClusterFuture[Any]] = field(default_factory=list["ClusterFuture[Any]"])
    writer: ArrayWriter | None = None
    # Why single calls are not in it, by position.
    failed: dict[int, Exception] = field(default_factory=dict[int, Exception])
    # Why none of it can be submitted.
    error: Exception | None = None

    def failing(self) -> Collection[int]:
        """Which of the calls fail here, by position."""
        return self.failed if self.error is None else range(len(self.futures))

    def fail(self) -> None:
        """Puts what went wrong into the futures concerned."""
        numbers = self.failing()
        failures = FailureLog(len(numbers))
        for number in numbers:
            task = f"Task {number} of {len(self.futures)} of {self.name}"
            error = _submission_error(task, self.error or self.failed[number])
            end_quietly(partial(self.futures[number].resolve, None, error), self.name)
            failures.note(error, task)


def _submission_error(task: str, error: Exception) -> Exception:
    """What a future raises whose call could not be submitted because of `error`."""
    _make_text_of_frames(error)
    return failures.not_submitted(task, error)


def _make_text_of_frames(error: BaseException) -> None:
    """Drops tracebacks, as their frames refer to the executor. Notes keep the user's lines as text.

    Whoever keeps such a future would otherwise keep the executor, which ends when it is dropped.
    """
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        entries = traceback.extract_tb(part.__traceback__)
        theirs = [entry for entry in entries if not entry.filename.startswith(ours)]
        part.__traceback__ = None
        add_note: Callable[[str], None] | None = getattr(part, "add_note", None)  # from 3.11 on
        if theirs and add_note is not None:
            add_note("It was raised here:\n" + "".join(traceback.format_list(theirs)).rstrip())
        part = part.__cause__ or part.__context__


def _grace_s() -> float:
    text = os.environ.get("SIGTERM_WAIT_IN_S")
    try:
        return float(text) if text else _DEFAULT_GRACE_S
    except ValueError:
        raise ValueError(
            f"the environment variable SIGTERM_WAIT_IN_S is no number: {text!r}"
        ) from None


def _at_most(count: int | None, limit: int | None) -> int | None:
    return count if count is None or limit is None else min(count, limit)


def _packed_initializer(
    initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> bytes | None:
    if initializer is None:
        return None
    if not callable(initializer):
        raise TypeError("initializer must be a callable")
    name = function_name(initializer)
    return b"".join(_pickled((initializer, tuple(initargs)), f"The initializer {name}"))


def _with_our_flags(worker_words: list[str]) -> list[str]:
    """The jobs' interpreter gets the flags of this one, as `multiprocessing` does with its processes."""
    interpreter, *start = worker_words
    flags: list[str] = subprocess._args_from_interpreter_flags()  # pyright: ignore
    return [interpreter, *flags, *start]


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as exc:
        raise FileNotFoundError("the working directory of this process was removed") from exc


def _pickled(value: object, what: str) -> pickling.Pieces:
    """Raises: pickle.PicklingError, which says what it was and has the original as its cause."""
    try:
        return pickling.dump_pieces(value)
    except Exception as exc:
        raise pickle.PicklingError(f"{what} can't be pickled: {exception_text(exc)}") from exc


_NO_GUARD = """
An executor was made while this script was being imported by one of its jobs, before the
current process has finished its bootstrapping phase. The main module of a script is imported
in each job, so what starts the work has to be guarded:

    if __name__ == "__main__":
        main()
"""
