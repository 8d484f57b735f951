"""Calls that use signals for themselves, as libraries do that limit a time or save at a warning."""

from __future__ import annotations

import _thread
import asyncio
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from support.waiting import LIMIT_S, wait_until


class Late(Exception):
    pass


def _wait_for_interrupt(send: Callable[[], object]) -> None:
    """Raises: Late, once what `send` sends has come."""
    waits = threading.Event()

    def send_soon() -> None:
        if waits.wait(LIMIT_S):
            send()

    sender = threading.Thread(target=send_soon)
    sender.start()
    try:
        waits.set()
        wait_until(lambda: False, "an interrupt")
    except KeyboardInterrupt:
        raise Late from None
    finally:
        sender.join()


def _send_interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _kill_main_thread() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def interrupted_often(_: object = None) -> list[str]:
    told: list[str] = []
    for send in (_thread.interrupt_main, _send_interrupt, _kill_main_thread) * 2:
        try:
            _wait_for_interrupt(send)
        except Late:
            told.append("late")
    return told


def interrupted_and_fails(_: object = None) -> None:
    _wait_for_interrupt(_send_interrupt)


def interrupted() -> None:
    _send_interrupt()
    wait_until(lambda: False, "an interrupt")


def warned() -> list[int]:
    """Counts its warnings."""
    heard: list[int] = []
    assert signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, lambda signum, frame: heard.append(signum))
    for count in (1, 2, 3):
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda count=count: len(heard) == count, "the warning")
    return heard


def warned_and_goes_on() -> str:
    os.kill(os.getpid(), signal.SIGUSR1)
    return "went on"


def alarmed() -> str:
    def raise_late(signum: int, frame: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, raise_late)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        wait_until(lambda: False, "an alarm")
    except Late:
        # Left behind, as where the call fails before it is taken back.
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    return "alarmed"


def takes_all_signals() -> str:
    """And gives none of them back."""

    def ignore(signum: int, frame: object) -> None:
        pass

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, ignore)
        os.kill(os.getpid(), signum)
    signal.set_wakeup_fd(-1)
    faulthandler.register(signal.SIGUSR1, file=2)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    return "taken"


def closes_all_files() -> str:
    os.closerange(3, 200)
    return "closed"


async def _heard_in_loop() -> str:
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGUSR1):
        loop.add_signal_handler(signum, heard.set)
        os.kill(os.getpid(), signum)
        await asyncio.wait_for(heard.wait(), LIMIT_S)
        loop.remove_signal_handler(signum)
        heard.clear()
    return "heard"


def uses_asyncio() -> str:
    return asyncio.run(_heard_in_loop())


def _wait_forever() -> None:
    threading.Event().wait()


def ends_children() -> list[Any]:
    """Returns what they ended with."""
    codes: list[Any] = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); input()"], **_PIPES
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(signum)
            child.communicate(timeout=LIMIT_S)
            codes.append(child.returncode)
    process = multiprocessing.get_context("fork").Process(target=_wait_forever)
    process.start()
    process.terminate()
    process.join(LIMIT_S)
    codes.append(process.exitcode)
    codes.append(subprocess.run(["false"], check=False).returncode)
    return codes


_PIPES: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.DEVNULL,
}


def process_id(_: object = None) -> int:
    return os.getpid()


def disposition() -> list[bool]:
    """Whether signals that a program expects reach this one and what it starts."""
    words = [sys.executable, "-c", _ASK]
    text = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [not signal.pthread_sigmask(signal.SIG_BLOCK, []), text == "True True True\n"]


_ASK = """
import signal
print(*(signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler)
        for n in (signal.SIGCHLD, signal.SIGQUIT, signal.SIGINT)))
"""
