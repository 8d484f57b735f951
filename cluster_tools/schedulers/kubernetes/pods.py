"""Reads pods: their state, what keeps them from beginning, and why they ended.

Knows objects that the server has sent; sends no requests.
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cluster_tools.format.exit_codes import OWN_EXIT_CODES
from cluster_tools.schedulers.base import Cause, Ending
from cluster_tools.schedulers.kubernetes.manifest import WORKER_CONTAINER, Resources

INDEX = "batch.kubernetes.io/job-completion-index"

# Reasons of the condition DisruptionTarget -> cause, and what to say.
# https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
_DISRUPTIONS = {
    "PreemptionByScheduler": (Cause.PREEMPTED, "had to make room for a pod of higher priority"),
    "DeletionByTaintManager": (Cause.NODE_FAILURE, "was deleted since its node does not answer"),
    "EvictionByEvictionAPI": (Cause.PREEMPTED, "was evicted, as when a node is drained"),
    "DeletionByPodGC": (Cause.NODE_FAILURE, "was deleted since its node is gone"),
    "TerminationByKubelet": (
        Cause.PREEMPTED,
        "was ended by its node, which was short of something",
    ),
}
# Reasons for which a container waits that need somebody to do something.
# https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff
_NEEDS_HELP = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "ImageVolumeMountFailed",
    "InvalidImageName",
    "PostStartHookError",
    "PreCreateHookError",
    "PreStartHookError",
    "RegistryUnavailable",
    "RunContainerError",
    "SignatureValidationFailed",
}
# The kubelet's words where it evicts a pod for what the pod itself has written, and not because the
# node is short of disk or memory (pkg/kubelet/eviction).
_OWN_STORAGE = re.compile(
    r"exceeded its local ephemeral storage limit|ephemeral local storage usage exceeds"
    r"|Usage of EmptyDir volume .* exceeds the limit"
)
# A reason of our own: an init container, or a sidecar that is not ready, which `worker` waits for.
RUNS_ON = "InitContainerRunsOn"
_CANNOT_START = {"StartError", "ContainerCannotRun"}


@dataclass(frozen=True)
class Blocked:
    """A container that does not begin, or does not end, so that the call does not begin."""

    container: str
    image: str
    reason: str
    message: str


@dataclass(frozen=True)
class Pod:
    """A pod of an element, as last seen."""

    name: str
    uid: str
    created: str
    phase: str
    node: str
    reason: str
    message: str
    # When it was deleted, by the server's clock; None where it was not. It may still run.
    deleted_at: datetime | None
    # How long it has to end after that.
    grace_s: float
    # Reason and message of its condition DisruptionTarget; None where it has none.
    disruption: tuple[str, str] | None
    # The state of the container `worker`: {"waiting": ...}, {"running": ...}, {"terminated": ...}
    # or {}.
    state: Mapping[str, Any]
    # Why no node could be found for it; "" where that is not so.
    unschedulable: str
    # Which init container has failed, and how; "" where none has.
    failed_init: str
    # An init container or `worker` that does not begin.
    blocked: Blocked | None
    # The memory limit of the container `worker`, as the server has set it; "" where there is none.
    memory_limit: str
    # Names of containers beside `worker` that have not ended; and one of them that can't begin.
    beside: tuple[str, ...]
    blocked_beside: Blocked | None
    # When its node last wrote its state, by the server's clock.
    written: datetime | None
    # The server does not list it any more, so nothing of it runs.
    is_gone: bool = False

    @property
    def has_ended(self) -> bool:
        return self.is_gone or self.phase in ("Succeeded", "Failed") or "terminated" in self.state

    @property
    def outlives_worker(self) -> bool:
        """`worker` has ended, but another container has not: for its Job the pod still runs."""
        return (
            "terminated" in self.state
            and self.phase in ("Pending", "Running")
            and bool(self.beside)
        )

    @property
    def is_ending(self) -> bool:
        """It was deleted, and its process may still run."""
        return self.deleted_at is not None and not self.has_ended

    @property
    def gives_no_cause(self) -> bool:
        """It does not say why it ended: it was deleted, or was well when it was last seen."""
        was_well = not self.has_ended and self.deleted_at is None
        exit_code = self.state.get("terminated", {}).get("exitCode")
        was_told_to_end = self.deleted_at is not None or exit_code == 128 + signal.SIGTERM
        return (was_well or was_told_to_end) and self.disruption is None and not self.reason

    @property
    def began(self) -> bool:
        return "running" in self.state or "terminated" in self.state


def job_of(pod: Mapping[str, Any]) -> str:
    """The name of the Job of a pod."""
    return pod["metadata"]["labels"].get("job-name", "")


def index_of(pod: Mapping[str, Any]) -> int | None:
    """The completion index of a pod."""
    annotations: Any = pod["metadata"].get("annotations") or {}
    text: str = annotations.get(INDEX, "")
    return int(text) if text.isdigit() else None


def read_pod(pod: Mapping[str, Any]) -> Pod:
    """A pod from the server's object."""
    metadata: Any = pod["metadata"]
    status: Any = pod.get("status") or {}
    conditions: dict[str, Any] = {c["type"]: c for c in status.get("conditions") or ()}
    target: Any = conditions.get("DisruptionTarget", {})
    scheduled: Any = conditions.get("PodScheduled", {})
    deleted: str | None = metadata.get("deletionTimestamp")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        created=metadata["creationTimestamp"],
        phase=status.get("phase", ""),
        node=pod["spec"].get("nodeName", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        deleted_at=None if deleted is None else read_time(deleted),
        grace_s=metadata.get("deletionGracePeriodSeconds") or 0,
        disruption=(target.get("reason", ""), target.get("message", ""))
        if target.get("status") == "True"
        else None,
        state=_container_state(status.get("containerStatuses"), WORKER_CONTAINER),
        unschedulable=scheduled.get("message", "")
        if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        else "",
        failed_init=_failed_init(status.get("initContainerStatuses"), _sidecars(pod["spec"])),
        blocked=_blocked(status, _sidecars(pod["spec"])),
        memory_limit=_memory_limit(pod["spec"]),
        beside=_open_beside(status.get("containerStatuses")),
        blocked_beside=_blocked_beside(status.get("containerStatuses")),
        written=written_at(pod, "status"),
    )


