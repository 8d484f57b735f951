"""Faults that are really made, and undone: of nodes, of Slurm's daemons, of its commands."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import containers
import pytest

from support.clusters import command, queue
from support.other_user import group_directory
from support.slurm_fixtures import executor, new_executor, shared_directory
from support.waiting import wait_until

__all__ = ["executor", "group_directory", "new_executor", "shared_directory"]

NODES = ("c1", "c2")
_READY_LIMIT_S = 100  # `ready` has a limit of its own


@pytest.fixture
def mended_nodes() -> Iterator[None]:
    """Whatever becomes of the nodes, afterwards they are connected, run, take jobs and have
    none.
    """
    addresses = {node: containers.address(node) for node in NODES}
    yield
    for node, where in addresses.items():
        if containers.is_paused(node):
            containers.unpause(node)
        if where is not None and containers.address(node) is None:
            containers.connect(node, where)
        if not containers.is_running(node):
            containers.start(node)
    for node in NODES:
        (state,) = set(command("sinfo", "--noheader", f"--nodes={node}", "--format=%T"))
        if state.startswith("drain"):
            command("scontrol", "update", f"nodename={node}", "state=resume")
    subprocess.run(["ready"], timeout=_READY_LIMIT_S, check=True)
    wait_until(lambda: not queue(), "an empty queue")
