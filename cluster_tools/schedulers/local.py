"""The scheduler of this machine: elements are subprocesses, a limited number at a time.

    submit -> queue of elements -> slots (threads), each: start, wait, report -> states, explain

`LocalScheduler` is not the client of a scheduler but is one: its slots are threads that start
subprocesses and wait for them. Everything else is as on a cluster: the same run directory, worker,
watcher and failures.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO, cast

from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Options,
    Refused,
    Report,
    Scheduler,
    State,
)
from cluster_tools.schedulers.detached import start_detached
from cluster_tools.schedulers.exit_status import ExitStatus
from cluster_tools.schedulers.script import encoded, job_script

_job_ids = count(1)

# How long `close` waits for processes: after the end of their executor, workers allow exit
# functions of calls a second.
_CLOSE_TIMEOUT_S = 2.0
# A process may start later after these: too many open files, or no memory or process left.
_TRANSIENT_ERRORS = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
# How long, and how often, to try to start a process after such an error.
_START_PATIENCE_S = 30.0
_START_INTERVAL_S = 0.5


@dataclass(eq=False)
class _Process:
    """An element and its process, from its submission on."""

    request: ArrayRequest
    element: Element
    # None until it is started.
    popen: subprocess.Popen[bytes] | None = None
    # If it was cancelled while it was being started, that has been dealt with.
    is_settled: bool = False
    # Its return code, once it has ended.
    code: int | None = None
    cancelled: bool = False
    # Why it could not be started.
    failure: str | None = None

    @property
    def ended(self) -> bool:
        if self.failure is not None or (self.cancelled and self.popen is None):
            return True
        return self.code is not None


@dataclass
class _Job:
    """A submitted array."""

    token: str
    processes: dict[Element, _Process]


class LocalScheduler(Scheduler):
    """Runs as many elements at a time as the options say.

    Without `max_workers` that is one for each processor that we may use, or `wanted_slots`.
    """

    prefix = "local"
    on_this_machine = True
    min_interval_s = 0.1
    max_gathering_s = 0.0
    keeps_max_workers = True

    def __init__(self, options: Options):
        self._slots = options.max_workers or max(_usable_processors(), options.wanted_slots or 0)
        self._options = options
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[_Process] = deque()
        self._queue_changed = threading.Condition()
        self._closed = False
        # Processes that run or are being started, even if their calls are done. Signal handlers use
        # this dictionary and the next, so only operations are used that need no lock.
        self._running: dict[_Process, None] = {}
        # All processes that have not ended, even if their jobs are forgotten.
        self._alive: dict[Element, _Process] = {}
        # Started now: an interpreter that exits starts no threads, and calls may be submitted then.
        for _ in range(self._slots):
            threading.Thread(target=self._run_slot, name="cluster_tools-local", daemon=True).start()

    @property
    def cluster(self) -> Hashable:
        return id(self)

    def submit(self, request: ArrayRequest) -> str:
        if not os.path.isdir(request.working_directory):
            raise Refused(f"the working directory {request.working_directory} does not exist")
        job_id = self._new_job_id(request)
        elements = [
            Element(job_id, index if request.is_array else None) for index in range(request.count)
        ]
        processes = {element: _Process(request, element) for element in elements}
        self._jobs[job_id] = _Job(request.token, processes)
        self._alive.update(processes)
        with self._queue_changed:
            self._waiting += processes.values()
            self._queue_changed.notify_all()
        return job_id

    def _new_job_id(self, request: ArrayRequest) -> str:
        """A job id that no log in the directory has yet, of this process or of an earlier one."""
        while True:
            job_id = f"{os.getpid()}{next(_job_ids):04d}"
            first = Element(job_id, 0 if request.is_array else None)
            if not os.path.lexists(self.log_path(self._options.log_directory, first)):
                return job_id

    def _run_slot(self) -> None:
        """A slot's thread: runs one process after the other."""
        while True:
            with self._queue_changed:
                while not self._waiting and not self._closed:
                    self._queue_changed.wait()
                if self._closed:
                    return
                process = self._waiting.popleft()
                if process.cancelled:
                    self._alive.pop(process.element, None)
                    continue
                self._running[process] = None
            try:
                status = self._start_with_retries(process)
            except Exception as exc:  # no such shell, no memory, no space for the log
                process.failure = f"its process could not be started: {exc}"
            else:
                self._wait_for(process, status)
            self._alive.pop(process.element, None)
            with self._queue_changed:
                del self._running[process]
                self._queue_changed.notify_all()

    def _wait_for(self, process: _Process, status: ExitStatus) -> None:
        """Waits until the process has ended, and ends its process group."""
        popen = process.popen
        assert popen is not None
        if process.cancelled:  # while it was being started
            self._end([process])
            if not self._options.keep_logs:  # the executor may have deleted logs before this one
                _unlink(self.log_path(self._options.log_directory, process.element))
        with self._queue_changed:
            process.is_settled = True
            self._queue_changed.notify_all()
        returncode = popen.wait()
        try:  # as on a cluster, no process that the job has started outlives it
            os.killpg(popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.code = status.read(returncode)
        status.close()

    def _start_with_retries(self, process: _Process) -> ExitStatus:
        """Tries for a while, as files or memory may be short for a moment. Raises: OSError."""
        deadline = time.monotonic() + _START_PATIENCE_S
        while True:
            try:
                return self._start(process)
            except OSError as exc:
                is_final = exc.errno not in _TRANSIENT_ERRORS or process.cancelled
                if is_final or time.monotonic() > deadline:
                    raise
            time.sleep(_START_INTERVAL_S)

    def _start(self, process: _Process) -> ExitStatus:
        """Starts the shell of an element, which reads its script from a nameless file."""
        request, element = process.request, process.element
        log = self.log_path(self._options.log_directory, element)
        script = job_script(
            request.command,
            shlex.join([str(element.index or 0), "0", str(element), log]),
            request.working_directory,
            self._options.setup_lines,
        )
        first_line, _, rest = script.partition("\n")
        shell = first_line.removeprefix("#!")
        status: ExitStatus | None = None
        fd = -1
        file = _nameless_file(
            request.run_directory, encoded(f"{first_line}\nexec </dev/null\n{rest}")
        )
        try:
            # Fails where something has the log's name: it may be a link,
            # or a pipe, of somebody else.
            fd = _make(log, 0o666 if self._options.trust_group else 0o600)
            status = ExitStatus([*shlex.split(shell), "/dev/stdin"])
            process.popen = subprocess.Popen(
                status.words,
                pass_fds=status.pass_fds,
                stdin=file,
                stdout=fd,
                stderr=fd,
                start_new_session=True,
            )
        except BaseException:
            if status is not None:
                status.close()
            if fd >= 0:
                os.unlink(log)
            raise
        finally:
            file.close()
            if fd >= 0:
                os.close(fd)
        return status

    def find(self, token: str) -> str | None:
        jobs = list(self._jobs.items())
        return next((job_id for job_id, job in jobs if job.token == token), None)

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        def state(process: _Process) -> State:
            if process.ended:
                return State.ENDED
            return State.PENDING if process.popen is None else State.RUNNING

        return {
            element: Report(state(process))
            for job_id in jobs
            if (job := self._jobs.get(job_id)) is not None
            for element, process in job.processes.items()
        }

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        return {element: _ending(self._process(element)) for element in ended}

    def _process(self, element: Element) -> _Process | None:
        job = self._jobs.get(element.job_id)
        return None if job is None else job.processes.get(element)

    def cancel(self, elements: Collection[Element], token: str) -> None:
        known = [self._alive.get(element) for element in elements]
        self._cancel([process for process in known if process is not None])

    def stop(self, job_ids: Collection[str], token: str) -> None:
        self._cancel(list(self._alive.values()))

    def _cancel(self, processes: Collection[_Process]) -> None:
        for process in processes:
            process.cancelled = True  # its slot ends one that is being started
        self._end(processes)

    def _end(self, processes: Collection[_Process]) -> None:
        """Sends these SIGINT, and has them killed after the grace period. Takes no lock."""
        groups: list[str] = []
        for process in processes:
            if process.popen is not None and process.code is None:
                try:
                    os.killpg(process.popen.pid, signal.SIGINT)
                    groups.append(f"-{process.popen.pid}")
                except ProcessLookupError:
                    pass
        if groups:
            script = 'sleep "$1"; shift; kill -s KILL -- "$@"'
            start_detached(
                ["/bin/sh", "-c", script, "cluster_tools", str(self._options.grace_s), *groups]
            )

    def width(self) -> int:
        return self._slots

    def max_array_size(self) -> int | None:
        return None

    def max_submitted(self) -> int | None:
        return None

    def forget(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)

    def close(self) -> None:
        with self._queue_changed:
            self._closed = True
            self._queue_changed.notify_all()
            # Not until cancelled processes end: they are killed if need
            # be, and nobody waits for that.
            self._queue_changed.wait_for(
                lambda: all(p.cancelled and p.is_settled for p in self._running), _CLOSE_TIMEOUT_S
            )


def _make(path: str, mode: int) -> int:
    """Makes a file, open for appending. Raises: OSError, where the path exists."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, mode)


def _nameless_file(directory: str, content: bytes) -> BinaryIO:
    """A file without a name, with this content, open for reading from its start.

    Not words of a command, which all users can see and set-up lines may hold secrets; and no name,
    under which the shell might open another's file.
    """
    file = cast(BinaryIO, tempfile.TemporaryFile(dir=directory))  # noqa: SIM115
    try:
        file.write(content)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _unlink(path: str) -> None:
    with suppress(OSError):  # gone with its directory
        os.unlink(path)


def _ending(process: _Process | None) -> Ending:
    if process is None:
        return Ending(Cause.LOST, "This machine's scheduler has no such element.")
    if process.failure is not None:
        return Ending(Cause.NEVER_STARTED, process.failure)
    if process.cancelled:
        return Ending(Cause.CANCELLED, "The job was cancelled.")
    code = process.code
    if code is None:
        return Ending(Cause.LOST, "The process is still running.")
    if code < 0:
        return Ending(
            Cause.EXIT, f"The process was ended by signal {-code} ({signal.strsignal(-code)})."
        )
    if code in (126, 127):
        return Ending(
            Cause.NEVER_STARTED,
            f"There is no such Python (exit code {code}): python_executable and command_prefix "
            "have to be right.",
        )
    return Ending(Cause.EXIT, f"The process ended with exit code {code}.", exit_code=code)


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
