"""One round of `multiprocessing`: a random program, on the standard library's pool, then on ours.

    program: phases, one after the other --> threads --> steps, whose outcomes no clock decides

Outcomes are compared step by step. What only ours can do is no part of it, nor what breaks a pool.
"""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cluster_tools
from fuzz import leftovers, pool_calls
from fuzz.report import LIMIT_S, Report
from support.waiting import wait_until

_CHILD_LIMIT_S = 20


@dataclass
class _Pool:
    """One of the two. `directory`: for the files of its steps."""

    executor: Any
    workers: int
    directory: Path
    is_ours: bool


# What a step returns is compared.
_Step = Callable[[_Pool], object]


def play(seed: str, directory: Path) -> None:
    """Plays the round of this seed, and writes what it complains of into `directory`."""
    logging.basicConfig(filename=directory / "client.log", level=logging.INFO)
    report = Report(directory)
    with report.watching():
        _compare(random.Random(seed), directory, report)


def _compare(dice: random.Random, directory: Path, report: Report) -> None:
    workers = dice.choice([1, 2, 2, 3])
    method = dice.choice(["fork", "spawn", "forkserver"])
    keywords: dict[str, Any] = {"initializer": pool_calls.initialize, "initargs": (17,)}
    if dice.random() < 0.1:
        keywords = {"initializer": pool_calls.fail_to_initialize}
    phases = _random_program(dice, fails="initargs" not in keywords)
    print(f"{workers} {method} {keywords} {[[len(t) for t in phase] for phase in phases]}")
    context: Any = multiprocessing.get_context(method)
    theirs = _run(
        phases,
        _Pool(
            ProcessPoolExecutor(workers, context, **keywords), workers, directory / "theirs", False
        ),
        report,
    )
    before = leftovers.descriptors(), set(leftovers.children())
    executor = cluster_tools.get_executor(
        "multiprocessing", max_workers=workers, start_method=method, **keywords
    )
    ours = _run(phases, _Pool(executor, workers, directory / "ours", True), report)
    del executor
    gc.collect()
    for step, (expected, found) in enumerate(zip(theirs, ours)):
        if expected != found:
            report.trouble(f"step {step}: as the standard library {expected}, but {found}")
    report.look_for(
        {
            "threads": leftovers.threads,
            "processes": lambda: set(leftovers.children()) - before[1],
            "descriptors": lambda: leftovers.new_descriptors(before[0]),
        }
    )


def _run(phases: list[list[list[_Step]]], pool: _Pool, report: Report) -> list[str]:
    """The outcomes of all steps, in order."""
    pool.directory.mkdir()
    outcomes: list[str] = []
    for phase in phases:
        found: list[list[str]] = [[] for _ in phase]
        threads = [
            threading.Thread(target=_run_steps, args=[steps, pool, into, report], daemon=True)
            for steps, into in zip(phase, found)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcomes += [outcome for into in found for outcome in into]
    pool.executor.shutdown()
    return outcomes


def _run_steps(steps: list[_Step], pool: _Pool, into: list[str], report: Report) -> None:
    for step in steps:
        report.touch()
        name = step.func.__name__ if isinstance(step, partial) else step.__name__
        into.append(f"{name}: {_outcome(partial(step, pool))}")


def _outcome(get: Callable[[], object]) -> str:
    """What it returns or raises. Of what can't be pickled only that it is an error is compared."""
    try:
        value = get()
    except BaseException as error:
        if "pickle" in f"{type(error).__name__} {error}":
            return "an error of pickling"
        if isinstance(error, BrokenProcessPool):  # each pool says why in its own words
            return "BrokenProcessPool"
        return f"{type(error).__module__}.{type(error).__name__}{error.args}"
    return repr(value) if len(repr(value)) < 1000 else f"{len(repr(value))} {hash(repr(value))}"


def _outcomes(futures: Iterable[Future[Any]]) -> list[str]:
    return [_outcome(partial(future.result, LIMIT_S)) for future in futures]


# -- steps that may run beside others --


def _submit(kinds: list[str], pool: _Pool) -> object:
    futures = [pool.executor.submit(*pool_calls.call(kind)) for kind in kinds]
    called: list[int] = []
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: called.append(number))
        future.add_done_callback(_raise)
    outcomes = _outcomes(futures)
    concurrent.futures.wait(futures)
    return outcomes, [(f.done(), f.running(), f.cancelled(), f.cancel()) for f in futures]


