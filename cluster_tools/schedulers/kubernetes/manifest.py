"""Reads and checks `job_resources`, and makes the manifest of an Indexed Job from them.

Knows the fields of Kubernetes' objects; sends no requests.
https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

from __future__ import annotations

import copy
import getpass
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

# Its value is the executor's token.
SESSION_LABEL = "cluster-tools/session"
# The name of the container that runs the call.
WORKER_CONTAINER = "worker"
# Environment variables that tell a worker which pod it is in.
POD_NAME = "CLUSTER_TOOLS_POD_NAME"
POD_UID = "CLUSTER_TOOLS_POD_UID"
# When Kubernetes itself deletes a finished Job, if a client that died has not.
_TTL_S = 7 * 24 * 3600
# A number of failures that no Job reaches: a Job must not fail as a
# whole, each index ends by itself.
_NO_LIMIT = 2**31 - 1
# Pods of a Job at a time. A controller manager makes about ten a second,
# for all Jobs of the cluster.
MAX_PARALLELISM = 500
# Characters of a pod's name, which is the Job's name with the index behind it.
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
_MAX_NAME = 63

# Ask the cluster's autoscalers to leave the pod where it is, since its call would be lost.
_KEEP_ANNOTATIONS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}

# https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")

_SHARED_MEMORY = {"name": "shared-memory", "mountPath": "/dev/shm"}
# Lists in a pod -> the field that names their entries. Entries of `pod_template` are merged into
# ours of the same name,
_MERGED_LISTS = {"containers": "name", "initContainers": "name"}
# or replace them.
_REPLACED_LISTS = {"volumes": "name", "volumeMounts": "mountPath", "env": "name"}
_LISTS = {**_MERGED_LISTS, **_REPLACED_LISTS}


@dataclass(frozen=True)
class Claim:
    """A mount of a PersistentVolumeClaim, at the path under which the client sees it."""

    name: str
    path: str


@dataclass(frozen=True)
class Resources:
    """`job_resources`, checked. The README's table says what each key means."""

    image: str
    # Kubernetes' own default, except for images with the tag `latest` or none: those it would pull.
    image_pull_policy: str = "IfNotPresent"
    namespace: str = "default"
    context: str | None = None
    python_executable: str | None = None
    umask: str | None = None
    # -- the pod --
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    host_paths: Sequence[str] = ()
    claims: Sequence[Claim] = ()
    requests: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, str] = field(default_factory=dict[str, str])
    shm_size: str | None = None
    # (uid, gid); None: what the image says.
    run_as: tuple[int, int] | None = None
    service_account: str | None = None
    image_pull_secrets: Sequence[str] = ()
    priority_class: str | None = None
    tolerations: Sequence[Mapping[str, Any]] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    pod_template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    # -- the Job --
    parallelism: int | None = None
    time_limit_s: int | None = None
    startup_timeout_s: float = 180.0
    client_lease_s: int | None = 900


def parse_resources(job_resources: Mapping[str, Any]) -> Resources:
    """Reads and checks `job_resources`. Raises: ValueError, which names key and allowed values."""
    given = {key: value for key, value in job_resources.items() if value is not None}
    if "run_as" in job_resources:  # None has a meaning of its own
        given["run_as"] = job_resources["run_as"]
    if "client_lease_s" in job_resources:
        given["client_lease_s"] = job_resources["client_lease_s"]
    image = given.pop("image", None)
    if not isinstance(image, str) or not image:
        raise ValueError(
            'job_resources: the strategy kubernetes needs an image: {"image": '
            '"registry/name:tag"}, with '
            "this version of cluster_tools and a Python of this minor version in it"
        )
    values: dict[str, Any] = {"image": image, "run_as": (os.getuid(), os.getgid())}
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for key, value in given.items():
        if key in _PARSERS:
            values[key] = _PARSERS[key](key, value)
        elif key == "mounts":
            values["host_paths"], values["claims"] = _mounts(value)
        elif key == "cpu":
            requests[key] = _quantity(key, value)
        elif key == "memory":
            requests[key] = limits[key] = _quantity(key, value)
        elif key == "gpu":
            limits["nvidia.com/gpu"] = _quantity(key, value)
        elif key.startswith("hugepages-"):
            requests[key] = limits[key] = _quantity(key, value)
        elif (
            "/" in key
        ):  # https://kubernetes.io/docs/tasks/configure-pod-container/extended-resource/
            limits[key] = _quantity(key, value)
        else:
            known = sorted({*_PARSERS, "cpu", "gpu", "image", "memory", "mounts"})
            raise ValueError(
                f"job_resources: the strategy kubernetes has no key {key!r}. There are "
                f"{', '.join(known)}, hugepages-<size>, and <domain>/<name> for an extended "
                "resource"
            )
    return Resources(**values, requests=requests, limits=limits)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or value.splitlines() != [value]:
        raise ValueError(f"job_resources: {key!r} is one line of text, not {value!r}")
    return value


