"""`ClusterExecutor`, the base class of all cluster executors.

Checks and pickles what callers give; a session of `cluster_tools.cluster` does the rest.
"""

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
from cluster_tools.sharing import Uses

_T = TypeVar("_T")
_S = TypeVar("_S")
_P = ParamSpec("_P")

# Longer than disks and networks fail for, but shorter than jobs wait in queues.
_CLIENT_TIMEOUT_S = 1800.0
# As in 4.3.3 of PyPI's cluster_tools.
_DEFAULT_GRACE_S = 5.0

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
        client_timeout_s: A task does not begin if nothing was heard of this process for so long
            (it was killed, or its machine is down); default: 30 minutes. None: it always begins.
        pilot_jobs: Run the calls in so many long-lived jobs, each of which takes one call after the
            other, instead of a job for each call. For many short calls.
        pilot_idle_timeout_s: Seconds without work after which such a job ends. More work starts
            others.
        linger_s: How many seconds a job may go on, once its output is written, for threads, exit
            functions and child processes that its call has left behind. Executors that the call has
            made and that have work are waited for without this limit.
        max_workers: How many calls of this executor may run at a time, over all its arrays;
            default: as many as the scheduler allows.
        initializer: Called in each process that runs calls (a job's, a pilot), before its first
            call, with the script and logging set up. If it fails, the calls that would have run
            there raise its exception; if it fails in two pilots in a row, all calls that are left
            do.
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
        # Long, since each of the keywords above is handed on by name, to `Options` or `Settings`.
        if getattr(sys.modules.get("__main__"), "__cluster_tools_bootstrapping__", False):
            raise RuntimeError(_NO_GUARD)
        pilot_jobs = check_count("pilot_jobs", pilot_jobs)
        max_workers = check_count("max_workers", max_workers)
        _check_times(client_timeout_s, pilot_idle_timeout_s, linger_s)
        _check_texts(job_name, job_resources, additional_setup_lines, command_prefix)
        self.debug = debug
        self.keep_logs = keep_logs
        if cfut_dir is None:
            cfut_dir = os.environ.get("CFUT_DIR") or ".cfut"
        self.cfut_dir = os.path.abspath(cfut_dir)
        self.job_resources = job_resources
        self.job_name = job_name
        self.additional_setup_lines = list(additional_setup_lines or [])
        self.output_store = FileOutputStore() if output_store is None else output_store
        logging_setup = _logging_setup(logging_config, logging_setup_fn)
        packed_initializer = _packed_initializer(initializer, initargs)
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
            logging=logging_setup,
            pending_timeout_s=pending_timeout_s,
            client_timeout_s=None if keep_jobs_on_exit else client_timeout_s,
            keep_jobs_on_exit=keep_jobs_on_exit,
            pilot_jobs=_minimum(pilot_jobs, max_workers),
            pilot_idle_timeout_s=pilot_idle_timeout_s,
            max_workers=None if scheduler.keeps_max_workers else max_workers,
            initializer=packed_initializer,
            pilot_name=job_name or Settings.pilot_name,
            linger_s=linger_s,
            own_outputs=isinstance(self.output_store, FileOutputStore)
            and self.output_store.directory is None,
            store=self.output_store,
        )
        self._open_session(scheduler, settings)

    def _open_session(self, scheduler: Scheduler, settings: Settings) -> None:
        try:
            self._session = Session(scheduler, settings, [FailureObserver()])
        except BaseException:
            scheduler.close()
            raise
        # If nobody refers to the executor any more, its session ends when its calls are done.
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
        """How many calls can run at a time, as far as is known; also as `_max_workers` and `size`.

        The first use may query the scheduler.
        """
        return self._known_width

    @cached_property
    def _known_width(self) -> int:
        settings, width = self._session.settings, self._session.scheduler.width
        requested = settings.pilot_jobs or settings.max_workers
        if requested is None:
            return width()
        if self._session.scheduler.keeps_max_workers:
            return min(requested, width())
        return requested

    # Names under which libraries read it, as in the standard library's pools and in others.
    @property
    def _max_workers(self) -> int:
        return self.max_workers

    @property
    def size(self) -> int:
        """`max_workers`."""
        return self.max_workers

    @abstractmethod
    def _make_scheduler(self, options: Options) -> Scheduler:
        """The scheduler of this executor. Raises: what `__init__` raises."""

    def _worker_words(self, python_executable: str | None) -> list[str]:
        """The command that starts the worker in a job: the interpreter and its arguments."""
        start = os.path.join(os.path.dirname(os.path.abspath(job.__file__)), "start_worker.py")
        return [python_executable or sys.executable, start]

    @staticmethod
    def install_signal_handlers() -> None:
        """Makes SIGINT, SIGTERM and SIGHUP cancel the jobs of all executors of this process.

        For programs that make executors outside the main thread; in the main thread, executors do
        it themselves. Raises: RuntimeError, outside the main thread.
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
        # With `keep_jobs_on_exit`, jobs go on also if an exception ends the loop over the results.
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

    def share(self, value: _T) -> _T:
        """Writes the value into the run directory, once for all calls; see `Executor.share`.

        Raises: pickle.PicklingError; OSError, where there is no room for it; RuntimeError after
        shutdown, and in a forked child.
        """
        return self._session.share(value)

    def forward_log(self, fut: Future[_T]) -> _T:
        """Writes the call's log to stdout until it is done, each part after `(jid=<jobid>) `.

        Returns: the result. Raises: what `fut.result()` raises.
        """
        self._session.follow_log(cast(ClusterFuture[_T], fut))
        return fut.result()

    def stats(self) -> ExecutorStats:
        """What has become of this executor's calls by now: counts by state, rate, time left."""
        return self._session.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses further calls. With `wait`, returns when all futures are done and files deleted.

        `cancel_futures`: cancels the calls that are not known to run.
        """
        if self._session.is_of_parent:
            return  # in a forked child, which has no session to end
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
        future = ClusterFuture[_T](session.owner, time.time())
        uses = Uses(session.directory.shared)
        try:
            cwd = _working_directory()
            with uses:
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
        uses.keep_until_done([future])
        session.take(Call(future, name, function, call, key, named_key is not None, cwd))
        if session.lifecycle.aborted:
            future.cancel_for_shutdown()
        return future

    def _submit_array(
        self,
        fn: Callable[..., _T],
        calls: Iterable[tuple[tuple[Any, ...], str | None]],
    ) -> list[Future[_T]]:
        """Submits calls of one function as an array.

        `calls`: for each its positional arguments, and the key that the caller names, or None.
        """
        session = self._session
        session.check_open()
        draft = _Draft(self._name_of(fn), Uses(session.directory.shared))
        try:
            with draft.uses:  # once, not for each call: there may be 100,000
                self._write(draft, fn, calls)
        except BaseException:  # by the caller's iterable, or Ctrl-C: nobody has these futures
            for future in draft.futures:
                future.cancel()
            raise
        finally:
            if draft.writer is not None:
                draft.writer.discard()
        if session.lifecycle.aborted:  # the run directory is gone
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
        """Writes the array file and submits the array. What goes wrong is noted in the draft."""
        session = self._session
        function = b""
        try:
            function = b"".join(_pickled(fn, f"The function {draft.name}"))
            draft.writer = session.arrays.begin()
        except Exception as exc:
            draft.error = exc
        submitted_at = time.time()
        for number, (arguments, named_key) in enumerate(calls):
            draft.futures.append(ClusterFuture[Any](session.owner, submitted_at))
            if draft.error is None and draft.writer is not None:
                self._write_call(draft, draft.writer, number, function, arguments, named_key)
        if draft.error is not None or draft.writer is None or not draft.numbers:
            return
        futures = draft.futures
        if draft.failed:
            futures = [futures[number] for number in draft.numbers]
        try:
            array = session.arrays.finish(
                draft.writer,
                draft.name,
                futures,
                draft.keys or None,
                working_directory=_working_directory(),
                kept=draft.is_kept,
                indexed=True,
                numbers=draft.numbers if draft.failed else None,
                total=len(draft.futures),
            )
        except Exception as exc:
            draft.error = exc
            return
        draft.writer = None
        draft.uses.keep_until_done(futures)
        session.take(array)

    def _write_call(
        self,
        draft: _Draft,
        writer: ArrayWriter,
        number: int,
        function: bytes,
        arguments: tuple[Any, ...],
        named_key: str | None,
    ) -> None:
        """Writes one call to the array file. `function`: pickled."""
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
            return
        try:
            writer.add(function, call, key)
        except OSError as exc:
            draft.error = exc
            return
        if named_key is not None:
            draft.is_kept = True
        if key is not None:
            draft.keys.append(key)
        draft.numbers.append(number)

    def _key(self, named_key: str | None) -> str | None:
        """The call's key in the output store; None where its output goes into the run directory."""
        if named_key is not None:
            return self.output_store.resolve_key(named_key)
        if self._session.settings.own_outputs:
            return None
        return self.output_store.default_key(self._session.arrays.unique_id())

    def _delete_stale(self, key: str) -> None:
        """Deletes the output of an earlier call, which must not be taken for this call's."""
        if self.output_store.poll([key]):
            self.output_store.delete(key)


