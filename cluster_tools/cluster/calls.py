"""Calls before they are gathered into an array (`Call`), and afterwards (`CallArray`).

This module knows futures, but no threads and no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_tools import pickling
from cluster_tools.cluster.future import ClusterFuture, end_quietly
from cluster_tools.cluster.tasks import TaskArray


@dataclass(eq=False)
class Call:
    """One pickled call of `submit`."""

    future: ClusterFuture[Any]
    name: str
    function: bytes
    call: pickling.Fragments
    # The call's key in the output store; None if its output goes into the run directory.
    key: str | None
    # The caller has chosen the key, so the output is kept.
    kept: bool
    working_directory: str

    def kind(self) -> object:
        """Returns a value that is equal for all calls that can be tasks of one array."""
        return self.name, self.key is None, self.kept, self.working_directory


@dataclass(eq=False, kw_only=True)
class CallArray(TaskArray):
    """An array whose tasks are calls, each with a future."""

    # One item for each task; None once the task has ended.
    futures: list[ClusterFuture[Any] | None]
    # The tasks' keys in the output store; None if outputs go into the run directory.
    keys: list[str] | None
    # The caller has chosen the keys, so the outputs are kept.
    kept: bool
    # The number that the caller gives to each task, and how many tasks the caller counts in all.
    numbers: Sequence[int]
    total: int

    def __post_init__(self) -> None:
        super().__post_init__()
        # Futures that were cancelled before they knew their array. `Resolver.expect` revokes them.
        self.cancelled_early: list[ClusterFuture[Any]] = []
        for position, future in enumerate(self.futures):
            assert future is not None
            future.position = position
            future.array = self  # from here on, the thread that cancels it revokes its task
            if future.is_done():
                self.cancelled_early.append(future)

    def key(self, position: int) -> str | None:
        return None if self.keys is None else self.keys[position]

    def describe(self, position: int) -> str:
        if self.total == 1:
            return f"The call of {self.name}"
        return f"Task {self.numbers[position]} of {self.total} of {self.name}"

    def is_over(self, position: int) -> bool:
        future = self.futures[position]
        return future is None or future.is_done()

    def on_running(self, position: int) -> None:
        future = self.futures[position]
        if future is not None:
            future.start()

    def on_measured(self, position: int, record: Mapping[str, Any]) -> None:
        future, numbers = self.futures[position], record.get("measured")
        if future is None or numbers is None:
            return
        future.measured = (record["node"], numbers)
        attempt = record.get("attempt", 1)
        if attempt > 1:
            future.attempt = attempt

    def on_end(self, position: int, result: Any, exception: BaseException | None) -> bool:
        future, self.futures[position] = self.futures[position], None
        if future is None or future.is_done():
            return False
        end_quietly(lambda: future.resolve(result, exception), self.name)
        return True

    def on_cancelled(self, position: int) -> None:
        future, self.futures[position] = self.futures[position], None
        if future is not None and not future.is_done():
            end_quietly(future.cancel_for_shutdown, self.name)
