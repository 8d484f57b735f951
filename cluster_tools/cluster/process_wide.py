"""What all executors of a process share: the watcher, the prober, signal handlers, the end at exit.

    signal -> handler ----byte--> watcher thread ---> executors end at once
    exit after an error --byte--> watcher thread ---> executors end at once
    other exit ----------------> executors are waited for
    error in `with` -----------> thread of its own -> the executor ends at once

A handler takes no lock and starts no thread: it writes to the watcher's pipe, waits until the
watcher has seen to it, and goes on to the handler that was there before. In a forked child all of
this is gone.

Nothing ends at once in the main thread, which a second signal interrupts: the process waits, with a
limit, until the jobs are being cancelled.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, Protocol

from cluster_tools.cluster.lifecycle import Lifecycle
from cluster_tools.cluster.probing import Probe, Prober
from cluster_tools.cluster.watching import END, Watched, Watcher

_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):
    _SIGNALS.append(signal.SIGHUP)
# A handler waits no longer than this for the watcher, whatever the disk does.
_HANDLER_PATIENCE_S = 10.0
_HANDLER_INTERVAL_S = 0.002
# Before a signal ends the process, its run directories get so long to be removed.
_CLEAN_UP_PATIENCE_S = 1.0

_logger = logging.getLogger("cluster_tools")


class Registered(Protocol):
    """An executor, as its process has to know it."""

    @property
    def lifecycle(self) -> Lifecycle: ...
    def has_open_calls(self) -> bool: ...
    def abort(self) -> None: ...
    def close(self, *, wait: bool) -> None: ...


class _Threads:
    """The two threads, while there are executors."""

    def __init__(self) -> None:
        self.executors: list[Registered] = []
        self.watcher: Watcher | None = None
        self.prober: Prober | None = None
        # How often all executors have been ended at once; whether they are to be, and are not yet.
        self.times_ended = 0
        self.is_ending = False
        # A signal's handler waits for that; those of signals that come meanwhile.
        self.is_handling = False
        self.came_meanwhile: dict[int, _Handler] = {}
        # Never closed: a handler may be about to write to it.
        self._pipe: tuple[int, int] | None = None

    def pipe(self) -> tuple[int, int]:
        """An empty one."""
        if self._pipe is None:
            self._pipe = _above_standard_streams(os.pipe())
            for end in self._pipe:
                os.set_blocking(end, False)
        try:
            os.read(self._pipe[0], 1 << 20)
        except BlockingIOError:
            pass
        return self._pipe


def _above_standard_streams(fds: tuple[int, int]) -> tuple[int, int]:
    """The same files, where nothing lands that somebody writes to a stream that was closed."""
    if min(fds) > 2:
        return fds
    import fcntl

    first, second = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds)
    for fd in fds:
        os.close(fd)
    return first, second


_threads = _Threads()
_threads_lock = threading.Lock()


def register(executor: Registered, watched: Sequence[Watched], probe: Probe) -> None:
    """From here on it is watched, asked for, and ended by signals and at exit."""
    with _threads_lock:
        if not _threads.executors:
            _threads.watcher = Watcher(_threads.pipe(), _end_all)
            _threads.prober = Prober()
            _threads.watcher.start()
            _threads.prober.start()
        _threads.executors.append(executor)
        assert _threads.watcher is not None and _threads.prober is not None
        for each in watched:
            _threads.watcher.add(each)
        _threads.prober.add(probe)


def unregister(executor: Registered, watched: Sequence[Watched], probe: Probe) -> None:
    with _threads_lock:
        if executor not in _threads.executors:
            return
        _threads.executors.remove(executor)
        watcher, prober = _threads.watcher, _threads.prober
        assert watcher is not None and prober is not None
        for each in watched:
            watcher.remove(each)
        prober.remove(probe)
        if _threads.executors:
            return
        watcher.stop()
        prober.stop()
        # It waits for nobody. The next one reads from the same pipe, and there must not be two.
        watcher.join(_HANDLER_PATIENCE_S)
        _threads.watcher = _threads.prober = None


def has_executors() -> bool:
    return bool(_threads.executors)


def has_open_calls() -> bool:
    """Whether anybody waits for something."""
    return any(executor.has_open_calls() for executor in list(_threads.executors))


def expect_outputs(watched: Sequence[Watched]) -> None:
    """Outputs are waited for: look often from now on."""
    watcher = _threads.watcher
    for each in watched:
        each.expect()
    if watcher is not None:
        watcher.wake()


def expect_states(probe: Probe) -> None:
    """There is a new job: ask often from now on."""
    prober = _threads.prober
    if prober is not None:
        prober.expect(probe)


def end_at_once(executor: Registered) -> None:
    """Aborts the executor, and waits until its jobs are being cancelled, with a limit."""
    try:
        threading.Thread(target=executor.abort, name="cluster_tools-abort", daemon=True).start()
    except RuntimeError:  # there are too many threads
        executor.abort()
    _wait_until(lambda: executor.lifecycle.stop_begun, _HANDLER_PATIENCE_S)


def _end_all() -> None:
    """In the watcher's thread."""
    for executor in list(_threads.executors):
        try:
            executor.abort()
        except Exception:
            _logger.exception("an executor could not be ended after a signal or an error")
    _threads.times_ended += 1
    _threads.is_ending = False


