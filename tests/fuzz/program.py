"""What one thread of a round does with the executor, by random. The ledger is told of each call.

It knows executors as `concurrent.futures` has them, and no cluster.
"""

from __future__ import annotations

import concurrent.futures
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fuzz import calls
from fuzz.ledger import Entry, Ledger
from fuzz.report import LIMIT_S

_T = TypeVar("_T")

_ORDINARY = ["return", "sleep", "print", "large", "large argument", "fork", "leave a thread"]
# Of these there may be many.
_SHORT = [*["return"] * 9, "raise"]
_KINDS = [*_ORDINARY * 3, *["return"] * 20, "sleep long", *calls.KINDS]


@dataclass
class Handle:
    """The only way to the executor of a round, which is garbage when it is None."""

    executor: Any


class Interrupts:
    """Ctrl-C, between any two bytecodes of what the main thread attempts, and nowhere else.

    `rate`: of how many of its submissions, from 0 to 1.
    """

    def __init__(self, dice: random.Random, rate: float) -> None:
        self._dice = dice
        self._rate = rate
        self._is_on = False
        # How often a submission was interrupted.
        self.count = 0
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, *_: object) -> None:
        if self._is_on:
            self._is_on = False
            raise KeyboardInterrupt

    def attempt(self, submit: Callable[[], _T]) -> _T | None:
        """What `submit` returns; None where it was interrupted, and nothing else comes of it."""
        if threading.current_thread() is not threading.main_thread():
            return submit()
        result = None
        try:
            try:
                if self._dice.random() < self._rate:
                    self._is_on = True
                    # 10 us to 10 ms: within a submission, or behind it.
                    signal.setitimer(signal.ITIMER_REAL, 10 ** self._dice.uniform(-5, -2))
                result = submit()
            finally:  # a signal may still come in this block
                self._is_on = False
        except KeyboardInterrupt:
            self.count += 1
        return result


