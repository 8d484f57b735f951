"""A scheduler that takes every array and never runs it: what is left is the client's own cost."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

from cluster_tools import ClusterExecutor
from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Ending,
    Options,
    Report,
    Scheduler,
    State,
)


class AcceptingScheduler(Scheduler):
    """`requests`: what was submitted, in order; an array's job id is its place there."""

    prefix = "accepted"
    on_this_machine = True

    def __init__(self) -> None:
        self.requests: list[ArrayRequest] = []

    @property
    def cluster(self) -> Hashable:
        return id(self)

    def submit(self, request: ArrayRequest) -> str:
        self.requests.append(request)
        return str(len(self.requests) - 1)

    def find(self, token: str) -> str | None:
        return None

    def states(self, jobs: Mapping[str, str]) -> Mapping[Element, Report]:
        return {
            Element(job_id, index if request.is_array else None): Report(State.PENDING)
            for job_id, request in ((job_id, self.requests[int(job_id)]) for job_id in jobs)
            for index in range(request.count)
        }

    def explain(
        self, ended: Mapping[Element, Report | None], jobs: Mapping[str, str]
    ) -> Mapping[Element, Ending]:
        return {element: Ending(Cause.LOST, "It never ran.") for element in ended}

    def cancel(self, elements: Collection[Element], token: str) -> None:
        pass

    def stop(self, job_ids: Collection[str], token: str) -> None:
        pass

    def max_array_size(self) -> int | None:
        return None

    def max_submitted(self) -> int | None:
        return None


class AcceptingExecutor(ClusterExecutor):
    """Arguments: a scheduler of the above kind, and those of `ClusterExecutor`."""

    def __init__(self, scheduler: AcceptingScheduler, **kwargs: Any):
        self._scheduler = scheduler
        super().__init__(**kwargs)

    def _make_scheduler(self, options: Options) -> Scheduler:
        return self._scheduler