def read_time(text: str) -> datetime:
    """A time as the server writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 does not know Z


def last_time(*texts: str | None) -> datetime | None:
    """The latest of these times; None where there is none."""
    return max((read_time(text) for text in texts if text), default=None)


def written_at(item: Mapping[str, Any], part: str | None = None) -> datetime | None:
    """When an object, or `part` of it ("status"), was written last; None where that is unknown.

    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    metadata: dict[str, Any] = item.get("metadata") or {}
    fields: list[dict[str, Any]] = metadata.get("managedFields") or []
    return last_time(
        *(entry.get("time") for entry in fields if part in (None, entry.get("subresource")))
    )


def _container_state(statuses: Any, name: str) -> Mapping[str, Any]:
    for status in statuses or ():
        if status["name"] == name and status.get("state"):
            return status["state"]
    return {}


def _memory_limit(spec: Any) -> str:
    """The memory limit of the container `worker`; "" where there is none."""
    for container in spec.get("containers") or ():
        if container["name"] == WORKER_CONTAINER:
            resources: dict[str, Any] = container.get("resources") or {}
            limits: dict[str, Any] = resources.get("limits") or {}
            return str(limits.get("memory", ""))
    return ""


def _open_beside(statuses: Any) -> tuple[str, ...]:
    """The names of the containers beside `worker` that have not ended."""
    return tuple(
        status["name"]
        for status in statuses or ()
        if status["name"] != WORKER_CONTAINER
        and ({"running", "waiting"} & (status.get("state") or {}).keys())
    )


def _blocked_beside(statuses: Any) -> Blocked | None:
    """A container beside `worker` that can't begin without somebody's help."""
    for status in statuses or ():
        name = status["name"]
        waiting: dict[str, Any] = _container_state([status], name).get("waiting") or {}
        if name != WORKER_CONTAINER and waiting.get("reason") in _NEEDS_HELP:
            return Blocked(
                name, status.get("image", ""), waiting["reason"], waiting.get("message", "")
            )
    return None