def _pull_policy(key: str, value: object) -> str:
    if not isinstance(value, str) or value not in _PULL_POLICIES:
        raise ValueError(
            f"job_resources: {key!r} is one of {', '.join(_PULL_POLICIES)}, not {value!r}"
        )
    return value


def _quantity(key: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value):
        raise ValueError(f"job_resources: {key!r} is a quantity, such as 2 or '4Gi', not {value!r}")
    return str(value)


def _texts(key: str, value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"job_resources: {key!r} is a list of names, not {value!r}")
    return [_text(key, name) for name in cast(Sequence[object], value)]


def _mapping(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"job_resources: {key!r} is a dict, not {value!r}")
    return copy.deepcopy(dict(cast(Mapping[str, Any], value)))


def _template(key: str, value: object) -> dict[str, Any]:
    template = _mapping(key, value)
    if not template.keys() <= {"metadata", "spec"}:
        raise ValueError(
            f"job_resources: {key!r} has 'metadata' and 'spec', not {sorted(template)}"
        )
    _check_names(template, "")
    return template


def _text_mapping(key: str, value: object) -> dict[str, str]:
    return {str(name): _as_text(text) for name, text in _mapping(key, value).items()}


def _as_text(value: object) -> str:
    """A value as YAML would have it: `True` is "true"."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _mappings(key: str, value: object) -> list[dict[str, Any]]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise ValueError(f"job_resources: {key!r} is a list of dicts, not {value!r}")
    return [_mapping(key, item) for item in cast(Sequence[object], value)]


def _count(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"job_resources: {key!r} is a whole number from 1 on, not {value!r}")
    return value


def _seconds(key: str, value: object) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < math.inf:
        return int(value)
    raise ValueError(f"job_resources: {key!r} is a number of seconds from 1 on, not {value!r}")


def _lease(key: str, value: object) -> int | None:
    return None if value is None else _seconds(key, value)


def _umask(key: str, value: object) -> str:
    text = f"{value:04o}" if isinstance(value, int) else str(value)
    if not re.fullmatch("[0-7]{1,4}", text):
        raise ValueError(f"job_resources: {key!r} is an octal mode such as '0002', not {value!r}")
    return text


def _user(key: str, value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    parts = value.split(":") if isinstance(value, str) else value
    if isinstance(parts, Sequence) and len(cast(Sequence[object], parts)) == 2:
        try:
            uid, gid = (int(cast(Any, part)) for part in cast(Sequence[object], parts))
        except (TypeError, ValueError):
            pass
        else:
            if uid >= 0 and gid >= 0:
                return uid, gid
    raise ValueError(f"job_resources: {key!r} is '<uid>:<gid>' or None, not {value!r}")


def _mounts(value: object) -> tuple[list[str], list[Claim]]:
    """The paths of hosts, and the claims, that are to be mounted."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise ValueError(f"job_resources: 'mounts' is a list, not {value!r}")
    host_paths: list[str] = []
    claims: list[Claim] = []
    for mount in cast(Sequence[object], value):
        if isinstance(mount, (str, os.PathLike)):
            host_paths.append(_absolute(os.fspath(cast("str | os.PathLike[str]", mount))))
        elif isinstance(mount, Mapping) and set(cast(Mapping[str, Any], mount)) == {
            "claim",
            "path",
        }:
            by_name = cast(Mapping[str, Any], mount)
            claims.append(
                Claim(
                    _text("mounts", by_name["claim"]), _absolute(_text("mounts", by_name["path"]))
                )
            )
        else:
            raise ValueError(
                "job_resources: a mount is a path of the host, or "
                f"{{'claim': <name>, 'path': <where>}}, not {mount!r}"
            )
    return host_paths, claims


