"""Cancels jobs of Grid Engine in a helper process: see `cluster_tools.schedulers.stopping`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster_tools.schedulers.gridengine.commands import delete, jobs_of
from cluster_tools.schedulers.stopping import stop


def main(arguments: Sequence[str], begun: Callable[[], None]) -> None:
    stop(arguments, begun, jobs_of, delete)
