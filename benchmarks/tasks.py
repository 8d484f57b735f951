"""What the benchmarks have called in jobs: a module of its own, so that jobs import nothing else."""

import time


def nothing() -> None:
    pass


def identity(value: object) -> object:
    return value


def nap(seconds: float) -> float:
    """When it began, in seconds since the epoch."""
    began = time.time()
    time.sleep(seconds)
    return began


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def burn(seconds: float) -> float:
    """Computes until it has used so much processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


def unchanged(number: float) -> float:
    return number