def _absolute(path: str) -> str:
    path = "/" + os.path.abspath(path).lstrip("/")
    if path == "/":
        raise ValueError("job_resources: 'mounts' can't put anything on /, where the image is")
    return path


_PARSERS: dict[str, Any] = {
    "namespace": _text,
    "context": _text,
    "python_executable": _text,
    "umask": _umask,
    "image_pull_policy": _pull_policy,
    "node_selector": _text_mapping,
    "shm_size": _quantity,
    "run_as": _user,
    "service_account": _text,
    "image_pull_secrets": _texts,
    "priority_class": _text,
    "tolerations": _mappings,
    "labels": _text_mapping,
    "annotations": _text_mapping,
    "pod_template": _template,
    "parallelism": _count,
    "time_limit_s": _seconds,
    "startup_timeout_s": _seconds,
    "client_lease_s": _lease,
}


def job_name(name: str, token: str, count: int) -> str:
    """The name of a Job: the user's, shortened and as Kubernetes allows it, and the whole token."""
    unique = token.replace(".", "-")
    room = _MAX_NAME - len(unique) - len(str(count - 1)) - 2
    readable = re.sub("[^a-z0-9]+", "-", name.lower())[: max(0, room)].strip("-")
    readable = readable or "call"[: max(0, room)]
    return f"{readable}-{unique}" if readable else unique


