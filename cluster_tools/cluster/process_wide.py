"""What all executors of a process share: watcher, prober, signal handlers, and the work at exit.

    signal -> handler ----byte--> watcher thread -----> executors are aborted
    exit after an error --byte--> watcher thread -----> executors are aborted
    other exit -----------------> executors are waited for
    error in `with` ------------> thread of its own --> the executor is aborted

A signal handler takes no lock and starts no thread. It writes a byte to the watcher's pipe, waits
until the watcher has aborted the executors, and calls the handler that was installed before. A
forked child has none of this.

An abort does not run in the main thread, because a second signal could interrupt it there. The main
thread waits for a limited time until the cancellation of the jobs has begun.
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
# A handler waits no longer than this for the watcher, even if the disk does not answer.
_HANDLER_PATIENCE_S = 10.0
_HANDLER_INTERVAL_S = 0.002
# How long a signal that ends the process waits until its run directories are removed.
_CLEAN_UP_PATIENCE_S = 1.0

_logger = logging.getLogger("cluster_tools")


class Registered(Protocol):
    """What this module needs from `Session`."""

    @property
    def lifecycle(self) -> Lifecycle: ...
    def has_open_calls(self) -> bool: ...
    def abort(self) -> None: ...
    def close(self, *, wait: bool) -> None: ...


class _Threads:
    """The executors of this process, and the two threads that exist while there are executors."""

    def __init__(self) -> None:
        self.executors: list[Registered] = []
        self.watcher: Watcher | None = None
        self.prober: Prober | None = None
        # How often the watcher has aborted all executors.
        self.times_ended = 0
        # The watcher was asked to abort all executors, and has not done so yet.
        self.is_ending = False
        # A signal handler waits for the abort.
        self.is_handling = False
        # Signal -> handler: the signals that arrived while a handler waited.
        self.pending_handlers: dict[int, _Handler] = {}
        # Never closed, because a handler may write to it at any time.
        self._pipe: tuple[int, int] | None = None

    def pipe(self) -> tuple[int, int]:
        """The pipe of the watcher, emptied; made at the first call."""
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
    """Moves two file descriptors to numbers above 2, and returns the new numbers.

    If stdin, stdout or stderr is closed, a new descriptor may get its number. Then text for that
    stream would go into the pipe.
    """
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
    """Adds the executor to the watcher and the prober, and to those that signals and exit end."""
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
    """Undoes `register`. The last executor ends the two threads."""
    with _threads_lock:
        if executor not in _threads.executors:
            return
        _threads.executors.remove(executor)
        watcher, prober = _threads.watcher, _threads.prober
        assert watcher is not None and prober is not None
        for each in watched:
            watcher.remove(each)
            each.close()
        prober.remove(probe)
        if _threads.executors:
            return
        watcher.stop()
        prober.stop()
        # Does not take long. The next watcher reads from the same pipe, so this one has to end.
        watcher.join(_HANDLER_PATIENCE_S)
        _threads.watcher = _threads.prober = None


def has_executors() -> bool:
    return bool(_threads.executors)


def has_open_calls() -> bool:
    """Whether an executor of this process has calls that are not done."""
    return any(executor.has_open_calls() for executor in list(_threads.executors))


def expect_outputs(watched: Sequence[Watched]) -> None:
    """Makes the watcher look often for outputs from now on."""
    watcher = _threads.watcher
    for each in watched:
        each.expect()
    if watcher is not None:
        watcher.wake()


def expect_states(probe: Probe) -> None:
    """Makes the prober ask often for states from now on: there is a new job."""
    prober = _threads.prober
    if prober is not None:
        prober.expect(probe)


def end_at_once(executor: Registered) -> None:
    """Aborts the executor, and waits for a limited time until it has begun to cancel its jobs."""
    try:
        threading.Thread(target=executor.abort, name="cluster_tools-abort", daemon=True).start()
    except RuntimeError:  # no more threads can be started
        executor.abort()
    _wait_until(lambda: executor.lifecycle.stop_begun, _HANDLER_PATIENCE_S)


def _end_all() -> None:
    """Aborts all executors. Runs in the watcher's thread."""
    for executor in list(_threads.executors):
        try:
            executor.abort()
        except Exception:
            _logger.exception("an executor could not be ended after a signal or an error")
    _threads.times_ended += 1
    _threads.is_ending = False


