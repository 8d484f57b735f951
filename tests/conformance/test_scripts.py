"""Promises to programs: written for the standard library, or with everything in the script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from strategies import Strategy

from support.waiting import LIMIT_S

# Written for the standard library: `new_executor()` is all that knows which executor it is.
_STANDARD_LIBRARY_SCRIPT = """
import math
from concurrent.futures import FIRST_EXCEPTION, Future, TimeoutError, as_completed, wait

{constructor}

PRIMES = [112272535095293, 112582705942171, 115797848077099, 109972689928419]
ROUNDS = 0


class Verdict:
    def __init__(self, number, is_prime):
        self.number, self.is_prime = number, is_prime


class NotANumber(ValueError):
    pass


def is_prime(number):
    global ROUNDS
    ROUNDS += 1
    if number % 2 == 0:
        return False
    return all(number % i for i in range(3, min(math.isqrt(number), 2000) + 1, 2))


def verdict(number):
    if not isinstance(number, int):
        raise NotANumber(number)
    return Verdict(number, is_prime(number))


def main():
    with new_executor() as executor:
        for number, prime in zip(PRIMES, executor.map(is_prime, PRIMES, chunksize=2)):
            print(number, prime)
        future_to_number = {{executor.submit(verdict, number): number for number in PRIMES}}
        for future in as_completed(future_to_number, timeout=60):
            assert isinstance(future, Future)
            found = future.result()
            assert type(found) is Verdict and found.number == future_to_number[future]
        failing = executor.submit(verdict, "seven")
        done, not_done = wait([failing], return_when=FIRST_EXCEPTION)
        assert done == {{failing}} and not not_done
        try:
            failing.result()
        except NotANumber as error:
            print("refused:", *error.args)
        assert executor.submit(pow, 2, exp=5).result() == 32
    try:
        executor.submit(pow, 2, 2)
    except RuntimeError:
        print("closed")


if __name__ == "__main__":
    main()
"""


def _run(script: Path, constructor: str) -> str:
    script.write_text(_STANDARD_LIBRARY_SCRIPT.format(constructor=constructor))
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=script.parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
    ).stdout


@pytest.mark.holds_for("makes_no_batches")
def test_a_script_for_the_standard_library_runs_with_another_constructor(
    strategy: Strategy, directory: Path
) -> None:
    expected = _run(
        directory / "standard.py",
        "from concurrent.futures import ProcessPoolExecutor\n"
        "def new_executor(): return ProcessPoolExecutor(max_workers=2)",
    )
    assert "refused: seven" in expected
    arguments = strategy.arguments(directory)
    written = _run(
        directory / "ours.py",
        "import cluster_tools\n"
        "def new_executor():\n"
        f"    return cluster_tools.get_executor({strategy.environment!r}, **{arguments!r})",
    )
    assert written == expected


def test_calls_work_in_a_program_without_a_file(strategy: Strategy, directory: Path) -> None:
    if strategy.environment == "batching":
        call = "list(executor.map(double, [1, 2]))"
    else:
        call = "[executor.submit(double, 1).result(), executor.submit(lambda: 4).result()]"
    arguments = strategy.arguments(directory)
    program = (
        "import cluster_tools\n"
        "def double(number): return 2 * number\n"
        f"executor = cluster_tools.get_executor({strategy.environment!r}, **{arguments!r})\n"
        f"with executor: print({call})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert ended.stdout == "[2, 4]\n"
