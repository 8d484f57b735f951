"""Records of workers arrive, whatever is in them and whoever is killed while writing one."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from typing import Any

import pytest
import workers

from cluster_tools import MultiprocessingExecutor
from cluster_tools.executors.log_forwarding import (
    RecordSender,
    UnfinishedRecords,
    pack_record,
    parts_of,
    unpack_record,
)
from support.waiting import LIMIT_S

LARGE = 10_000_000
START_METHODS = ["spawn"] if sys.platform == "win32" else ["spawn", "forkserver"]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
only_posix = pytest.mark.skipif(sys.platform == "win32", reason="there records go in one part")


def _record(**extra: Any) -> logging.LogRecord:
    record = logging.LogRecord("app", logging.ERROR, __file__, 1, "message %s", (1,), None)
    vars(record).update(extra)
    return record


def _arrived(record: logging.LogRecord) -> logging.LogRecord:
    return unpack_record(pack_record(record))


@only_posix
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_child_that_is_killed_while_it_logs_costs_no_other_record(
    start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with MultiprocessingExecutor(2, start_method=start_method) as executor:
        futures = executor.map_to_futures(workers.log_beside_killed_children, [10] * 4)
        assert [future.result(LIMIT_S) for future in futures] == [10] * 4
    own = [message for message in caplog.messages if message.startswith("own")]
    assert len(own) == 40
    assert {len(message) for message in own} == {len("own") + 100_000}
    assert {message.strip("y") for message in caplog.messages if message[0] == "y"} <= {""}


@only_posix
def test_what_killed_writers_leave_behind_does_not_grow() -> None:
    unfinished = UnfinishedRecords()
    for _ in range(100):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(writer, parts_of(bytes(8000))[0])
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        assert unfinished.add(os.read(reader, 8000)) is None
        os.close(reader)
        os.close(writer)
    assert len(unfinished) <= 8


class _InterruptedConnection:
    """The pipe's end of a worker that is interrupted when it has written the first part."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self._was_interrupted = False

    def send_bytes(self, part: bytes) -> None:
        if self.written and not self._was_interrupted:
            self._was_interrupted = True
            raise KeyboardInterrupt
        self.written.append(part)


@only_posix
def test_a_record_whose_writing_was_interrupted_is_not_waited_for() -> None:
    connection: Any = _InterruptedConnection()
    with pytest.raises(KeyboardInterrupt):
        RecordSender(connection).send(bytes(LARGE))
    unfinished = UnfinishedRecords()
    first, rest = connection.written[0], connection.written[1:]
    assert unfinished.add(first) is None
    assert len(unfinished) == 1
    assert [unfinished.add(part) for part in rest] == [None]
    assert len(unfinished) == 0


@only_posix
def test_records_of_many_writers_do_not_mix() -> None:
    records = [bytes([i]) * (i * 1000) for i in range(100)]
    all_parts = [parts_of(record) for record in records]
    unfinished = UnfinishedRecords()
    arrived: list[bytes] = []
    while any(all_parts):
        for parts in all_parts:
            if parts and (record := unfinished.add(parts.pop(0))) is not None:
                arrived.append(record)
    assert sorted(arrived) == sorted(records)
    assert len(unfinished) == 0


def test_a_part_is_written_at_once() -> None:
    assert max(map(len, parts_of(bytes(LARGE)))) + 4 <= getattr(select, "PIPE_BUF", 1 << 30)


def test_large_records_and_records_of_many_threads_arrive(caplog: pytest.LogCaptureFixture) -> None:
    with MultiprocessingExecutor(2) as executor:
        executor.submit(workers.log, "large", logging.WARNING, "x" * LARGE).result(LIMIT_S)
        executor.submit(workers.log_in_threads, 300).result(LIMIT_S)
    assert "x" * LARGE in caplog.messages
    of_threads = [r.getMessage() for r in caplog.records if r.name == "threads"]
    assert sorted(of_threads) == sorted(f"{i} " + "t" * (40 * i) for i in range(300))


def test_what_cannot_be_pickled_of_a_record_arrives_as_its_repr() -> None:
    class NoRepr:
        def __repr__(self) -> str:
            raise ValueError

    lock = threading.Lock()
    record = _arrived(
        _record(lock=lock, odd=NoRepr(), one_way=workers.OneWay(), sets={1}, text="text")
    )
    extra: Any = record
    assert record.getMessage() == "message 1"
    assert extra.lock == repr(lock)
    assert "NoRepr object" in extra.odd
    assert "OneWay" in extra.one_way
    assert (extra.sets, extra.text) == ({1}, "text")


def test_arguments_that_cannot_be_pickled_are_in_the_message() -> None:
    lock = threading.Lock()
    record = _record()
    record.args = (lock,)
    assert _arrived(record).getMessage() == f"message {lock!r}"


def test_an_exception_arrives_as_text() -> None:
    record = _record()
    try:
        raise KeyError(threading.Lock())
    except KeyError:
        record.exc_info = sys.exc_info()
    arrived = _arrived(record)
    assert arrived.exc_info is None
    assert "KeyError: <unlocked" in str(arrived.exc_text)
    assert "KeyError: <unlocked" in logging.Formatter().format(arrived)


def test_a_class_of_records_stays_where_it_can_be_found() -> None:
    class Local(logging.LogRecord):
        pass

    local = Local("app", logging.ERROR, __file__, 1, "message", (), None)
    assert type(_arrived(local)) is logging.LogRecord
    known = workers.KnownRecord("app", logging.ERROR, __file__, 1, "message", (), None)
    assert type(_arrived(known)) is workers.KnownRecord


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_costs_no_other_record(
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise error("in the handler")

    handler = Raising()
    logging.getLogger("raises").addHandler(handler)
    monkeypatch.setattr(sys, "stderr", None)
    try:
        with MultiprocessingExecutor(1) as executor:
            executor.submit(workers.log, "raises", logging.WARNING, "before").result(LIMIT_S)
            executor.submit(workers.log, "other", logging.WARNING, "after").result(LIMIT_S)
    finally:
        logging.getLogger("raises").removeHandler(handler)
    assert "after" in caplog.messages


@only_posix
def test_a_child_that_goes_on_logging_does_not_hold_up_the_shutdown() -> None:
    with MultiprocessingExecutor(1) as executor:
        pid = executor.submit(workers.leave_a_logging_child).result(LIMIT_S)
    readers = {thread.name for thread in threading.enumerate()}
    try:
        assert "cluster_tools log records" not in readers
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
