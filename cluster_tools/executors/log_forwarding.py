"""Forwards log records of worker processes to the handlers of the process that started them.

    worker process (each), and its children      parent process
    +---------------------------------------+    +-----------------------------------------------+
    | logger -> root: _SendingHandler       |    | thread: joins parts, makes the record again   |
    |     record -> parts of PIPE_BUF bytes --pipe--> getLogger(name).handle(record)             |
    +---------------------------------------+    +-----------------------------------------------+

A record is in the pipe before the logging call returns, so it never arrives after the result of its
call. Writers share no lock, since one that is killed would hold it for ever. The system writes a
part completely or not at all, and each part says whose it is. Knows logging and pipes, no calls.
Not for forked workers, which have the handlers themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import select
import struct
import sys
import threading
import traceback
import weakref
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from cluster_tools.function_name import exception_text

# How long `close` waits for handlers: they may be slow, and a caller waits for `close`.
_DRAIN_LIMIT_S = 10.0

# Stands before each part: process id of the writer, random id of the record, kind of part.
_PART_HEADER = struct.Struct("!Q8sB")
# The whole record; the first, a middle and the last part of one; no more parts follow.
_WHOLE, _FIRST, _MIDDLE, _FINAL, _CUT_SHORT = range(5)
_LENGTH_BYTES = 4  # `Connection` writes a part's length before it, in the same write
# Windows has no PIPE_BUF: its pipes write messages of any size completely.
_MAX_PART_BYTES = getattr(select, "PIPE_BUF", 1 << 30) - _LENGTH_BYTES - _PART_HEADER.size

# How many incomplete records are kept before it is checked whether their writers are alive.
_MIN_INCOMPLETE_TO_CHECK = 8

# Types whose pickling and unpickling can't fail, or do anything else.
_PLAIN_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes})


class LogForwarding:
    """The parent's end: a pipe, and the thread that reads it.

    Arguments:
        context: The context of `multiprocessing` that starts the workers.
    """

    def __init__(self, context: BaseContext) -> None:
        reader, self._writer = context.Pipe(duplex=False)
        self._owner_pid = os.getpid()
        # A daemon: _drain_all() ends it at exit, after the pools have waited for their calls.
        self._thread = threading.Thread(
            target=_emit_records, args=(reader,), name="cluster_tools log records", daemon=True
        )
        _threads.add(self._thread)
        self._thread.start()
        _open_forwardings.add(self)

    def sender(self) -> RecordSender:
        """The workers' end, which can be pickled while a worker is started."""
        return RecordSender(self._writer)

    def close(self) -> None:
        """Returns when the handlers have all records. To be called once all workers have ended."""
        if self not in _open_forwardings or os.getpid() != self._owner_pid:
            return
        _open_forwardings.discard(self)
        is_reader = threading.current_thread() is self._thread  # in a handler
        with self._writer:
            # Children that calls have left behind may have the pipe open, so its end may not come.
            if _is_writable(self._writer, 0 if is_reader else _DRAIN_LIMIT_S):
                with contextlib.suppress(OSError):  # the thread has ended
                    self._writer.send_bytes(_LAST)
            elif not is_reader:
                return  # a handler does not return
        if not is_reader:
            self._thread.join(_DRAIN_LIMIT_S)


def _is_writable(writer: Connection, timeout_s: float) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(writer.fileno(), select.POLLOUT)
    return bool(poll.poll(timeout_s * 1000))


_LAST = b""

_open_forwardings: weakref.WeakSet[LogForwarding] = weakref.WeakSet()
_threads: set[threading.Thread] = set()  # the threads that read pipes


@atexit.register
def _drain_all() -> None:
    for forwarding in list(_open_forwardings):
        forwarding.close()
    for thread in list(_threads):  # of executors that were dropped without a shutdown
        thread.join(_DRAIN_LIMIT_S)


def _emit_records(reader: Connection) -> None:
    """Runs in the thread. Has no reference to the LogForwarding, which can be collected so."""
    unfinished = UnfinishedRecords()
    with reader:
        for part in iter(lambda: _received(reader), _LAST):
            try:
                packed = unfinished.add(part)
                if packed is not None:
                    _emit(unpack_record(packed))
            except BaseException:  # a handler may raise anything, and other records must arrive
                _print_error()
    _threads.discard(threading.current_thread())


