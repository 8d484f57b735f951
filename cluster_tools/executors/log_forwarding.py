"""Log records of worker processes, brought to the handlers of the process that made them.

    worker process (each)                    parent process
    +--------------------------------+       +------------------------------------------+
    | logger -> root: _SendingHandler --pipe----> thread: getLogger(name).handle(record) |
    +--------------------------------+       +------------------------------------------+

A record is in the pipe before the logging call returns, so it is never behind a result. Knows
logging and pipes, nothing of calls. For workers that are not forked; those have the handlers.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import sys
import threading
import traceback
import weakref
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

# How long close() waits for the handlers: they may be slow, and a caller waits for this.
_DRAIN_LIMIT_S = 10.0


class LogForwarding:
    """The parent's end: a pipe, and the thread that reads it.

    Arguments:
        context: That of the workers.
    """

    def __init__(self, context: BaseContext) -> None:
        reader, self._writer = context.Pipe(duplex=False)
        self._writer_lock = context.Lock()
        self._owner_pid = os.getpid()
        # A daemon: _drain_all() ends it at exit, after the pools have waited for their calls.
        self._thread = threading.Thread(
            target=_emit_records, args=(reader,), name="cluster_tools log records", daemon=True
        )
        _threads.add(self._thread)
        self._thread.start()
        _open_forwardings.add(self)

    def sender(self) -> RecordSender:
        """The workers' end; it can be pickled while a worker is started."""
        return RecordSender(self._writer, self._writer_lock)

    def close(self) -> None:
        """Returns when the handlers have all records. The workers have to be gone."""
        if self not in _open_forwardings or os.getpid() != self._owner_pid:
            return
        _open_forwardings.discard(self)
        # A worker that was killed while it wrote has left the lock locked and the pipe with a part
        # of a record. Then only the pipe's end, when no process has it open, ends the thread.
        if self._writer_lock.acquire(block=False):
            try:
                self._writer.send_bytes(_LAST)
            finally:
                self._writer_lock.release()
        self._writer.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(_DRAIN_LIMIT_S)


_LAST = b""

_open_forwardings: weakref.WeakSet[LogForwarding] = weakref.WeakSet()
_threads: set[threading.Thread] = set()  # those that read


@atexit.register
def _drain_all() -> None:
    for forwarding in list(_open_forwardings):
        forwarding.close()
    for thread in list(_threads):  # of executors that were dropped, and not shut down
        thread.join(_DRAIN_LIMIT_S)


def _emit_records(reader: Connection) -> None:
    """The thread's work. It has no reference to the LogForwarding, which may be collected."""
    with reader:
        for pickled in iter(lambda: _received(reader), _LAST):
            try:
                record: logging.LogRecord = pickle.loads(pickled)
                logger = logging.getLogger(record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            except Exception:
                if logging.raiseExceptions:  # as logging itself treats its own errors
                    traceback.print_exc(file=sys.stderr)
    _threads.discard(threading.current_thread())


def _received(reader: Connection) -> bytes:
    try:
        return reader.recv_bytes()
    except (EOFError, OSError):
        return _LAST


class RecordSender:
    """The workers' end of a LogForwarding, in the role of a QueueHandler's queue."""

    def __init__(self, writer: Connection, writer_lock: Any) -> None:
        self._writer = writer
        self._writer_lock = writer_lock
        self._levels: dict[str, int] = {}
        self._disabled_level = 0

    def __getstate__(self) -> dict[str, Any]:
        # Taken when a worker is started and not before: many programs set up logging late.
        root = logging.getLogger()
        loggers = logging.Logger.manager.loggerDict.items()
        levels = {
            name: logger.level
            for name, logger in list(loggers)
            if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
        }
        return {
            **self.__dict__,
            "_levels": {root.name: root.level, **levels},
            "_disabled_level": root.manager.disable,
        }

    def install(self) -> None:
        """Makes it the only handler of this process's root logger, with the parent's levels."""
        logging.disable(self._disabled_level)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        # What the script's import has set up would write each record a second time.
        logging.getLogger().handlers[:] = [_SendingHandler(self)]

    def put_nowait(self, record: logging.LogRecord) -> None:
        pickled = pickle.dumps(record)
        with self._writer_lock:
            self._writer.send_bytes(pickled)


class _SendingHandler(logging.Handler):
    """A QueueHandler that is not imported before the first record: most workers have none."""

    def __init__(self, sender: RecordSender) -> None:
        super().__init__()
        self._queue: Any = sender  # a QueueHandler asks for put_nowait only
        self._queue_handler: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue_handler is None:
            from logging.handlers import QueueHandler

            self._queue_handler = QueueHandler(self._queue)
        self._queue_handler.emit(record)
