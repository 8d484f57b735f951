"""Why pods have not begun, and how long they have been in states out of which somebody has to help them.

    pods --+
           +--> waits_for --> Waiting --> StartupTimes --> given up or not
    events-+

A pod's state and the events on it may both be old: while a node pulls an image again, the state still tells
of the last failure, and an event stays for an hour. So what the node has said last decides. Reads objects
that the server has sent, asks it nothing.
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

from cluster_tools.schedulers.kubernetes.images import PullFailure, pull_failure, tried_in_vain_s
from cluster_tools.schedulers.kubernetes.pods import RUNS_ON, Blocked, Pod, last_time, written_at

# A registry that says no is asked again by the node after 10 and 20 s: what was pushed a moment ago is there
# by then.
_REFUSAL_LASTS_S = 30.0
# A mount that has not failed again for so long is no reason any more: a node tries each two minutes and
# two seconds at the least, and says so. (pkg/util/goroutinemap/exponentialbackoff)
_WARNING_LASTS_S = 150.0
# Looks are not so far apart, unless nobody could look: what was meanwhile is not known.
_MAX_GAP_S = 60.0
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)
# A node writes the state that it has found before it pulls, and sends it this much later at the most.
_WRITING_S = 5.0

# A state before Kubernetes 1.32, while the node waits for its next try: the registry's words are in an event.
_WITHOUT_WORDS = re.compile(r'(Back-off pulling image "[^"]*")?')
# It is another pod with each try.
_NAME_OF_POD = re.compile(r'^(Error creating: )?pods "[^"]*" is ')
_PULL_STATES = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"}
_MOUNT_WARNINGS = {"FailedMount", "FailedAttachVolume"}
# What a node says of a pod only when all is mounted.
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
    """Why a pod has not begun. `needs_help`: somebody has to mend something first.

    `advice`: what, as the end of a sentence. `patience_s`: after so long in this state it is given up,
    whatever the user's limit; None where that alone counts. `tried_s`: seconds of the state that had passed
    when it was seen. `notable`: the user should be told. `said_at`: when it was said last, where it holds
    only if it is said again and again.
    """

    reason: str
    message: str
    needs_help: bool = False
    advice: str = ""
    patience_s: float | None = None
    tried_s: float = 0.0
    notable: bool = True
    said_at: datetime | None = None


@dataclass(frozen=True)
class Event:
    """What a part of Kubernetes says of an object, how often, and when last (by its own clock)."""

    reason: str
    message: str
    at: datetime
    # When the server was told of it last; None where it does not say.
    written: datetime | None
    # `spec.containers{worker}`, where it is about one.
    part: str


def read_events(items: Iterable[Mapping[str, Any]]) -> dict[str, list[Event]]:
    """By the name of the object that they are about, in the order in which they were said."""
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
    """Why this pod has not begun, where it or its node says so.

    `events`: those on this pod, in the order of their times.
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
        notable = blocked.reason != RUNS_ON  # most of them end soon
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
            f"for {about}, which the node {pod.node} does not have and may not pull: put it there, or "
            f'set the key image_pull_policy of {_KEYS} to "IfNotPresent"'
        )
        return Waiting(blocked.reason, blocked.message, True, advice, patience_s=_REFUSAL_LASTS_S)
    return Waiting(blocked.reason, blocked.message, True, _ADVICE.get(blocked.reason, ""))


