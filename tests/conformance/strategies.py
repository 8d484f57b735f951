"""The strategies that the suite is run on, and all in which they differ.

A test says with `@pytest.mark.holds_for("<property>")` which strategies keep its promise; without
it, all do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import kube, sge

# Takes the keywords of `get_executor`, and `narrow`.
NewExecutor = Callable[..., Any]


@dataclass(frozen=True)
class Strategy:
    """A strategy and its peculiarities.

    Attributes:
        environment: What `get_executor` is given.
        keywords: Keywords for an ordinary executor of the tests.
        narrow: Further keywords with which at most `narrow_width` calls run at the same time.
        narrow_width: That number, with the calls that a worker has taken in advance.
        runs_at_once: A call is over when `submit` returns.
        pickles: Functions, arguments and results cross as pickles.
        is_cluster: Calls are jobs: they have logs, ids and remote exceptions.
        batch_size: Items that make one call, so that one which fails fails the others.
    """

    environment: str
    keywords: dict[str, Any] = field(default_factory=dict[str, Any])
    narrow: dict[str, Any] = field(default_factory=dict[str, Any])
    narrow_width: int = 0
    runs_at_once: bool = False
    pickles: bool = True
    is_cluster: bool = False
    batch_size: int = 1

    @property
    def waits(self) -> bool:
        """Calls run while the caller goes on."""
        return not self.runs_at_once

    @property
    def makes_no_batches(self) -> bool:
        return self.batch_size == 1

    @property
    def is_local(self) -> bool:
        """Keeps successes only; exceptions are of the function's own class alone."""
        return not self.is_cluster

    @property
    def is_cluster_of_elements(self) -> bool:
        """Each task is an element of its own."""
        return self.is_cluster and "pilot_jobs" not in self.keywords

    @property
    def is_the_pool(self) -> bool:
        return self.environment.startswith("multiprocessing")

    @property
    def waits_without_batches(self) -> bool:
        return self.waits and self.makes_no_batches

    @property
    def pickles_without_batches(self) -> bool:
        return self.pickles and self.makes_no_batches

    @property
    def is_local_without_batches(self) -> bool:
        return self.is_local and self.makes_no_batches

    @property
    def waits_and_is_local(self) -> bool:
        return self.waits and self.is_local

    @property
    def waits_and_pickles(self) -> bool:
        return self.waits and self.pickles

    def arguments(self, directory: Path, *, narrow: bool = False) -> dict[str, Any]:
        """The keywords for `get_executor`. `directory` is seen by the jobs, too."""
        keywords = {**self.keywords, **(self.narrow if narrow else {})}
        if self.is_cluster:
            keywords["cfut_dir"] = str(directory / "cfut")
        return keywords


def _batching(inner: str, **keywords: Any) -> dict[str, Any]:
    return {"executor": {"name": inner, **keywords}, "batch_size": 2}


STRATEGIES = {
    "sequential": Strategy("sequential", runs_at_once=True, pickles=False),
    "sequential_with_pickling": Strategy("sequential_with_pickling", runs_at_once=True),
    "multiprocessing": Strategy(
        "multiprocessing",
        {"max_workers": 2},
        narrow={"max_workers": 1},
        narrow_width=3,  # one runs, and the standard library has two more in its pipe
    ),
    "multiprocessing_with_pickling": Strategy(
        "multiprocessing_with_pickling",
        {"max_workers": 2},
        narrow={"max_workers": 1},
        narrow_width=3,
    ),
    "batching_sequential": Strategy(
        "batching", _batching("sequential"), runs_at_once=True, pickles=False, batch_size=2
    ),
    "batching_multiprocessing": Strategy(
        "batching",
        _batching("multiprocessing", max_workers=2),
        narrow=_batching("multiprocessing", max_workers=1),
        narrow_width=6,
        batch_size=2,
    ),
    "local": Strategy(
        "local", {"max_workers": 2}, narrow={"max_workers": 1}, narrow_width=1, is_cluster=True
    ),
    "local_pilots": Strategy(
        "local", {"pilot_jobs": 2}, narrow={"pilot_jobs": 1}, narrow_width=1, is_cluster=True
    ),
    "slurm": Strategy(
        "slurm",
        {"job_resources": {"mem": "100M"}},
        narrow={"job_resources": {"mem": "100M", "exclusive": True}},
        narrow_width=2,  # of the two nodes of dockered-slurm
        is_cluster=True,
    ),
    "slurm_pilots": Strategy(
        "slurm",
        {"job_resources": {"mem": "100M"}, "pilot_jobs": 2},
        narrow={"pilot_jobs": 1},
        narrow_width=1,
        is_cluster=True,
    ),
    "gridengine": Strategy(
        "gridengine",
        {"job_resources": sge.RESOURCES},
        narrow={"job_resources": sge.NARROW_RESOURCES},
        narrow_width=1,
        is_cluster=True,
    ),
    "gridengine_pilots": Strategy(
        "gridengine",
        {"job_resources": sge.RESOURCES, "pilot_jobs": 2},
        narrow={"pilot_jobs": 1},
        narrow_width=1,
        is_cluster=True,
    ),
    "kubernetes": Strategy(
        "kubernetes",
        {"job_resources": kube.RESOURCES},
        narrow={"job_resources": kube.NARROW_RESOURCES},
        narrow_width=1,
        is_cluster=True,
    ),
    "kubernetes_pilots": Strategy(
        "kubernetes",
        {"job_resources": kube.RESOURCES, "pilot_jobs": 2},
        narrow={"pilot_jobs": 1},
        narrow_width=1,
        is_cluster=True,
    ),
}
