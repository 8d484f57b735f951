"""Executors for libraries, and the standard library's beside them."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from executors import KINDS, MARKS, SHARED_ROOT


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=MARKS[name])
        for name in ("multiprocessing", "local_pilots", "slurm_pilots")
    ],
)
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One of ours, which the tests of a module share."""
    with KINDS[request.param].make() as ours:
        yield ours


@pytest.fixture(scope="module")
def expected_executor() -> Iterator[ProcessPoolExecutor]:
    """What results are compared with."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as theirs:
        yield theirs


@pytest.fixture(scope="session", autouse=True)
def _remove_directories() -> Iterator[None]:
    yield
    shutil.rmtree(SHARED_ROOT, ignore_errors=True)