@dataclass
class _Draft:
    """An array while its calls are being written."""

    name: str
    uses: Uses
    futures: list[ClusterFuture[Any]] = field(default_factory=list["ClusterFuture[Any]"])
    # None before the array file is begun, and once the session has it.
    writer: ArrayWriter | None = None
    # The positions of the calls that were written, and their keys in the output store.
    numbers: list[int] = field(default_factory=list[int])
    keys: list[str] = field(default_factory=list[str])
    # The caller has named a key for at least one of them.
    is_kept: bool = False
    # Position -> why this call was not written.
    failed: dict[int, Exception] = field(default_factory=dict[int, Exception])
    # Why none of the calls can be submitted.
    error: Exception | None = None

    def failing(self) -> Collection[int]:
        """Which of the calls fail here, by position."""
        return self.failed if self.error is None else range(len(self.futures))

    def fail(self) -> None:
        """Fails the futures of the calls that were not submitted."""
        numbers = self.failing()
        failures = FailureLog(len(numbers))
        for number in numbers:
            task = f"Task {number} of {len(self.futures)} of {self.name}"
            error = _submission_error(task, self.error or self.failed[number])
            end_quietly(partial(self.futures[number].resolve, None, error), self.name)
            failures.note(error, task)


def _submission_error(task: str, error: Exception) -> Exception:
    """The exception of a call that could not be submitted because of `error`."""
    _replace_tracebacks_by_notes(error)
    return failures.not_submitted(task, error)