class _Handler:
    """A signal handler: aborts all executors, then does what the signal did before.

    `previous`: the handler that was installed before.
    """

    def __init__(self, previous: Any):
        self._previous: Any = previous
        self._pid = os.getpid()

    def is_ours(self) -> bool:
        """Whether this process has installed the handler, and not its parent before a fork."""
        return os.getpid() == self._pid

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        threads = _threads
        handlers = {signum: self}
        if threads.watcher is not None and self.is_ours():
            if threads.is_handling:  # this signal interrupts the handler of another, in the `try`
                threads.pending_handlers[signum] = self
                return
            try:  # an exception of another signal's handler must not leave `is_handling` set
                threads.is_handling = True
                _have_all_end(threads.watcher)
            finally:
                threads.is_handling = False
            pending_handlers, threads.pending_handlers = threads.pending_handlers, {}
            handlers = {**pending_handlers, **handlers}
        for number, handler in handlers.items():
            handler.end_by_default(number)
        with ExitStack() as previous:  # calls each handler, even if another one raises
            for number, handler in handlers.items():
                previous.callback(handler.call_previous, number, frame)

    def call_previous(self, signum: int, frame: FrameType | None) -> None:
        if callable(self._previous):
            self._previous(signum, frame)

    def end_by_default(self, signum: int) -> None:
        """Ends the process, if that is what the signal did before."""
        if self._previous == signal.SIG_DFL:
            _wait_until(lambda: not _threads.executors, _CLEAN_UP_PATIENCE_S)
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            os._exit(128 + signum)  # the signal does not end process 1 of a container


def _have_all_end(watcher: Watcher) -> None:
    """Makes the watcher abort all executors, and waits for a limited time until it has done so."""
    times = _threads.times_ended
    _threads.is_ending = True
    watcher.write(END)

    def is_over() -> bool:
        return _threads.times_ended != times and _stops_have_begun()

    _wait_until(lambda: is_over() or not watcher.is_alive(), _HANDLER_PATIENCE_S)
    if not watcher.is_alive():  # it ended before it read the request
        _threads.is_ending = False


def _stops_have_begun() -> bool:
    lives = [executor.lifecycle for executor in list(_threads.executors)]
    return all(life.stop_begun for life in lives if life.aborted)


def _wait_for_stops() -> None:
    """Waits for a limited time until the cancellation of all aborted executors' jobs has begun.

    Signal handlers, also of the user's program, may raise meanwhile: such exceptions are ignored.
    """
    deadline = time.monotonic() + _HANDLER_PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if not _threads.is_ending and _stops_have_begun():
                return
            time.sleep(_HANDLER_INTERVAL_S)
        except BaseException:  # the process is about to exit
            pass


def _wait_until(condition: Callable[[], bool], patience_s: float) -> None:
    """Waits until `condition` is true, or for `patience_s` seconds.

    It sleeps and takes no lock, because a signal handler's own thread may hold that lock.
    """
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(_HANDLER_INTERVAL_S)


def has_signal_handlers() -> bool:
    return any(isinstance(signal.getsignal(signum), _Handler) for signum in _SIGNALS)


def install_signal_handlers() -> None:
    """Makes SIGINT, SIGTERM and SIGHUP abort all executors first. Ignored signals stay ignored.

    Raises: RuntimeError, if the caller is not in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signal handlers can only be installed in the main thread")
    for signum in _SIGNALS:
        previous = signal.getsignal(signum)
        # None: Python has not installed this handler, and so can't call it.
        if previous in (None, signal.SIG_IGN):
            continue
        if isinstance(previous, _Handler) and previous.is_ours():
            continue
        signal.signal(signum, _Handler(previous))


def _was_unhandled_exception() -> bool:
    """Whether an unhandled exception makes the interpreter exit.

    An interactive interpreter (with sys.ps1) sets sys.last_type after each exception and goes on.
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
                # The watcher has not aborted it, because the disk of another executor hangs.
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
