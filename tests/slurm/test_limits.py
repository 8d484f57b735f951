"""Promises on Slurm's limits: more calls than they allow become pieces of the limit's size."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
from clusters import command, queue
from waiting import LIMIT_S, wait_until

from cluster_tools import SlurmExecutor

pytestmark = pytest.mark.slurm

CONFIGURATION = Path("/etc/slurm/slurm.conf")
NO_LIMIT = "-1"  # to sacctmgr


@pytest.fixture(autouse=True)
def _empty_queue() -> None:
    """What other tests have left to end would count, too."""
    wait_until(lambda: not queue(), "an empty queue")


@pytest.fixture
def max_submit_jobs() -> Iterator[Callable[[int], None]]:
    """Sets the user's limit."""
    limit = _accounting_limit("user", "root", "MaxSubmitJobs")
    yield limit
    limit(NO_LIMIT)


@pytest.fixture
def max_submit_jobs_of_qos() -> Iterator[Callable[[int], None]]:
    limit = _accounting_limit("qos", "normal", "MaxSubmitJobsPerUser")
    yield limit
    limit(NO_LIMIT)


def _accounting_limit(kind: str, name: str, limit: str) -> Callable[[object], None]:
    def set_limit(value: object) -> None:
        command("sacctmgr", "--immediate", "modify", kind, name, "set", f"{limit}={value}")
        expected = "" if value == NO_LIMIT else str(value)
        # slurmctld hears of it from slurmdbd.
        field = limit.removesuffix("PerUser") if kind == "user" else "MaxSubmitPU"
        marker = rf"\b{re.escape(field)}={expected or 'N'}\("
        wait_until(
            lambda: any(
                re.search(marker, line)
                for line in _limits_in_force("assoc" if kind == "user" else kind)
            ),
            f"{limit}={value} in force",
        )

    return set_limit


def _limits_in_force(kind: str) -> list[str]:
    flags = {"assoc": "assoc", "qos": "qos"}[kind]
    return command("scontrol", "show", "assoc_mgr", "users=root", "qos=normal", f"flags={flags}")
