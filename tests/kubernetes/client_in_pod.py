"""What a client does, as the program of a pod: ends badly where one part does not go well.

    python client_in_pod.py NAMESPACE DIRECTORY PART ...

Its calls see DIRECTORY, too. For each part that went well there is a file of that name in it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from cluster_tools.errors import RemoteExitException, RemoteNeverStartedException
from support import jobs, kube
from support.waiting import LIMIT_S, wait_until

NewExecutor = Callable[..., Any]


def _arrays(new: NewExecutor, directory: Path) -> None:
    with new() as executor:
        assert list(executor.map(jobs.square, range(5))) == [0, 1, 4, 9, 16]
        assert executor.submit(jobs.square, 3).result(LIMIT_S) == 9
        error = executor.submit(jobs.os_exit).exception(LIMIT_S)
        assert isinstance(error, RemoteExitException)
        assert "exit code 3" in str(error)


def _pilots(new: NewExecutor, directory: Path) -> None:
    with new(pilot_jobs=2) as executor:
        assert list(executor.map(jobs.square, range(20))) == [n * n for n in range(20)]
        steps = [jobs.kill_itself, partial(jobs.square, 2)]
        died, right = executor.map_to_futures(jobs.run, steps)
        assert isinstance(died.exception(LIMIT_S), RemoteExitException)
        assert right.result(LIMIT_S) == 4


def _cancelling(new: NewExecutor, directory: Path) -> None:
    with new({"node_selector": {"kubernetes.io/hostname": "nowhere"}}) as executor:
        future = executor.submit(jobs.square, 1)
        wait_until(lambda: hasattr(future, "cluster_jobid"), "the Job")
        assert future.cancel()
    with pytest.raises(ZeroDivisionError), new() as executor:
        future = executor.submit(jobs.wait_long, directory / "cancelled")
        wait_until((directory / "cancelled").exists, "the call")
        raise ZeroDivisionError
    assert future.cancelled()


def _lease(new: NewExecutor, directory: Path) -> None:
    with new({"client_lease_s": 6}) as executor:
        assert executor.submit(jobs.square_after, 3, 10).result(LIMIT_S) == 9


def _no_image(new: NewExecutor, directory: Path) -> None:
    image = "localhost/cluster-tools-tests:none"
    with new({"image": image, "startup_timeout_s": 5}) as executor:
        error = executor.submit(jobs.square, 1).exception(LIMIT_S)
        assert isinstance(error, RemoteNeverStartedException)
        assert image in str(error)


def _waiting(new: NewExecutor, directory: Path) -> None:
    with new() as executor:
        executor.submit(jobs.wait_long, directory / "started").result()


PARTS = {
    "arrays": _arrays,
    "pilots": _pilots,
    "cancelling": _cancelling,
    "lease": _lease,
    "no_image": _no_image,
    "waiting": _waiting,
}


class _Refusals(logging.Handler):
    """Collects warnings of what the client is not allowed to do."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "is forbidden" in record.getMessage():
            self.seen.append(record.getMessage())


def _main(namespace: str, directory: Path, parts: list[str]) -> None:
    refusals = _Refusals()
    logging.getLogger("cluster_tools").addHandler(refusals)

    def new(more: dict[str, Any] | None = None, **keywords: Any) -> Any:
        resources = {**kube.RESOURCES, "namespace": namespace, **(more or {})}
        return cluster_tools.get_executor(
            "kubernetes", job_resources=resources, cfut_dir=str(directory), **keywords
        )

    for part in parts:
        PARTS[part](new, directory)
        assert not refusals.seen, refusals.seen
        (directory / part).touch()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