def _raise(_: Future[Any]) -> None:
    raise ValueError("a callback raises")


def _map(kinds: list[str], keywords: dict[str, Any], pool: _Pool) -> object:
    return _take(_start_map(kinds, keywords, pool), len(kinds) + 2)


def _start_map(kinds: list[str], keywords: dict[str, Any], pool: _Pool) -> Iterator[Any]:
    if not pool.is_ours:
        keywords = {"chunksize": 1, **keywords}
        if sys.version_info < (3, 14):
            keywords.pop("buffersize", None)
    return pool.executor.map(pool_calls.run, kinds, range(len(kinds)), **keywords)


def _take(results: Iterator[Any], count: int) -> list[str]:
    return [_outcome(partial(next, results)) for _ in range(count)]


def _map_partly(kinds: list[str], keywords: dict[str, Any], count: int, pool: _Pool) -> object:
    results: Any = _start_map(kinds, keywords, pool)
    taken = _take(results, count)
    results.close()
    return taken, _take(results, 1)


def _map_and_forget(kinds: list[str], pool: _Pool) -> object:
    _start_map(kinds, {}, pool)
    return _outcomes([pool.executor.submit(*pool_calls.call("value"))])


def _map_too_slowly(pool: _Pool) -> object:
    results = _start_map(["slow", "slow"], {"timeout": 0.05}, pool)
    return _take(results, 2)


def _map_a_broken_iterable(count: int, pool: _Pool) -> object:
    def items() -> Iterator[str]:
        yield from ["value"] * count
        raise LookupError("the iterable breaks")

    return pool.executor.map(pool_calls.run, items(), range(100), chunksize=1)


def _as_completed(kinds: list[str], pool: _Pool) -> object:
    futures = {pool.executor.submit(*pool_calls.call(kind)): kind for kind in kinds}
    seen = [futures[f] for f in concurrent.futures.as_completed([*futures] * 2, LIMIT_S)]
    return sorted(seen)


def _wait(kinds: list[str], pool: _Pool) -> object:
    futures = [pool.executor.submit(*pool_calls.call(kind)) for kind in kinds]
    done, not_done = concurrent.futures.wait(futures, LIMIT_S)
    return len(done), len(not_done), _outcomes(futures)


def _misuse(pool: _Pool) -> object:
    submit, map_ = pool.executor.submit, pool.executor.map
    return [
        _outcome(lambda: submit(3).result(LIMIT_S)),
        _outcome(lambda: list(map_(pool_calls.run))),
        _outcome(lambda: list(map_(pool_calls.run, [], []))),
        _outcome(lambda: list(map_(pool_calls.run, ["value"] * 9, [1, 2]))),
        _outcome(lambda: submit(pool_calls.run).exception(LIMIT_S)),
    ]


def _fork(kinds: list[str], pool: _Pool) -> object:
    """A child that cancels and drops its copies changes nothing here."""
    futures = [pool.executor.submit(*pool_calls.call(kind)) for kind in kinds]
    results: Any = _start_map(kinds, {}, pool)
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(_CHILD_LIMIT_S)
            for future in futures:
                future.cancel()
            results.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return _outcomes(futures), _take(results, len(kinds))


# -- steps that need the pool for themselves: calls wait for a gate, and others behind them --


def _behind_a_gate(pool: _Pool, count: int) -> tuple[Path, list[Future[Any]], list[Future[Any]]]:
    """The gate, the calls that may have been handed to workers, and those that have not been."""
    gate = pool.directory / f"gate.{os.urandom(4).hex()}"
    # Each worker has one, and the pool's pipe as many again and one.
    first = [
        pool.executor.submit(pool_calls.wait_for, str(gate)) for _ in range(2 * pool.workers + 1)
    ]
    wait_until(lambda: all(future.running() for future in first[: pool.workers]), "the workers")
    behind = [pool.executor.submit(*pool_calls.call("value")) for _ in range(count)]
    return gate, first, behind


def _cancel_behind(order: list[int], pool: _Pool) -> object:
    gate, first, behind = _behind_a_gate(pool, 6)
    behind[1].add_done_callback(lambda _: behind[2].cancel())
    told = [(behind[n].cancel(), behind[n].cancelled(), behind[n].done()) for n in order]
    gate.touch()
    return told, _outcomes(behind), len(_outcomes(first))


