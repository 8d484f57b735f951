"""Named pipes: a message wakes whoever reads on this machine, and nothing else is written to."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_tools.named_pipes import NamedPipe, send

LIMIT_MS = 60_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "pipe")


@pytest.fixture
def pipe(path: str) -> Iterator[NamedPipe]:
    pipe = NamedPipe(path)
    yield pipe
    pipe.close()


def _is_readable(pipe: NamedPipe, limit_ms: int) -> bool:
    fd = pipe.fd()
    assert fd is not None
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll(limit_ms) == [(fd, select.POLLIN)]


def _send(path: str, message: bytes) -> bool:
    return send(path, message, owner=os.getuid())


def test_messages_arrive_one_after_the_other(pipe: NamedPipe, path: str) -> None:
    assert not _is_readable(pipe, 0)
    assert _send(path, b"one\n")
    assert _send(path, b"two\n")
    assert _is_readable(pipe, LIMIT_MS)
    assert pipe.read() == b"one\ntwo\n"
    assert not _is_readable(pipe, 0)
    assert pipe.read() == b""


def test_a_message_to_nobody_is_not_sent(path: str) -> None:
    assert not _send(path, b"absent")
    os.mkfifo(path)
    assert not _send(path, b"not read by anybody")


def test_only_a_pipe_gets_messages(path: str, tmp_path: Path) -> None:
    Path(path).write_bytes(b"a file")
    assert not _send(path, b"message")
    assert Path(path).read_bytes() == b"a file"
    NamedPipe(str(tmp_path / "real"))
    os.symlink("real", tmp_path / "link")
    assert not _send(str(tmp_path / "link"), b"message")


def test_a_pipe_of_another_user_gets_no_message(pipe: NamedPipe, path: str) -> None:
    assert not send(path, b"message", owner=os.getuid() + 1)
    assert pipe.read() == b""


def test_a_full_pipe_takes_no_more_and_holds_up_nobody(pipe: NamedPipe, path: str) -> None:
    for _ in range(1 << 10):
        assert _send(path, bytes(512))
    received = b"".join(iter(pipe.read, b""))
    assert 0 < len(received) < 512 << 10


def test_a_pipe_whose_descriptor_was_closed_is_opened_again(pipe: NamedPipe, path: str) -> None:
    fd = pipe.fd()
    assert fd is not None
    os.close(fd)
    other = os.open(os.devnull, os.O_RDONLY)  # gets the same number
    try:
        assert pipe.read() == b""
        assert pipe.fd() != other
        assert _send(path, b"message")
        assert pipe.read() == b"message"
    finally:
        os.close(other)


def test_a_closed_pipe_is_gone(pipe: NamedPipe, path: str) -> None:
    pipe.close()
    pipe.close()
    assert not os.path.exists(path)
    assert (pipe.fd(), pipe.read()) == (None, b"")
    assert not _send(path, b"message")


def test_a_pipe_that_is_gone_and_closed_can_not_be_waited_for(pipe: NamedPipe, path: str) -> None:
    fd = pipe.fd()
    assert fd is not None
    os.close(fd)
    os.unlink(path)
    with pytest.raises(FileNotFoundError):
        pipe.fd()