def _replace_tracebacks_by_notes(error: BaseException) -> None:
    """Drops tracebacks, since their frames refer to the executor. The user's lines become notes.

    Otherwise whoever keeps such a future would keep the executor, which ends when it is dropped.
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


def _check_times(
    client_timeout_s: float | None, pilot_idle_timeout_s: float, linger_s: object
) -> None:
    """Raises: ValueError."""
    if client_timeout_s is not None and not client_timeout_s >= 1:
        raise ValueError("client_timeout_s must be at least 1")
    if not pilot_idle_timeout_s >= 0:
        raise ValueError("pilot_idle_timeout_s must not be negative")
    if not isinstance(linger_s, (int, float)) or not 0 <= linger_s < float("inf"):
        raise ValueError(f"linger_s must be a number of seconds, 0 or more, not {linger_s!r}")


def _check_texts(
    job_name: str | None, job_resources: object, setup_lines: object, command_prefix: object
) -> None:
    """Raises: ValueError."""
    if job_name is not None and job_name.splitlines() != [job_name]:
        raise ValueError(f"job_name {job_name!r} is not one line of text")
    if job_resources is not None and not isinstance(job_resources, Mapping):
        raise ValueError(f"job_resources is a dict, not {job_resources!r}")
    if isinstance(setup_lines, str):
        raise ValueError("additional_setup_lines is a list of lines, not a string")
    if isinstance(command_prefix, str):
        raise ValueError("command_prefix is a list of words, not a string")


def _logging_setup(
    config: dict[str, Any] | None, setup_fn: Callable[[str], object] | None
) -> tuple[dict[str, Any], Callable[[str], object] | None] | None:
    """Of `Settings.logging`. Raises: ValueError, where both are given."""
    if config is not None and setup_fn is not None:
        raise ValueError("give logging_config or logging_setup_fn, not both")
    return None if config is None and setup_fn is None else (config or {}, setup_fn)


def _grace_s() -> float:
    """Seconds between the signal to a job and its kill: SIGTERM_WAIT_IN_S. Raises: ValueError."""
    text = os.environ.get("SIGTERM_WAIT_IN_S")
    try:
        return float(text) if text else _DEFAULT_GRACE_S
    except ValueError:
        raise ValueError(
            f"the environment variable SIGTERM_WAIT_IN_S is no number: {text!r}"
        ) from None


def _minimum(count: int | None, limit: int | None) -> int | None:
    """The smaller of both; `count` where there is no limit, None where there is no count."""
    return count if count is None or limit is None else min(count, limit)


def _packed_initializer(
    initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> bytes | None:
    """The pickled initializer. Raises: TypeError; pickle.PicklingError."""
    if initializer is None:
        return None
    if not callable(initializer):
        raise TypeError("initializer must be a callable")
    name = function_name(initializer)
    return b"".join(_pickled((initializer, tuple(initargs)), f"The initializer {name}"))


def _with_our_flags(worker_words: list[str]) -> list[str]:
    """Adds this interpreter's flags for the job's, as `multiprocessing` does for its processes."""
    interpreter, *start = worker_words
    # There is no public function for this.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # pyright: ignore  # noqa: SLF001
    return [interpreter, *flags, *start]


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as exc:
        raise FileNotFoundError("the working directory of this process was removed") from exc


def _pickled(value: object, what: str) -> pickling.Fragments:
    """Raises: pickle.PicklingError, which says `what` it was and has the original as its cause."""
    try:
        return pickling.dump_fragments(value)
    except Exception as exc:
        raise pickle.PicklingError(f"{what} can't be pickled: {exception_text(exc)}") from exc


_NO_GUARD = """
An executor was made while this script was being imported by one of its jobs, before the
current process has finished its bootstrapping phase. The main module of a script is imported
in each job, so what starts the work has to be guarded:

    if __name__ == "__main__":
        main()
"""