class _Handler:
    """Ends all executors, then does what would have been done without us."""

    def __init__(self, previous: Any):
        self._previous: Any = previous
        self._pid = os.getpid()

    def is_ours(self) -> bool:
        """Not the one of the process that this one was forked from."""
        return os.getpid() == self._pid

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        threads = _threads
        handlers = {signum: self}
        if threads.watcher is not None and self.is_ours():
            if threads.is_handling:  # this one came while another is waited for, below
                threads.came_meanwhile[signum] = self
                return
            try:  # else an exception of another's handler could leave it set
                threads.is_handling = True
                _have_all_end(threads.watcher)
            finally:
                threads.is_handling = False
            came_meanwhile, threads.came_meanwhile = threads.came_meanwhile, {}
            handlers = {**came_meanwhile, **handlers}
        for number, handler in handlers.items():
            handler.end_by_default(number)
        with ExitStack() as previous:  # calls each, whatever the others raise
            for number, handler in handlers.items():
                previous.callback(handler.call_previous, number, frame)

    def call_previous(self, signum: int, frame: FrameType | None) -> None:
        if callable(self._previous):
            self._previous(signum, frame)

    def end_by_default(self, signum: int) -> None:
        """Ends the process, if the signal would have done that."""
        if self._previous == signal.SIG_DFL:
            _wait_until(lambda: not _threads.executors, _CLEAN_UP_PATIENCE_S)
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            os._exit(128 + signum)  # the first process of a container is not ended by that


def _have_all_end(watcher: Watcher) -> None:
    """Waits until the jobs of all executors are being cancelled, with a limit."""
    times = _threads.times_ended
    _threads.is_ending = True
    watcher.write(END)

    def is_over() -> bool:
        return _threads.times_ended != times and _stops_have_begun()

    _wait_until(lambda: is_over() or not watcher.is_alive(), _HANDLER_PATIENCE_S)
    if not watcher.is_alive():  # it has stopped before it could see to that
        _threads.is_ending = False


def _stops_have_begun() -> bool:
    lives = [executor.lifecycle for executor in list(_threads.executors)]
    return all(life.stop_begun for life in lives if life.aborted)


def _wait_for_stops() -> None:
    """As the last thing: whatever exceptions come out of handlers, which may not be ours,
    meanwhile.
    """
    deadline = time.monotonic() + _HANDLER_PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if not _threads.is_ending and _stops_have_begun():
                return
            time.sleep(_HANDLER_INTERVAL_S)
        except BaseException:  # the process ends anyway, a little later
            pass


def _wait_until(condition: Callable[[], bool], patience_s: float) -> None:
    """By sleeping: a handler must not wait for a lock that its own thread may hold."""
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(_HANDLER_INTERVAL_S)


def has_signal_handlers() -> bool:
    return any(isinstance(signal.getsignal(signum), _Handler) for signum in _SIGNALS)


def install_signal_handlers() -> None:
    """Makes SIGINT, SIGTERM and, unless it is ignored, SIGHUP end all executors first.

    Raises: RuntimeError, outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signal handlers can only be installed in the main thread")
    for signum in _SIGNALS:
        previous = signal.getsignal(signum)
        # None: a handler that Python has not installed and could not go on to.
        if previous in (None, signal.SIG_IGN):
            continue
        if isinstance(previous, _Handler) and previous.is_ours():
            continue
        signal.signal(signum, _Handler(previous))


def _was_unhandled_exception() -> bool:
    """Whether the interpreter exits because of one.

    An interactive one keeps the last it has shown.
    """
    return hasattr(sys, "last_type") and not hasattr(sys, "ps1")


@atexit.register
def _at_exit() -> None:
    watcher = _threads.watcher
    try:
        is_after_error = _was_unhandled_exception()
        if watcher is not None and is_after_error:
            _have_all_end(watcher)
        for executor in list(_threads.executors):
            try:
                # The watcher hangs in another's disk.
                if is_after_error and not executor.lifecycle.aborted:
                    end_at_once(executor)
                executor.close(wait=True)
            except Exception:
                _logger.exception("an executor could not be ended at exit")
    finally:
        _wait_for_stops()


def _forget_in_child() -> None:
    global _threads, _threads_lock
    _threads = _Threads()
    _threads_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
