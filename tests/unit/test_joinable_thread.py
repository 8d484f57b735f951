"""Promises on threads that are waited for in a thread that signals interrupt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from cluster_tools.cluster.joinable_thread import JoinableThread
from support.waiting import LIMIT_S

_INTERRUPT_AFTER_S = 0.05


class _Interrupted(Exception):
    pass


class _Gated(JoinableThread):
    def __init__(self) -> None:
        super().__init__("gated")
        self.gate = threading.Event()

    def work(self) -> None:
        self.gate.wait(LIMIT_S)


class _Failing(JoinableThread):
    def work(self) -> None:
        raise _Interrupted


@pytest.fixture
def gated() -> Iterator[_Gated]:
    thread = _Gated()
    thread.start()
    yield thread
    thread.gate.set()
    thread.join(LIMIT_S)


@pytest.fixture
def interrupting() -> Iterator[None]:
    """A handler of SIGALRM that raises."""

    def raise_interrupted(*_: object) -> None:
        raise _Interrupted

    previous = signal.signal(signal.SIGALRM, raise_interrupted)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def _end(thread: _Gated) -> None:
    thread.gate.set()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.mark.timeout(LIMIT_S, method="thread")  # the other method has a use for SIGALRM
@pytest.mark.parametrize("timeout", [None, LIMIT_S])
@pytest.mark.usefixtures("interrupting")
def test_it_is_alive_after_an_interrupted_join(gated: _Gated, timeout: float | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, _INTERRUPT_AFTER_S)
    with pytest.raises(_Interrupted):
        gated.join(timeout)
    assert gated.is_alive()
    gated.join(_INTERRUPT_AFTER_S)
    assert gated.is_alive()
    _end(gated)


@pytest.mark.timeout(LIMIT_S, method="thread")
@pytest.mark.usefixtures("interrupting")
def test_others_can_join_it_after_an_interrupted_join(gated: _Gated) -> None:
    others = [threading.Thread(target=gated.join, args=(LIMIT_S,)) for _ in range(3)]
    for other in others:
        other.start()
    signal.setitimer(signal.ITIMER_REAL, _INTERRUPT_AFTER_S)
    with pytest.raises(_Interrupted):
        gated.join()
    _end(gated)
    for other in others:
        other.join(LIMIT_S)
        assert not other.is_alive()


def test_it_joins_neither_itself_nor_before_it_is_started() -> None:
    errors: list[RuntimeError] = []

    class Joins(JoinableThread):
        def work(self) -> None:
            try:
                self.join()
            except RuntimeError as exc:
                errors.append(exc)

    thread = Joins("joins")
    with pytest.raises(RuntimeError):
        thread.join()
    thread.start()
    thread.join(LIMIT_S)
    assert len(errors) == 1


def test_join_returns_after_its_timeout(gated: _Gated) -> None:
    gated.join(0.01)
    gated.join(0)
    gated.join(-1)
    assert gated.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_is_over_after_an_error() -> None:
    thread = _Failing("failing")
    assert not thread.is_alive()
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
