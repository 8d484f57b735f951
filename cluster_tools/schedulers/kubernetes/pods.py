"""What pods say of themselves, and why one has ended.

Reads objects that the server has sent, asks it nothing.
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

# Reasons of a condition DisruptionTarget.
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
# The container has not begun and will not without somebody's help.
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
# What the kubelet says where it evicts a pod for what the pod itself has written, and not because
# the node runs out of something (pkg/kubelet/eviction).
_OWN_STORAGE = re.compile(
    r"exceeded its local ephemeral storage limit|ephemeral local storage usage exceeds"
    r"|Usage of EmptyDir volume .* exceeds the limit"
)
# A reason of our own: a container that `worker` waits for still runs.
RUNS_ON = "InitContainerRunsOn"
_CANNOT_START = {"StartError", "ContainerCannotRun"}


@dataclass(frozen=True)
class Blocked:
    """A container that does not begin, so that its pod does not."""

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
    # When it was told to end, by the server's clock; None where it was not.
    deleted_at: datetime | None
    # Seconds that it has for that.
    grace_s: float
    # The reason and message of its condition DisruptionTarget.
    disruption: tuple[str, str] | None
    # The state of the container `worker`: {"waiting": ...}, {"running": ...}, {"terminated": ...} or {}.
    state: Mapping[str, Any]
    # Why it could not be placed on a node.
    unschedulable: str
    # A container that has to end well before `worker` begins has not.
    failed_init: str
    # Such a container, or `worker`, that does not begin.
    blocked: Blocked | None
    # The limit of the container `worker`, as the server has set it; "" where there is none.
    memory_limit: str
    # Containers beside `worker` that have not ended, and one of them that can't begin.
    beside: tuple[str, ...]
    blocked_beside: Blocked | None
    # When its node has written its state last, by the server's clock.
    written: datetime | None
    # Its object is not there any more, so nothing of it runs.
    is_gone: bool = False

    @property
    def has_ended(self) -> bool:
        return self.is_gone or self.phase in ("Succeeded", "Failed") or "terminated" in self.state

    @property
    def outlives_worker(self) -> bool:
        """A sidecar goes on, or does not begin, and the Job counts the pod as one that runs."""
        return (
            "terminated" in self.state
            and self.phase in ("Pending", "Running")
            and bool(self.beside)
        )

    @property
    def is_ending(self) -> bool:
        """It was told to end, and its process may still run."""
        return self.deleted_at is not None and not self.has_ended

    @property
    def says_nothing(self) -> bool:
        """Of its end: it was told to, or was well when it was last seen."""
        was_well = not self.has_ended and self.deleted_at is None
        was_told = (
            was_well
            or self.deleted_at is not None
            or (self.state.get("terminated", {}).get("exitCode") == 128 + signal.SIGTERM)
        )
        return was_told and self.disruption is None and not self.reason

    @property
    def began(self) -> bool:
        return "running" in self.state or "terminated" in self.state


def job_of(pod: Mapping[str, Any]) -> str:
    return pod["metadata"]["labels"].get("job-name", "")


def index_of(pod: Mapping[str, Any]) -> int | None:
    annotations: Any = pod["metadata"].get("annotations") or {}
    text: str = annotations.get(INDEX, "")
    return int(text) if text.isdigit() else None


def read_pod(pod: Mapping[str, Any]) -> Pod:
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
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def last_time(*texts: str | None) -> datetime | None:
    return max((read_time(text) for text in texts if text), default=None)


def written_at(item: Mapping[str, Any], part: str | None = None) -> datetime | None:
    """When an object, or its `status` alone, was written last; None where the server does not say.

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
    for container in spec.get("containers") or ():
        if container["name"] == WORKER_CONTAINER:
            resources: dict[str, Any] = container.get("resources") or {}
            limits: dict[str, Any] = resources.get("limits") or {}
            return str(limits.get("memory", ""))
    return ""


def _open_beside(statuses: Any) -> tuple[str, ...]:
    return tuple(
        status["name"]
        for status in statuses or ()
        if status["name"] != WORKER_CONTAINER
        and ({"running", "waiting"} & (status.get("state") or {}).keys())
    )


def _blocked_beside(statuses: Any) -> Blocked | None:
    for status in statuses or ():
        name = status["name"]
        waiting: dict[str, Any] = _container_state([status], name).get("waiting") or {}
        if name != WORKER_CONTAINER and waiting.get("reason") in _NEEDS_HELP:
            return Blocked(
                name, status.get("image", ""), waiting["reason"], waiting.get("message", "")
            )
    return None


def _sidecars(spec: Any) -> set[str]:
    """Init containers that go on beside the others, and are ended when these have ended."""
    containers: Any = spec.get("initContainers") or ()
    return {c["name"] for c in containers if c.get("restartPolicy") == "Always"}


def _failed_init(statuses: Any, sidecars: set[str]) -> str:
    for status in statuses or ():
        if status["name"] in sidecars:
            continue
        ended: Any = _container_state([status], status["name"]).get("terminated", {})
        if ended.get("exitCode"):
            words: str = ended.get("message") or ended.get("reason") or ""
            return f"{status['name']} ended with exit code {ended['exitCode']} {words}".strip()
    return ""


def _blocked(status: Any, sidecars: set[str]) -> Blocked | None:
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
        if name in sidecars and "terminated" in state:  # between two starts a node may say no more
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
    """How this container has ended the last time, where it is started again and again."""
    return _end_of(container, container.get("lastState") or {})


def _end_of(container: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    ended: dict[str, Any] = state.get("terminated") or {}
    if not ended:
        return ""
    words = (ended.get("message") or ended.get("reason") or "").strip()
    name, code = container["name"], ended.get("exitCode")
    return f"(container {name}, exit code {code}{f': {words}' if words else ''})"


def first_to_blame(pods: Sequence[Pod]) -> Pod | None:
    """Of the pods of one element the one that made it end: a later one finds that the call has begun."""
    in_order = sorted(pods, key=lambda pod: (pod.created, pod.uid))
    # Its container may have ended well when its phase does not say so yet.
    blamed = [
        pod
        for pod in in_order
        if pod.phase != "Succeeded" and pod.state.get("terminated", {}).get("exitCode") != 0
    ]
    began = [pod for pod in blamed if pod.began]
    return next(iter([*began, *blamed]), None)


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
    # Where a child of the call was killed, the container may have ended well.
    if ended.get("reason") == "OOMKilled" and ended.get("exitCode"):
        asked = resources.limits.get("memory")
        if asked:
            why = f"it had asked for {asked}"
        elif pod.memory_limit:
            why = f"its limit is {pod.memory_limit}, by a LimitRange of the namespace or by pod_template"
        else:
            why = "the node has no more"
        return Ending(
            Cause.OUT_OF_MEMORY,
            f"{who} ran out of memory{on_node}: {why}.",
            'Ask for more, for example with job_resources={"memory": "8Gi"}.',
        )
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


def _process_ending(ended: Mapping[str, Any], who: str, on_node: str) -> Ending:
    if not ended:
        return Ending(Cause.LOST, f"{who} ended{on_node}, and does not say how.")
    code: int = ended.get("exitCode", 0)
    message: str = ended.get("message") or ""
    # What the worker or its shell says; the log may not have reached cfut_dir.
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
            f"There is no such Python in the image (exit code {code}): the key python_executable of "
            "job_resources has to be right there.",
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
