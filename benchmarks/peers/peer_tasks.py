"""What every contender's jobs call: a module that jobs find by PYTHONPATH, and that imports nothing."""

from __future__ import annotations


def nothing(value: object = None) -> object:
    return value


def pause(seconds: float) -> float:
    from time import sleep

    sleep(seconds)
    return seconds