def _sidecars(spec: Any) -> set[str]:
    """The names of the sidecars: init containers that run until the other containers have ended."""
    containers: Any = spec.get("initContainers") or ()
    return {c["name"] for c in containers if c.get("restartPolicy") == "Always"}


def _failed_init(statuses: Any, sidecars: set[str]) -> str:
    """Which init container has failed, and how; "" where none has."""
    for status in statuses or ():
        if status["name"] in sidecars:
            continue
        ended: Any = _container_state([status], status["name"]).get("terminated", {})
        if ended.get("exitCode"):
            words: str = ended.get("message") or ended.get("reason") or ""
            return f"{status['name']} ended with exit code {ended['exitCode']} {words}".strip()
    return ""


def _blocked(status: Any, sidecars: set[str]) -> Blocked | None:
    """The container because of which the call has not begun, and why."""
    before: list[dict[str, Any]] = status.get("initContainerStatuses") or []
    beside: list[dict[str, Any]] = status.get("containerStatuses") or []
    worker = [container for container in beside if container["name"] == WORKER_CONTAINER]
    for container in [*before, *worker]:
        name, image = container["name"], container.get("image", "")
        state = _container_state([container], name)
        waiting: dict[str, Any] = state.get("waiting") or {}
        if waiting.get("reason") in _NEEDS_HELP:
            words = f"{waiting.get('message', '')} {_last_end(container)}".strip()
            return Blocked(name, image, waiting["reason"], words)
        if name in sidecars and "terminated" in state:  # between two starts, with no other reason
            words = f"the sidecar {name} ends again and again {_end_of(container, state)}"
            return Blocked(name, image, "CrashLoopBackOff", words)
        if container not in before or "running" not in state:
            continue
        if name not in sidecars:
            return Blocked(
                name, image, RUNS_ON, f"the init container {name} runs, and has not ended"
            )
        if container.get("started") is False:
            words = f"the sidecar {name} runs, and its startup probe has not been satisfied"
            return Blocked(name, image, RUNS_ON, f"{words} {_last_end(container)}".strip())
    return None


def _last_end(container: Mapping[str, Any]) -> str:
    """How the last run of a container ended that is started again and again; "" if none has."""
    return _end_of(container, container.get("lastState") or {})