def _result_too_early(pool: _Pool) -> object:
    gate, first, behind = _behind_a_gate(pool, 2)
    early = [
        _outcome(partial(behind[0].result, 0.01)),
        _outcome(partial(behind[1].exception, 0)),
        _outcome(lambda: list(concurrent.futures.as_completed(behind, 0.01))),
        len(concurrent.futures.wait(behind, 0.01).done),
    ]
    gate.touch()
    return early, _outcomes(behind), _outcomes(first)


def _wait_for_the_first(when: str, pool: _Pool) -> object:
    failing = pool.executor.submit(*pool_calls.call("error"))
    gate, first, behind = _behind_a_gate(pool, 1)
    done, not_done = concurrent.futures.wait([failing, behind[0]], LIMIT_S, when)
    gate.touch()
    return failing in done, behind[0] in not_done, _outcomes(behind), _outcomes(first)


def _close_a_map(started: bool, pool: _Pool) -> object:
    results: Any = _start_map(["value"], {}, pool)
    if started:
        next(results)
    results.close()
    return _take(results, 1)


# -- the end --


def _shut_down(wait: bool, cancel: bool, pool: _Pool) -> object:
    gate, first, behind = _behind_a_gate(pool, 3)
    opens = threading.Timer(0.3, gate.touch)
    opens.start()
    pool.executor.shutdown(wait=wait, cancel_futures=cancel)
    late = [
        _outcome(lambda: pool.executor.submit(*pool_calls.call("value"))),
        _outcome(lambda: _start_map(["value"], {}, pool)),
    ]
    opens.join()
    handed_over = _outcomes(first[: pool.workers])
    return late, _outcomes(behind), handed_over, pool.executor.shutdown()


def _submit_to_broken(pool: _Pool) -> object:
    """Its initializer fails. Whether submit() raises it already is a matter of time."""
    return [_outcome(lambda: pool.executor.submit(*pool_calls.call("value")).result(LIMIT_S))] * 3


# -- programs --


def _random_step(dice: random.Random) -> _Step:
    kinds = dice.choices(sorted(pool_calls.KINDS), k=dice.randrange(1, 12))
    good = dice.choices(["value", "value", "large", "initialized"], k=dice.randrange(1, 12))
    many = dice.choices(["value", "none"], k=1000)  # chunks of hundreds, and among them:
    for place in dice.sample(range(len(many)), 2):
        many[place] = dice.choice(["holds the interpreter", "large", "value"])
    keywords: dict[str, Any] = {}
    if dice.random() < 0.3:
        keywords["chunksize"] = dice.randrange(1, 6)
    if dice.random() < 0.3:
        keywords["timeout"] = LIMIT_S
    if dice.random() < 0.3:
        keywords["buffersize"] = dice.randrange(1, 6)
    return dice.choice(
        [
            partial(_submit, kinds),
            partial(_map, kinds, keywords),
            partial(_map, good, keywords),
            partial(_map, many, {}),
            partial(_map_partly, many, {}, dice.randrange(len(many))),
            partial(_map_partly, good, keywords, dice.randrange(12)),
            partial(_map_and_forget, good),
            _map_too_slowly,
            partial(_map_a_broken_iterable, dice.randrange(9)),
            partial(_as_completed, kinds),
            partial(_wait, kinds),
            _misuse,
            partial(_fork, good),
        ]
    )


def _random_step_alone(dice: random.Random) -> _Step:
    return dice.choice(
        [
            partial(_cancel_behind, dice.sample(range(6), dice.randrange(1, 7))),
            _result_too_early,
            partial(_wait_for_the_first, dice.choice(["FIRST_COMPLETED", "FIRST_EXCEPTION"])),
            partial(_close_a_map, dice.random() < 0.5),
        ]
    )


def _random_program(dice: random.Random, fails: bool) -> list[list[list[_Step]]]:
    """Phases of threads of steps. `fails`: no worker of the pool comes up."""
    if fails:
        return [[[_submit_to_broken]]]
    phases: list[list[list[_Step]]] = []
    for _ in range(dice.randrange(1, 5)):
        if dice.random() < 0.4:
            phases.append([[_random_step_alone(dice)]])
        else:
            threads = range(dice.choice([1, 1, 2, 3]))
            phases.append([[_random_step(dice) for _ in range(4)] for _ in threads])
    phases.append([[partial(_shut_down, dice.random() < 0.5, dice.random() < 0.5)]])
    return phases