class Program:
    """`widest`: how many calls `map_to_futures` gets at the most."""

    def __init__(
        self,
        handle: Handle,
        ledger: Ledger,
        dice: random.Random,
        interrupts: Interrupts,
        closed: threading.Event,
        widest: int,
    ):
        self._handle = handle
        self._ledger = ledger
        self._dice = dice
        self._interrupts = interrupts
        # Set by whoever shuts down while programs run: then no more calls are taken.
        self._closed = closed
        self._widest = widest
        # Iterators of `map` that a forked child closes in its copy.
        self.iterators: list[Any] = []

    def run(self, actions: int) -> None:
        try:
            for _ in range(actions):
                self._act()
        except BaseException as error:
            self._ledger.trouble(f"a program has ended with {error!r} in {_place(error)}")

    def _act(self) -> None:
        ways: list[tuple[int, Callable[[], None]]] = [
            (6, self._submit),
            (4, self._map_to_futures),
            (2, self._map),
            (2, self._map_and_drop),
            (1, self._map_with_timeout),
            (2, self._map_with_buffersize),
            (5, self._cancel),
            (2, self._wait),
            (2, self._take_as_completed),
            (2, self._take_results),
            (3, self._pause),
        ]
        (act,) = self._dice.choices([way for _, way in ways], [weight for weight, _ in ways])
        began = time.monotonic()
        try:
            act()
        except RuntimeError as error:
            if not self._closed.is_set() or "after shutdown" not in str(error):
                raise
        except (OSError, ImportError):
            if not self._ledger.in_window(began):
                raise

    # -- submitting --

    def _entries(self, count: int, *kinds: str) -> list[Entry]:
        return [
            self._ledger.new_entry(self._dice.choice(kinds or tuple(_KINDS))) for _ in range(count)
        ]

    def _has(self, entry: Entry, future: Future[Any]) -> None:
        for _ in range(self._dice.choice([0, 1, 1, 2])):
            entry.wanted_callbacks += 1
            future.add_done_callback(entry.called_back)
        callback = self._random_callback()
        entry.future = future
        if callback is not None:
            try:
                future.add_done_callback(callback)
            except SystemExit:  # it was done, and this called it
                pass

    def _random_callback(self) -> Callable[[Future[Any]], None] | None:
        kind = self._dice.random()
        if kind < 0.05:
            return _raise_in_callback
        if kind < 0.07:
            return _exit_in_callback
        if kind < 0.15:
            return self._cancel_others
        if kind < 0.16:
            return self._shut_down
        return None

    def _cancel_others(self, _: Future[Any]) -> None:
        for entry in self._ledger.with_futures()[-3:]:
            entry.cancel()

    def _shut_down(self, _: Future[Any]) -> None:
        executor = self._handle.executor
        if executor is not None:
            self._closed.set()
            executor.shutdown(wait=True)

    def _submit(self) -> None:
        for entry in self._entries(self._dice.randrange(1, 6)):
            payload = calls.payload_of(entry.call)
            submit = partial(self._handle.executor.submit, calls.run, entry.call, payload)
            future = self._interrupts.attempt(submit)
            if future is not None:
                self._has(entry, future)

    def _map_to_futures(self) -> None:
        count = self._dice.randrange(1, self._widest)
        kinds = [kind for kind in _KINDS if "argument" not in kind]
        entries = self._entries(count, *(kinds if count < 12 else _SHORT))
        items = [entry.call for entry in entries]
        submit = partial(self._handle.executor.map_to_futures, calls.run, items)
        for entry, future in zip(entries, self._interrupts.attempt(submit) or ()):
            self._has(entry, future)

    # -- map --

    def _start_map(self, kinds: list[str], **keywords: Any) -> tuple[list[Entry], Any]:
        entries = self._entries(self._dice.randrange(1, 10), *kinds)
        items = [entry.call for entry in entries], [None] * len(entries)
        submit = partial(self._handle.executor.map, calls.run, *items, **keywords)
        results = self._interrupts.attempt(submit)
        if results is not None:
            self.iterators.append(results)
        return entries, results

    def _iterate(self, entries: list[Entry], results: Any, count: int) -> None:
        """Takes so many results, or as many as there are until the first that fails."""
        began = time.monotonic()
        for entry, _ in zip(entries, range(count)):
            try:
                value = next(results)
            except StopIteration:
                self._ledger.trouble(f"map has no result for call {entry.call.number}")
                return
            except RuntimeError as error:  # of buffersize, when it submits
                if not self._closed.is_set():
                    self._ledger.trouble(f"map raised {error!r}")
                return
            except BaseException as error:
                if isinstance(error, (OSError, ImportError)) and self._ledger.in_window(began):
                    return
                entry.error = error.with_traceback(None)  # whose frames know the executor
                return
            if value != calls.value_of(entry.call):
                self._ledger.trouble(f"map: {str(value)[:80]} for {entry.call}")

    def _map(self) -> None:
        entries, results = self._start_map(["return", "sleep", "raise", "large", "print"])
        if results is not None:
            self._iterate(entries, results, len(entries))

    def _map_and_drop(self) -> None:
        entries, results = self._start_map(["return", "sleep", "fork", "sleep long"])
        if results is not None:
            self._iterate(entries, results, self._dice.randrange(len(entries)))
            if self._dice.random() < 0.5:
                results.close()
                self._ledger.touch()
            self.iterators.remove(results)

    def _map_with_timeout(self) -> None:
        timeout = self._dice.choice([0.0, 0.3, 2.0])
        began = time.monotonic()
        entries, results = self._start_map(["return", "sleep"], timeout=timeout)
        if results is not None:
            self._iterate(entries, results, len(entries))
            self._check_timeout(entries, time.monotonic() - began, timeout)

    def _check_timeout(self, entries: list[Entry], seconds: float, timeout: float) -> None:
        for entry in entries:
            if isinstance(entry.error, concurrent.futures.TimeoutError):
                entry.error = None
                if seconds < timeout:
                    self._ledger.trouble(f"map: TimeoutError after {seconds} s, not {timeout} s")

    def _map_with_buffersize(self) -> None:
        size = self._dice.randrange(1, 5)
        entries, results = self._start_map(["return", "sleep", "raise"], buffersize=size)
        if results is not None:
            self._iterate(entries, results, self._dice.randrange(1, len(entries) + 1))

    # -- futures --

    def _some(self, count: int) -> list[Entry]:
        """Of all threads."""
        entries = self._ledger.with_futures()
        return self._dice.sample(entries, min(count, len(entries)))

    def _cancel(self) -> None:
        last = self._ledger.with_futures()[-self._dice.randrange(1, 5) :]
        for entry in self._some(3) if self._dice.random() < 0.5 else last:
            entry.cancel()

    def _wait(self) -> None:
        futures = [entry.future for entry in self._some(5) if entry.future is not None]
        when = self._dice.choice(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
        timeout = self._dice.choice([0.0, 0.2, LIMIT_S])
        done, _ = concurrent.futures.wait(futures, timeout, when)
        if when == "ALL_COMPLETED" and timeout == LIMIT_S and len(done) != len(set(futures)):
            self._ledger.trouble(f"wait() for {LIMIT_S} s, but {len(done)} of {len(futures)} done")
        if any(not future.done() for future in done):
            self._ledger.trouble("wait() calls a future done that is not")

    def _take_as_completed(self) -> None:
        futures = [entry.future for entry in self._some(6) if entry.future is not None]
        seen: list[Future[Any]] = []
        try:
            for future in concurrent.futures.as_completed(futures, LIMIT_S):
                seen.append(future)
                if self._dice.random() < 0.1:
                    return
        except concurrent.futures.TimeoutError:
            self._ledger.trouble(f"as_completed() has {len(seen)} of {len(futures)} in {LIMIT_S} s")
            return
        if len(seen) != len(futures) or set(seen) != set(futures):
            self._ledger.trouble(f"as_completed() has {len(seen)} of {len(futures)} futures")

    def _take_results(self) -> None:
        for entry in self._some(3):
            if entry.future is None:
                continue
            try:
                entry.future.result(LIMIT_S)
            except concurrent.futures.TimeoutError:
                self._ledger.trouble(f"no result of {entry.call} in {LIMIT_S} s")
            except (Exception, concurrent.futures.CancelledError):
                pass  # what it is, the ledger looks at

    def _pause(self) -> None:
        time.sleep(self._dice.uniform(0, 0.5))


def _raise_in_callback(_: Future[Any]) -> None:
    raise ValueError("a callback raises")


def _exit_in_callback(_: Future[Any]) -> None:
    raise SystemExit("a callback exits")


def _place(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "?"
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