def _emit(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _print_error() -> None:
    if logging.raiseExceptions and sys.stderr:  # as logging does with errors of handlers
        with contextlib.suppress(Exception):
            traceback.print_exc(file=sys.stderr)


def _received(reader: Connection) -> bytes:
    try:
        return reader.recv_bytes()
    except (EOFError, OSError):
        return _LAST


class UnfinishedRecords:
    """Collects the parts of records, from any number of writers at once."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, bytes], list[bytes]] = {}
        self._check_at = _MIN_INCOMPLETE_TO_CHECK

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, part: bytes) -> bytes | None:
        """Takes a part. Returns the packed record if this was its last part."""
        pid, record_id, place = _PART_HEADER.unpack_from(part)
        content = part[_PART_HEADER.size :]
        if place == _WHOLE:
            return content
        key = pid, record_id
        if place == _CUT_SHORT:
            self._parts.pop(key, None)
        elif place == _FIRST:
            if len(self._parts) >= self._check_at:
                self._forget_dead_writers()
            self._parts[key] = [content]
        elif (parts := self._parts.get(key)) is not None:
            parts.append(content)
            if place == _FINAL:
                return b"".join(self._parts.pop(key))
        return None

    def _forget_dead_writers(self) -> None:
        dead = {pid for pid in {pid for pid, _ in self._parts} if not _is_alive(pid)}
        self._parts = {key: parts for key, parts in self._parts.items() if key[0] not in dead}
        # Twice as many as live writers need, so that checks stay rare,
        # however many writers there are.
        self._check_at = max(_MIN_INCOMPLETE_TO_CHECK, 2 * len(self._parts))


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # there each record has one part
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


class RecordSender:
    """The workers' end of a LogForwarding. Processes that a call forks use it, too."""

    def __init__(self, writer: Connection) -> None:
        self._writer = writer
        self._levels: dict[str, int] = {}
        self._disabled_level = 0

    def __getstate__(self) -> dict[str, Any]:
        # Called when a worker is started, so late: many programs set up logging late.
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
        """Makes this the only handler of the root logger, and sets the parent's levels."""
        logging.disable(self._disabled_level)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        # Handlers that the import of the script has set up would write each record a second time.
        logging.getLogger().handlers[:] = [_SendingHandler(self)]

    def send(self, packed_record: bytes) -> None:
        """Returns when all parts are in the pipe. Each part is written atomically."""
        parts = parts_of(packed_record)
        try:
            for part in parts:
                self._writer.send_bytes(part)
        except BaseException:  # a signal handler may raise between two parts
            if len(parts) > 1:
                header = _PART_HEADER.unpack_from(parts[0])
                self._writer.send_bytes(_PART_HEADER.pack(*header[:2], _CUT_SHORT))
            raise


def parts_of(packed_record: bytes) -> list[bytes]:
    """The parts of a record, each of which is written to the pipe by one write."""
    size = len(packed_record)
    pid = os.getpid()
    if size <= _MAX_PART_BYTES:
        return [_PART_HEADER.pack(pid, b"", _WHOLE) + packed_record]
    record_id = os.urandom(8)

    def part(start: int) -> bytes:
        stop = start + _MAX_PART_BYTES
        place = _FIRST if start == 0 else _MIDDLE if stop < size else _FINAL
        return _PART_HEADER.pack(pid, record_id, place) + packed_record[start:stop]

    return [part(start) for start in range(0, size, _MAX_PART_BYTES)]


class _SendingHandler(logging.Handler):
    """The handler of a worker's root logger."""

    def __init__(self, sender: RecordSender) -> None:
        super().__init__()
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sender.send(pack_record(record))
        except BrokenPipeError:  # the parent has ended, and this process has not
            pass
        except Exception:
            self.handleError(record)


def pack_record(record: logging.LogRecord) -> bytes:
    """Pickles a record: message and exception as text, and all other attributes.

    An attribute that cannot be pickled, or not be unpickled, arrives as its `repr`.
    """
    attributes = dict(vars(record))
    attributes.update(msg=record.getMessage(), args=None, exc_info=None)
    if record.exc_info and not record.exc_text:
        attributes["exc_text"] = _exception_text(record.exc_info)
    plain: dict[str, Any] = {}
    others: dict[str, tuple[bytes | None, str]] = {}
    for name, value in attributes.items():
        if type(value) in _PLAIN_TYPES:
            plain[name] = value
        else:
            others[name] = _pickled(value), _repr(value)
    kind = None if type(record) is logging.LogRecord else _pickled(type(record))
    return pickle.dumps((plain, others, kind))


def unpack_record(packed: bytes) -> logging.LogRecord:
    """The record that `pack_record` has packed."""
    attributes, others, kind = pickle.loads(packed)
    for name, (pickled, text) in others.items():
        attributes[name] = _unpickled(pickled, text)
    record_type: type[logging.LogRecord] = _unpickled(kind, logging.LogRecord)
    record = object.__new__(record_type)
    vars(record).update(attributes)
    return record


def _exception_text(exc_info: Any) -> str:
    try:
        return logging.Formatter().formatException(exc_info)
    except Exception:  # its class may do anything
        return exception_text(exc_info[1])


def _pickled(value: object) -> bytes | None:
    try:
        return pickle.dumps(value)
    except Exception:
        return None


def _unpickled(pickled: bytes | None, otherwise: Any) -> Any:
    if pickled is None:
        return otherwise
    try:
        return pickle.loads(pickled)
    except Exception:
        return otherwise


def _repr(value: object) -> str:
    try:
        return str.__str__(repr(value))
    except Exception:
        return object.__repr__(value)
