"""The cluster strategies, and all in which they differ for a test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import cluster_tools
from support import kube, sge
from support.waiting import LIMIT_S


def queue(format_: str = "%i|%T|%j", *options: str) -> list[str]:
    """What squeue has on our elements that have not ended, a line for each."""
    return command("squeue", "--me", "--noheader", "--array", f"--format={format_}", *options)


def command(*words: str) -> list[str]:
    """The lines that a command prints. Raises: CalledProcessError."""
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
    ).stdout.splitlines()


def _elements_in_slurm(directory: Path) -> list[str]:
    # %o is the command; a job's log is in the executor's cfut_dir.
    job_ids = {line.partition("_")[0] for line in queue("%i")}
    found: list[str] = []
    for job_id in job_ids:
        try:
            record = command("scontrol", "--oneliner", "show", "job", job_id)
        except subprocess.CalledProcessError:  # it has ended meanwhile
            continue
        found += [line for line in record if f"StdOut={directory}" in line and _is_alive(line)]
    return found


def _is_alive(record: str) -> bool:
    return any(f"JobState={word}" in record for word in ("PENDING", "RUNNING", "COMPLETING"))


def _elements_in_grid_engine(directory: Path) -> list[str]:
    # A job's script is in the run directory, and that in the executor's cfut_dir.
    return [
        element
        for job_id, elements in sge.elements().items()
        if sge.script_of(job_id).startswith(f"{directory}/")
        for element in elements
    ]


def _elements_on_this_machine(directory: Path) -> list[str]:
    processes = command("ps", "-A", "-ww", "-o", "args=")
    return [line for line in processes if "worker.py" in line and str(directory) in line]


@dataclass(frozen=True)
class Cluster:
    """A strategy whose calls are jobs.

    Attributes:
        environment: What `get_executor` is given.
        log_prefix: How the names of its logs begin.
        elements_of: The elements in the queue whose executor's `cfut_dir` is in the directory.
        keywords: For an ordinary executor of the tests.
        narrow: Further keywords with which at most `narrow_width` elements run at a time.
        nesting: Further keywords where calls make executors themselves.
        other_python: A Python of another minor version, as jobs find it; None: look for one here.
        for_other_python: Further keywords with which it has the memory that it needs.
    """

    environment: str
    log_prefix: str
    elements_of: Callable[[Path], list[str]]
    keywords: dict[str, Any] = field(default_factory=dict[str, Any])
    narrow: dict[str, Any] = field(default_factory=dict[str, Any])
    narrow_width: int = 1
    nesting: dict[str, Any] = field(default_factory=dict[str, Any])
    other_python: str | None = None
    for_other_python: dict[str, Any] = field(default_factory=dict[str, Any])

    def new_executor(self, directory: Path, **keywords: Any) -> Any:
        """`directory`: its jobs see it, too; becomes `cfut_dir`."""
        return cluster_tools.get_executor(
            self.environment, **{**self.keywords, "cfut_dir": str(directory), **keywords}
        )


LOCAL = Cluster(
    "local",
    "local",
    _elements_on_this_machine,
    {"max_workers": 4},
    narrow={"max_workers": 1},
)
SLURM = Cluster(
    "slurm",
    "slurmpy",
    _elements_in_slurm,
    {"job_resources": {"mem": "100M"}},
    narrow={"job_resources": {"mem": "100M", "exclusive": True}},
    narrow_width=2,  # of the two nodes of dockered-slurm
    for_other_python={"job_resources": {"mem": "300M"}},  # a bare PyPy has 60 to 70 MB
)
GRIDENGINE = Cluster(
    "gridengine",
    "sge",
    _elements_in_grid_engine,
    {"job_resources": sge.RESOURCES},
    narrow={"job_resources": sge.NARROW_RESOURCES},
)
KUBERNETES = Cluster(
    "kubernetes",
    "kube",
    kube.elements_of,
    {"job_resources": kube.RESOURCES},
    narrow={"job_resources": kube.NARROW_RESOURCES},
    nesting={"job_resources": {**kube.RESOURCES, "service_account": kube.SERVICE_ACCOUNT}},
    other_python="pypy3",
)
CLUSTERS = [
    pytest.param(LOCAL, id="local"),
    pytest.param(SLURM, id="slurm", marks=pytest.mark.slurm),
    pytest.param(GRIDENGINE, id="gridengine", marks=pytest.mark.gridengine),
    pytest.param(KUBERNETES, id="kubernetes", marks=pytest.mark.kubernetes),
]
# Their jobs have the client's own Python, and its whole path; pods have what is in their image.
WITH_CLIENTS_PYTHON = CLUSTERS[:3]


def log_of(directory: Path, cluster: Cluster, job: str) -> Path:
    """The log of a job, or of `<jobid>_<index>`."""
    return directory / f"{cluster.log_prefix}.{job}.log.stdout"


def element_of(future: Any) -> str:
    """The future's element as its log names it."""
    index = getattr(future, "cluster_jobindex", None)
    return future.cluster_jobid if index is None else f"{future.cluster_jobid}_{index}"
