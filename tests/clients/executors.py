"""The executors that libraries are tried on."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import cluster_tools

_numbers = itertools.count()

# The nodes of a cluster share the checkout with us.
SHARED_ROOT = Path.cwd() / ".cfut" / f"clients-{os.getpid()}"


@dataclass(frozen=True)
class Kind:
    """A strategy and its keywords.

    Attributes:
        is_cluster: Calls are jobs.
    """

    environment: str
    keywords: dict[str, Any] = field(default_factory=dict[str, Any])
    is_cluster: bool = True

    def make(self, **keywords: Any) -> Any:
        """An executor of this kind with two workers, unless the keywords say otherwise."""
        directory = {"cfut_dir": SHARED_ROOT / str(next(_numbers))} if self.is_cluster else {}
        return cluster_tools.get_executor(
            self.environment, **{"max_workers": 2, **self.keywords, **directory, **keywords}
        )


_SLURM: dict[str, Any] = {"job_resources": {"mem": "300M"}, "keep_logs": False}
_LOCAL: dict[str, Any] = {"keep_logs": False}

KINDS = {
    "sequential": Kind("sequential", is_cluster=False),
    "multiprocessing": Kind("multiprocessing", is_cluster=False),
    "local": Kind("local", _LOCAL),
    "local_pilots": Kind("local", {**_LOCAL, "pilot_jobs": 2}),
    "slurm": Kind("slurm", _SLURM),
    "slurm_pilots": Kind("slurm", {**_SLURM, "pilot_jobs": 2}),
}
MARKS = {
    name: [pytest.mark.slurm] if kind.environment == "slurm" else [] for name, kind in KINDS.items()
}
