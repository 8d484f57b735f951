"""Executors on Grid Engine, and what tests change of it for a while."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import sge
from support.clusters import GRIDENGINE


@pytest.fixture
def new_executor(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes executors of a test's own, with `tmp_path` for `cfut_dir`."""
    executors: list[Any] = []

    def new(**keywords: Any) -> Any:
        executors.append(GRIDENGINE.new_executor(tmp_path, **keywords))
        return executors[-1]

    yield new
    for job_id in sge.elements():  # of a test that has failed: they are not waited for
        if sge.script_of(job_id).startswith(f"{tmp_path}/"):
            subprocess.run(["qdel", job_id], stdout=subprocess.DEVNULL, check=False)
    for executor in executors:
        executor.shutdown(cancel_futures=True)


@pytest.fixture
def configure(tmp_path: Path) -> Iterator[Callable[[str, object], None]]:
    """Sets values of the global configuration until the test is over."""
    before = sge.run("qconf", "-sconf")

    def write(text: str) -> None:
        path = tmp_path / "global"
        path.write_text(text)
        sge.run("qconf", "-Mconf", str(path))
        path.unlink()

    def set_value(name: str, value: object) -> None:
        text, count = re.subn(
            rf"^{name} .*", f"{name} {value}", sge.run("qconf", "-sconf"), flags=re.M
        )
        assert count == 1
        write(text)

    yield set_value
    write(before)


@pytest.fixture
def queue_attribute() -> Iterator[Callable[[str, str], None]]:
    """Sets attributes of the odd queue until the test is over."""
    changed: list[str] = []

    def set_value(name: str, value: str) -> None:
        changed.append(name)
        sge.run("qconf", "-mattr", "queue", name, value, "odd.q")

    yield set_value
    for name in changed:
        sge.run("qconf", "-mattr", "queue", name, "NONE", "odd.q")