def _end_of(container: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """How a container with this state has ended, in brackets; "" if it has not."""
    ended: dict[str, Any] = state.get("terminated") or {}
    if not ended:
        return ""
    words = (ended.get("message") or ended.get("reason") or "").strip()
    name, code = container["name"], ended.get("exitCode")
    return f"(container {name}, exit code {code}{f': {words}' if words else ''})"


def pod_that_explains(pods: Sequence[Pod]) -> Pod | None:
    """Of the pods of one element, the first that began and failed, else the first that failed.

    Pods after the one that began only find that the call has begun, and end.
    """
    in_order = sorted(pods, key=lambda pod: (pod.created, pod.uid))
    # A container may have ended well before the pod's phase says so.
    failed = [
        pod
        for pod in in_order
        if pod.phase != "Succeeded" and pod.state.get("terminated", {}).get("exitCode") != 0
    ]
    began = [pod for pod in failed if pod.began]
    return next(iter([*began, *failed]), None)


def ending(pod: Pod, resources: Resources) -> Ending:
    """Why the element of this pod has ended without an output."""
    on_node = f" on node {pod.node}" if pod.node else ""
    who = f"The pod {pod.name}"
    if pod.reason == "DeadlineExceeded":
        return Ending(
            Cause.TIME_LIMIT,
            f"{who} reached its time limit of {resources.time_limit_s or '?'} s{on_node}.",
            'Ask for more, for example with job_resources={"time_limit_s": 3600}.',
        )
    ended: Mapping[str, Any] = pod.state.get("terminated") or {}
    # With exit code 0, a child of the call was killed and the worker went on.
    if ended.get("reason") == "OOMKilled" and ended.get("exitCode"):
        return _memory_ending(pod, resources, who, on_node)
    if pod.reason == "Evicted" and _OWN_STORAGE.search(pod.message):
        return Ending(
            Cause.EXIT,
            f"{who} was evicted{on_node}, since the call has written more to the pod's own disk "
            f"than it may: {pod.message}",
            "Write to a mount, or raise the limit that is named: ephemeral-storage in "
            "resources.limits of the container worker, or sizeLimit of the volume, both by the key "
            '"pod_template" of job_resources.',
        )
    if pod.reason in ("NodeLost", "NodeShutdown", "Shutdown", "Terminated"):
        return Ending(Cause.NODE_FAILURE, f"{who} was lost{on_node}: {pod.message or pod.reason}.")
    if pod.disruption is not None:
        reason, message = pod.disruption
        cause, what = _DISRUPTIONS.get(reason, (Cause.PREEMPTED, f"was disrupted ({reason})"))
        words = pod.message or message
        return Ending(cause, f"{who} {what}{on_node}{f': {words}' if words else ''}.")
    if pod.reason:  # Evicted, OutOfcpu, UnexpectedAdmissionError, NodeAffinity, ...
        return Ending(
            Cause.PREEMPTED,
            f"{who} was turned away{on_node} ({pod.reason}): {pod.message or '?'}.",
            may_go_in_again=True,
        )
    if pod.failed_init and not pod.began:
        return Ending(
            Cause.NEVER_STARTED,
            f"An init container of {who[4:]} failed{on_node}: {pod.failed_init}.",
            may_go_in_again=True,
        )
    if pod.deleted_at is not None:
        return Ending(
            Cause.CANCELLED, f"{who} was deleted{on_node} by somebody else.", may_go_in_again=True
        )
    return _process_ending(ended, who, on_node)


def _memory_ending(pod: Pod, resources: Resources, who: str, on_node: str) -> Ending:
    asked = resources.limits.get("memory")
    if asked:
        why = f"it had asked for {asked}"
    elif pod.memory_limit:
        why = (
            f"its limit is {pod.memory_limit}, by a LimitRange of the namespace or by pod_template"
        )
    else:
        why = "the node has no more"
    return Ending(
        Cause.OUT_OF_MEMORY,
        f"{who} ran out of memory{on_node}: {why}.",
        'Ask for more, for example with job_resources={"memory": "8Gi"}.',
    )


def _process_ending(ended: Mapping[str, Any], who: str, on_node: str) -> Ending:
    """Why a container ended, by its exit code. `ended`: its state `terminated`; {}: unknown."""
    if not ended:
        return Ending(Cause.LOST, f"{who} ended{on_node}, and does not say how.")
    code: int = ended.get("exitCode", 0)
    message: str = ended.get("message") or ""
    # Messages of the worker or its shell, which the log may lack if cfut_dir could not be written.
    own = [line for line in message.splitlines() if line.startswith("cluster_tools: ")]
    if ended.get("reason") in _CANNOT_START:
        return Ending(
            Cause.NEVER_STARTED,
            f"The container of {who[4:]} could not start{on_node}: {message or ended['reason']}.",
            "The image needs /bin/sh and Python.",
        )
    if code in (126, 127):
        return Ending(
            Cause.NEVER_STARTED,
            f"There is no such Python in the image (exit code {code}): the key python_executable "
            "of job_resources has to be right there.",
        )
    if own and code in OWN_EXIT_CODES:
        return Ending(Cause.EXIT, own[-1].removeprefix("cluster_tools: "), exit_code=code)
    number = code - 128
    if 0 < number < signal.NSIG:
        return Ending(
            Cause.EXIT,
            f"The process of {who[4:]} was ended by signal {number} "
            f"({signal.strsignal(number) or 'unknown'}){on_node}.",
            last_words=message.strip(),
        )
    return Ending(
        Cause.EXIT,
        f"The process of {who[4:]} ended with exit code {code}{on_node}.",
        exit_code=code,
        last_words=message.strip(),
    )
