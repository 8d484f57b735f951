"""What every contender's jobs call: a module that jobs find by PYTHONPATH, and that imports nothing."""

from __future__ import annotations


def nothing(value: object = None) -> object:
    return value


def pause(seconds: float) -> float:
    from time import sleep

    sleep(seconds)
    return seconds


def ended_after(seconds: float) -> tuple[int, float]:
    """The process that has run this call, and when it ended, in seconds since the epoch."""
    from os import getpid
    from time import sleep, time

    sleep(seconds)
    return getpid(), time()