def _waits_for_image(
    node: str, blocked: Blocked, pulling: Event | None, events: Collection[Event]
) -> Waiting:
    failures = [event for event in events if "Failed to pull image" in event.message]
    words = blocked.message
    if failures and _WITHOUT_WORDS.fullmatch(words):
        words = failures[-1].message
    tried_s = 0.0
    if pulling is not None and failures:
        pull_s = (failures[-1].at - pulling.at).total_seconds()
        tried_s = tried_in_vain_s(words, max(0.0, pull_s))
    failure = pull_failure(words)
    waiting = Waiting(blocked.reason, words, True, tried_s=tried_s)
    about = f"the image {blocked.image or '?'}"
    if failure is PullFailure.THROTTLED:
        return replace(waiting, needs_help=False, tried_s=0.0, notable=False)
    if failure is PullFailure.NOT_FOUND:
        advice = (
            f"for {about}, which does not exist, says its registry: look at the key image of {_KEYS}, "
            "and whether that tag was pushed"
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
    """Whether the pull that was begun last still goes on: its node says nothing of the pod meanwhile.

    It is nothing new in `status` either: a node writes that before it pulls and when it has pulled.
    """
    if failed is not None and failed.at >= pulling.at:
        return False
    # Of what a node says too often not all is told; but it writes the state that it has found.
    if pulling.written is None or pod.written is None:
        return failed is not None
    return pod.written <= pulling.written + timedelta(seconds=_WRITING_S)


def _waits_for_mount(pod: Pod, events: Collection[Event]) -> Waiting | None:
    if not pod.node:
        return None
    warning = _last(events, _MOUNT_WARNINGS)
    later = _last(events, _AFTER_MOUNTS)
    if warning is None:
        is_over = True
    elif warning.reason == "FailedAttachVolume":  # by another clock than the node's
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
    """Why a Job has no pod, by the events on it."""
    refusal = _last(events, {"FailedCreate"})
    if refusal is None:
        return None
    # A quota has room again some time; a policy does not change its mind.
    by_quota = "exceeded quota" in refusal.message
    words = _NAME_OF_POD.sub("", refusal.message)
    return Waiting(refusal.reason, words, not by_quota, _ADVICE[refusal.reason])


def _last(events: Iterable[Event], reasons: Collection[str]) -> Event | None:
    found = [event for event in events if event.reason in reasons]
    return found[-1] if found else None


class StartupTimes:
    """How long the elements of a Job have been in states that need help, summed over them: what lies between
    does not count. `limit_s`: the user's, after which one is given up.
    """

    def __init__(self, limit_s: float):
        self._limit_s = limit_s
        # By index, as long as it waits: seconds in such states, and in the present one by which its registry
        # refuses it.
        self._spent_s: dict[int, float] = {}
        self._refused_s: dict[int, float] = {}
        # Which of them needed help when they were looked at last, and when that was.
        self._stuck: set[int] = set()
        self._looked_at = 0.0
        # What was said at what time, and when that was seen first, by our clock.
        self._said: dict[int, tuple[datetime, float]] = {}

    def take(self, waiting: Mapping[int, Waiting], now: float) -> dict[int, Waiting]:
        """Takes in what a look has shown; returns what of it holds."""
        holds = {index: what for index, what in waiting.items() if self._holds(index, what, now)}
        elapsed_s = min(now - self._looked_at, _MAX_GAP_S)
        for index, what in holds.items():
            if not what.needs_help:
                continue
            was_stuck = index in self._stuck
            more_s = elapsed_s if was_stuck else what.tried_s
            self._spent_s[index] = self._spent_s.get(index, 0.0) + more_s
            if what.patience_s is None:
                self._refused_s.pop(index, None)
            else:
                # The first look at it says nothing of the time before.
                more_s = elapsed_s if was_stuck and index in self._refused_s else 0.0
                self._refused_s[index] = self._refused_s.get(index, 0.0) + more_s
        for times in (self._refused_s, self._said):
            for index in times.keys() - waiting.keys():
                del times[index]
        self._stuck = {index for index, what in holds.items() if what.needs_help}
        self._looked_at = now
        return holds

    def _holds(self, index: int, what: Waiting, now: float) -> bool:
        if what.said_at is None:
            return True
        said_at, seen_at = self._said.get(index, (None, now))
        if said_at != what.said_at:
            seen_at = now
        self._said[index] = (what.said_at, seen_at)
        return now - seen_at < _WARNING_LASTS_S

    def left_s(self, index: int, what: Waiting) -> float:
        """In how many seconds it is given up, if it stays so; 0 where it is."""
        if not what.needs_help:
            return math.inf
        left_s = self._limit_s - self._spent_s.get(index, 0.0)
        if what.patience_s is not None:
            patience_s = min(what.patience_s, self._limit_s)
            left_s = min(left_s, patience_s - self._refused_s.get(index, 0.0))
        return max(0.0, left_s)

    def hopeless(self, index: int, what: Waiting) -> str:
        """Why it is given up, as the end of a sentence; "" while it is not."""
        if self.left_s(index, what) > 0:
            return ""
        if what.patience_s is not None:
            return what.advice
        advice = f": {what.advice}" if what.advice else ""
        return f"for longer than startup_timeout_s = {self._limit_s:g} s{advice}"