def job_manifest(
    resources: Resources,
    *,
    name: str,
    session: str,
    count: int,
    command: Sequence[str],
    directories: Sequence[str],
    grace_s: float,
    owner: Mapping[str, str] | None,
    at_a_time: int | None = None,
) -> dict[str, Any]:
    """The manifest of a Job with `count` elements, of which `at_a_time` run at a time.

    `session`: the executor's token. `command`: the container's. `directories`: are mounted besides
    the user's mounts. `grace_s`: between SIGTERM and the kill. `owner`: an ownerReference.
    """
    labels = {**resources.labels, SESSION_LABEL: session}
    template: dict[str, Any] = {
        "metadata": {
            "labels": labels,
            "annotations": {**_KEEP_ANNOTATIONS, **resources.annotations},
        },
        "spec": _pod_spec(resources, command, directories, grace_s),
    }
    metadata: dict[str, Any] = {
        "name": name,
        "labels": labels,
        "annotations": dict(resources.annotations),
    }
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": min(count, at_a_time or count, resources.parallelism or MAX_PARALLELISM),
        "backoffLimit": _NO_LIMIT,
        "backoffLimitPerIndex": 0,
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": _TTL_S,
        "template": merged(template, resources.pod_template),
    }
    if resources.client_lease_s is not None:
        spec["activeDeadlineSeconds"] = resources.client_lease_s
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _pod_spec(
    resources: Resources, command: Sequence[str], directories: Sequence[str], grace_s: float
) -> dict[str, Any]:
    volumes, mounts = _volumes(resources, directories)
    container: dict[str, Any] = {
        "name": WORKER_CONTAINER,
        "image": resources.image,
        "imagePullPolicy": resources.image_pull_policy,
        # Kubernetes replaces $(NAME) in a command, and $$ by $.
        "command": [word.replace("$", "$$") for word in command],
        "env": [
            *(
                {"name": name, "value": value}
                for name, value in _user_variables(mount["mountPath"] for mount in mounts).items()
            ),
            {"name": POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ],
        "resources": {"requests": dict(resources.requests), "limits": dict(resources.limits)},
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        # The last lines of the log are in the pod's status, which we may read; logs perhaps not.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        # Process 1 is then another than the worker: for process 1, signals have no default action.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": max(1, round(grace_s)),
        "enableServiceLinks": False,
        "automountServiceAccountToken": resources.service_account is not None,
        "securityContext": _security_context(resources),
        "containers": [container],
        "volumes": volumes,
    }
    optional = {
        "serviceAccountName": resources.service_account,
        "priorityClassName": resources.priority_class,
        "nodeSelector": dict(resources.node_selector),
        "tolerations": [dict(toleration) for toleration in resources.tolerations],
        "imagePullSecrets": [{"name": secret} for secret in resources.image_pull_secrets],
        "activeDeadlineSeconds": resources.time_limit_s,
    }
    return {**spec, **{key: value for key, value in optional.items() if value}}


def _security_context(resources: Resources) -> dict[str, Any]:
    """What the Pod Security Standard "restricted" asks for, and the client's groups.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    context: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if resources.run_as is None:
        return {**context, "runAsNonRoot": True}
    uid, gid = resources.run_as
    context.update(runAsUser=uid, runAsGroup=gid, runAsNonRoot=uid != 0)
    if resources.run_as == (os.getuid(), os.getgid()):
        context["supplementalGroups"] = sorted(os.getgroups())
    if resources.claims:
        context.update(fsGroup=gid, fsGroupChangePolicy="OnRootMismatch")
    return context


def _volumes(
    resources: Resources, directories: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The volumes and their mounts. A path inside of another mount gets none of its own."""
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    mounted: list[str] = []
    for claim in resources.claims:
        name = f"claim-{len(volumes)}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim.name}})
        mounts.append({"name": name, "mountPath": claim.path})
        mounted.append(claim.path)
    for path in sorted({*resources.host_paths, *directories}, key=lambda path: (len(path), path)):
        if path.strip("/") == "" or any(f"{path}/".startswith(f"{other}/") for other in mounted):
            continue
        name = f"host-{len(volumes)}"
        # Type Directory: if the node lacks the path, other types would make an empty directory.
        volumes.append({"name": name, "hostPath": {"path": path, "type": "Directory"}})
        mounts.append({"name": name, "mountPath": path})
        mounted.append(path)
    if resources.shm_size is not None:
        memory = {"medium": "Memory", "sizeLimit": resources.shm_size}
        volumes.append({"name": _SHARED_MEMORY["name"], "emptyDir": memory})
        mounts.append(dict(_SHARED_MEMORY))
    return volumes, mounts


def _user_variables(mounted: Any) -> dict[str, str]:
    """HOME (the client's if it is mounted, else /tmp), USER and LOGNAME, which the image lacks."""
    home = os.path.expanduser("~")
    has_home = any(f"{home}/".startswith(f"{path}/") for path in mounted)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = str(os.getuid())
    return {"HOME": home if has_home else "/tmp", "USER": user, "LOGNAME": user}


def merged(base: Any, over: Any, key: str = "") -> Any:
    """`base` with `over` laid over it: dicts by key, the lists of `_LISTS` by name, else `over`.

    `key`: the one under which both are found.
    """
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        result: dict[str, Any] = dict(cast(Mapping[str, Any], base))
        for name, value in cast(Mapping[str, Any], over).items():
            result[name] = merged(result[name], value, name) if name in result else value
        return result
    if isinstance(base, list) and isinstance(over, list) and key in _LISTS:
        by_name: dict[str, Any] = {item[_LISTS[key]]: item for item in cast("list[Any]", base)}
        for item in cast("list[Any]", over):
            name = item[_LISTS[key]]
            is_merged = key in _MERGED_LISTS and name in by_name
            by_name[name] = merged(by_name[name], item) if is_merged else item
        entries: list[Any] = list(by_name.values())
        return entries
    return cast(Any, over)


def _check_names(value: Any, key: str) -> None:
    """Raises: ValueError, where an entry of a list that is merged by name has none."""
    if isinstance(value, Mapping):
        for name, inner in cast(Mapping[str, Any], value).items():
            _check_names(inner, name)
    elif key in _LISTS and isinstance(value, list):
        for item in cast("list[Any]", value):
            if not isinstance(item, Mapping) or _LISTS[key] not in item:
                raise ValueError(
                    f"job_resources: 'pod_template': each entry of {key} is a dict with "
                    f"{_LISTS[key]!r}, not {item!r}"
                )
            _check_names(item, "")
