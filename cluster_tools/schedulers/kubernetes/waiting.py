"""Why pods have not begun, and for how long somebody would have had to do something about it.

    pods --+
           +--> waits_for --> Waiting --> StartupTimes --> given up or not
    events-+

A pod's state and the events on it may both be out of date: while a node pulls an image again, the
state still has the last failure, and an event stays for an hour. So what the node has said last
decides. Knows objects that the server has sent; sends no requests.
https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from cluster_tools.schedulers.kubernetes.images import (
    PullFailure,
    pull_failure,
    seconds_unreachable,
)
from cluster_tools.schedulers.kubernetes.pods import RUNS_ON, Blocked, Pod, last_time, written_at

# After how long a registry's refusal counts as final. The node tries again after 10 and 20 s, so an
# image that was pushed a moment ago is found by then.
_REFUSAL_LASTS_S = 30.0
# For how long a failed mount counts as the reason for waiting. A node tries again after at most two
# minutes and two seconds, and says so if that fails (pkg/util/goroutinemap/exponentialbackoff).
_WARNING_LASTS_S = 150.0
# The most time that counts between two queries: after longer gaps, what
# happened meanwhile is unknown.
_MAX_GAP_S = 60.0
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)
# How long a node takes at most to send the state that it writes before it pulls.
_WRITING_S = 5.0

# The message of a container whose node waits for its next try, before Kubernetes 1.32. The
# registry's answer is only in an event.
_WITHOUT_ANSWER = re.compile(r'(Back-off pulling image "[^"]*")?')
# The name of a pod in a message, which is another with each try.
_NAME_OF_POD = re.compile(r'^(Error creating: )?pods "[^"]*" is ')
_PULL_STATES = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"}
_MOUNT_WARNINGS = {"FailedMount", "FailedAttachVolume"}
# Reasons of events that a node makes only once everything is mounted.
_AFTER_MOUNTS = {
    "BackOff",
    "ErrImageNeverPull",
    "Failed",
    "FailedCreatePodSandBox",
    "InspectFailed",
    "Pulling",
}

_KEYS = "job_resources"
_ADVICE = {
    "CreateContainerConfigError": "what the pod refers to has to be made first",
    "FailedAttachVolume": f"the volume has to be attachable, see the key mounts of {_KEYS}",
    "FailedCreate": "what refuses the pod has to be satisfied, see the key pod_template of "
    f"{_KEYS}, or changed",
    "FailedMount": f"what is mounted has to be there, see the key mounts of {_KEYS}",
}


@dataclass(frozen=True)
class Waiting:
    """Why a pod has not begun."""

    # Kubernetes' word for it, and its message.
    reason: str
    message: str
    # Somebody must do something first.
    needs_help: bool = False
    # What, as the end of a sentence.
    advice: str = ""
    # How long this state may last before the element is given up, if that is shorter than the
    # user's `startup_timeout_s`; None: that alone counts.
    patience_s: float | None = None
    # How long the state had lasted when it was first seen.
    tried_s: float = 0.0
    # The user should be told.
    notable: bool = True
    # When Kubernetes has said it last. None: it holds as long as it is seen; else only while it is
    # said again and again.
    said_at: datetime | None = None


@dataclass(frozen=True)
class Event:
    """An Event of Kubernetes: what one of its parts says about an object."""

    reason: str
    message: str
    # When it was said last, by the clock of the part that says it.
    at: datetime
    # When it was last written on the server; None where that is unknown.
    written: datetime | None
    # The part of the object that it is about, such as `spec.containers{worker}`; or "".
    part: str


def read_events(items: Iterable[Mapping[str, Any]]) -> dict[str, list[Event]]:
    """Name of an object -> the events about it, in the order of their times."""
    found: defaultdict[str, list[Event]] = defaultdict(list)
    for item in items:
        about: dict[str, Any] = item.get("involvedObject") or {}
        series: dict[str, Any] = item.get("series") or {}
        metadata: dict[str, Any] = item.get("metadata") or {}
        at = last_time(
            item.get("lastTimestamp"),
            item.get("eventTime"),
            series.get("lastObservedTime"),
            metadata.get("creationTimestamp"),
        )
        event = Event(
            item.get("reason", ""),
            item.get("message") or "",
            at or _LONG_AGO,
            written_at(item),
            about.get("fieldPath", ""),
        )
        found[about.get("name", "")].append(event)
    for events in found.values():
        events.sort(key=lambda event: event.at)
    return dict(found)


def waits_for(pod: Pod, events: Collection[Event] = ()) -> Waiting | None:
    """Why this pod has not begun; None where it has, or nothing says why.

    `events`: those about this pod, in the order of their times.
    """
    if pod.began or pod.has_ended:
        return None
    if pod.unschedulable:
        return Waiting("Unschedulable", pod.unschedulable)
    blocked = pod.blocked
    if blocked is None:
        return _waits_for_mount(pod, events)
    ours = [event for event in events if event.part.endswith(f"{{{blocked.container}}}")]
    pulling = _last(ours, {"Pulling"})
    if pulling is not None and _is_pulled_now(pod, pulling, _last(ours, {"Failed"})):
        return Waiting("Pulling", pulling.message, notable=False)
    if blocked.reason in _PULL_STATES:
        return _waits_for_image(pod.node, blocked, pulling, ours)
    if blocked.reason in (RUNS_ON, "CrashLoopBackOff"):
        advice = (
            f"the container {blocked.container} has to let the call begin; if it only takes long, "
            f"raise the key startup_timeout_s of {_KEYS}"
        )
        notable = blocked.reason != RUNS_ON  # most init containers end soon
        return Waiting(blocked.reason, blocked.message, True, advice, notable=notable)
    about = f"the image {blocked.image or '?'}"
    if blocked.reason == "InvalidImageName":
        advice = (
            f"for {about}, which is no name of one: the key image of {_KEYS} is "
            "<registry>/<name>:<tag>, the name in lower case"
        )
        return Waiting(blocked.reason, blocked.message, True, advice, patience_s=0.0)
    if blocked.reason == "ErrImageNeverPull":
        advice = (
            f"for {about}, which the node {pod.node} does not have and may not pull: put it there, "
            "or "
            f'set the key image_pull_policy of {_KEYS} to "IfNotPresent"'
        )
        return Waiting(blocked.reason, blocked.message, True, advice, patience_s=_REFUSAL_LASTS_S)
    return Waiting(blocked.reason, blocked.message, True, _ADVICE.get(blocked.reason, ""))


def _waits_for_image(
    node: str, blocked: Blocked, pulling: Event | None, events: Collection[Event]
) -> Waiting:
    """Why a pod waits for an image. `pulling`: the last event that a pull begins."""
    failures = [event for event in events if "Failed to pull image" in event.message]
    words = blocked.message
    if failures and _WITHOUT_ANSWER.fullmatch(words):
        words = failures[-1].message
    tried_s = 0.0
    if pulling is not None and failures:
        pull_s = (failures[-1].at - pulling.at).total_seconds()
        tried_s = seconds_unreachable(words, max(0.0, pull_s))
    failure = pull_failure(words)
    waiting = Waiting(blocked.reason, words, True, tried_s=tried_s)
    about = f"the image {blocked.image or '?'}"
    if failure is PullFailure.THROTTLED:
        return replace(waiting, needs_help=False, tried_s=0.0, notable=False)
    if failure is PullFailure.NOT_FOUND:
        advice = (
            f"for {about}, which does not exist, says its registry: look at the key image of "
            f"{_KEYS}, and whether that tag was pushed"
        )
        return replace(waiting, advice=advice, patience_s=_REFUSAL_LASTS_S)
    if failure is PullFailure.DENIED:
        advice = (
            f"for {about}, which its registry does not let the node {node} read: look at the key "
            f"image of {_KEYS}; a private one needs a secret, named by the key image_pull_secrets"
        )
        return replace(waiting, advice=advice, patience_s=_REFUSAL_LASTS_S)
    advice = (
        f"the node {node} could not get {about} from its registry: see that it can be reached from "
        "there, or put the image on the nodes"
    )
    return replace(waiting, advice=advice)


def _is_pulled_now(pod: Pod, pulling: Event, failed: Event | None) -> bool:
    """Whether the last pull still goes on. `pulling`, `failed`: the last events of these reasons.

    While a node pulls, it makes no events on the pod and does not write its `status`.
    """
    if failed is not None and failed.at >= pulling.at:
        return False
    # Kubernetes drops events that come too often, so there may be no event of the failure. But the
    # node writes the pod's state after one.
    if pulling.written is None or pod.written is None:
        return failed is not None
    return pod.written <= pulling.written + timedelta(seconds=_WRITING_S)


def _waits_for_mount(pod: Pod, events: Collection[Event]) -> Waiting | None:
    """The mount, or the pull, for which a pod without any failed container waits."""
    if not pod.node:
        return None
    warning = _last(events, _MOUNT_WARNINGS)
    later = _last(events, _AFTER_MOUNTS)
    if warning is None:
        is_over = True
    elif warning.reason == "FailedAttachVolume":  # its time is not by the node's clock
        is_over = later is not None
    else:
        is_over = later is not None and later.at >= warning.at
    if warning is not None and not is_over:
        return Waiting(
            warning.reason, warning.message, True, _ADVICE[warning.reason], said_at=warning.at
        )
    if later is not None and later.reason == "Pulling":
        return Waiting(later.reason, later.message, notable=False)
    return None


def job_waits_for(events: Collection[Event]) -> Waiting | None:
    """Why a Job has no pod, by the events about it."""
    refusal = _last(events, {"FailedCreate"})
    if refusal is None:
        return None
    # A quota may have room later; a policy refuses the pod each time.
    by_quota = "exceeded quota" in refusal.message
    words = _NAME_OF_POD.sub("", refusal.message)
    return Waiting(refusal.reason, words, not by_quota, _ADVICE[refusal.reason])


def _last(events: Iterable[Event], reasons: Collection[str]) -> Event | None:
    """The last event with one of these reasons."""
    found = [event for event in events if event.reason in reasons]
    return found[-1] if found else None


class StartupTimes:
    """How long each element of a Job has waited in states that need somebody's help.

    The time of an element is the sum over all such states; the time between them does not count.
    After the user's limit an element is given up.
    """

    def __init__(self, limit_s: float):
        """`limit_s`: the user's `startup_timeout_s`."""
        self._limit_s = limit_s
        # Index -> seconds in states that need help.
        self._spent_s: dict[int, float] = {}
        # Index -> seconds in the present state, if that has a `patience_s`.
        self._refused_s: dict[int, float] = {}
        # Which elements needed help at the last update, and when that was.
        self._stuck: set[int] = set()
        self._updated_at = 0.0
        # Index -> `Waiting.said_at`, and when we saw that first, by our own clock.
        self._said: dict[int, tuple[datetime, float]] = {}

    def take(self, waiting: Mapping[int, Waiting], now: float) -> dict[int, Waiting]:
        """Updates the times with what was seen; returns what of it still holds.

        `waiting`: by index; `now`: in seconds, by a monotonic clock.
        """
        holds = {index: what for index, what in waiting.items() if self._holds(index, what, now)}
        elapsed_s = min(now - self._updated_at, _MAX_GAP_S)
        for index, what in holds.items():
            if not what.needs_help:
                continue
            was_stuck = index in self._stuck
            more_s = elapsed_s if was_stuck else what.tried_s
            self._spent_s[index] = self._spent_s.get(index, 0.0) + more_s
            if what.patience_s is None:
                self._refused_s.pop(index, None)
            else:
                # How long it had lasted when it was seen first is not known.
                more_s = elapsed_s if was_stuck and index in self._refused_s else 0.0
                self._refused_s[index] = self._refused_s.get(index, 0.0) + more_s
        for times in (self._refused_s, self._said):
            for index in times.keys() - waiting.keys():
                del times[index]
        self._stuck = {index for index, what in holds.items() if what.needs_help}
        self._updated_at = now
        return holds

    def _holds(self, index: int, what: Waiting, now: float) -> bool:
        """Whether this is still the reason for waiting, or was said too long ago."""
        if what.said_at is None:
            return True
        said_at, seen_at = self._said.get(index, (None, now))
        if said_at != what.said_at:
            seen_at = now
        self._said[index] = (what.said_at, seen_at)
        return now - seen_at < _WARNING_LASTS_S

    def left_s(self, index: int, what: Waiting) -> float:
        """After how many more seconds in this state the element is given up; 0: it is now."""
        if not what.needs_help:
            return math.inf
        left_s = self._limit_s - self._spent_s.get(index, 0.0)
        if what.patience_s is not None:
            patience_s = min(what.patience_s, self._limit_s)
            left_s = min(left_s, patience_s - self._refused_s.get(index, 0.0))
        return max(0.0, left_s)

    def hopeless(self, index: int, what: Waiting) -> str:
        """Why the element is given up, as the end of a sentence; "" if it is not."""
        if self.left_s(index, what) > 0:
            return ""
        if what.patience_s is not None:
            return what.advice
        advice = f": {what.advice}" if what.advice else ""
        return f"for longer than startup_timeout_s = {self._limit_s:g} s{advice}"
