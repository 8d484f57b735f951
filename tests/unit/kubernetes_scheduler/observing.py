"""What tests see of a scheduler, as the core would, and of its requests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fake_api_server import OURS, FakeApiServer

from cluster_tools.schedulers.base import ArrayRequest, Element, Report, State, Unreachable
from cluster_tools.schedulers.kubernetes.scheduler import KubernetesScheduler
from support.waiting import wait_until

Make = Callable[..., KubernetesScheduler]
RequestOf = Callable[..., ArrayRequest]


def state_of(scheduler: KubernetesScheduler, element: Element) -> Report | None:
    """As the core reads it: what is not mentioned is as the Job."""
    reports = scheduler.states(OURS)
    return reports.get(element, reports.get(Element(element.job_id)))


def wait_for_state(scheduler: KubernetesScheduler, element: Element, state: State) -> Report:
    found: list[Report] = []

    def is_so() -> bool:
        report = state_of(scheduler, element)
        if report is not None and report.state is state:
            found.append(report)
        return bool(found)

    wait_until(is_so, f"{element} to be {state}")
    return found[0]


def is_unreachable(scheduler: KubernetesScheduler) -> bool:
    try:
        scheduler.states(OURS)
    except Unreachable:
        return True
    return False


def looks_at_pods(server: FakeApiServer) -> int:
    """How often the pods were asked for."""
    return len(server.seen("list", "/pods"))


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cluster_tools")]
