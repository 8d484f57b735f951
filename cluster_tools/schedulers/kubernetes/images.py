"""Why a node could not pull an image, by the error message of its container runtime.

Knows text, nothing of pods. The API has no code for these errors, so stable words are searched for;
a message without any counts as a registry that could not be reached. The words are those of

- containerd 1.6 to 2.x: remotes/docker/resolver.go ("not found", "pull access denied"),
  authorizer.go ("authorization failed", "failed to fetch anonymous token"),
  remotes/errors/errors.go ("unexpected status"), pull.go ("failed to resolve reference"),
  transfer/local/pull.go ("failed to resolve image"), images/handlers.go ("no match for platform");
  https://github.com/containerd/containerd
- CRI-O: docker/distribution_error.go and docker/docker_client.go ("manifest unknown",
  "unauthorized: ", "denied: "); https://github.com/containers/image
- Docker Engine: distribution/errors.go ("pull access denied for", "manifest for ... not found");
  https://github.com/moby/moby
- the kubelet itself: pkg/kubelet/images/helpers.go ("pull QPS exceeded")

and were seen with containerd 1.6.20.
"""

from __future__ import annotations

import enum
import re


class PullFailure(enum.Enum):
    """Why an image was not pulled."""

    NOT_FOUND = "the registry says that there is none of this name"
    DENIED = "the registry does not let the node read it"
    # The node has too many images to pull, and will pull this one later.
    THROTTLED = "the node pulls others first"
    UNREACHABLE = "anything else"


_THROTTLED = re.compile("pull QPS exceeded")
# Errors that may pass: the registry was busy, broken or not there. With these words in a message,
# no others in it count as the registry's answer. As images may have names such as "timeout", such
# words count only beside others.
_PASSING = re.compile(
    r": (408|429|5\d\d)\b|StatusCode: (408|429|5\d\d)\b|(^|[\s:(])toomanyrequests: "
    r"|connection refused|no such host|connection reset|timed out|deadline exceeded"
    r"|context canceled|(i/o|handshake|request|gateway) timeout"
    r"|timeout (awaiting|waiting|exceeded)|Client\.Timeout"
    r"|(unexpected|:) EOF\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"status\b[^\n]*: 40[13]\b|StatusCode: 40[13]\b|pull access denied|authorization failed"
    r"|no basic auth credentials|unauthorized: |authentication required"
    r"|access to the resource is denied|: denied: |\ndenied: ",
)
_NOT_FOUND = re.compile(
    r"failed to resolve (reference|image)\b[^\n]*: not found(?=$|[\n\],\"])"
    r"|no match for platform in manifest|manifest unknown|name unknown|manifest for \S+ not found"
)
# The pull failed before any data was downloaded.
_AT_THE_REFERENCE = re.compile("failed to resolve (reference|image)|pinging container registry")
# The registry took the connection and did not answer, until the runtime's own time limit.
_GAVE_UP = re.compile("context canceled|deadline exceeded")
# How much of the time of a failed pull counts at most: the rest may have
# been other pulls of the node.
_MAX_UNREACHABLE_S = 60.0


def pull_failure(words: str) -> PullFailure:
    """Why a pull failed. `words`: the runtime's error message."""
    if _THROTTLED.search(words):
        return PullFailure.THROTTLED
    if _PASSING.search(words):
        return PullFailure.UNREACHABLE
    if _DENIED.search(words):
        return PullFailure.DENIED
    if _NOT_FOUND.search(words):
        return PullFailure.NOT_FOUND
    return PullFailure.UNREACHABLE


def seconds_unreachable(words: str, pull_s: float) -> float:
    """For how many of the `pull_s` seconds of a failed pull the registry did not answer.

    0 where a download broke off: until then the registry had answered.
    """
    if not _AT_THE_REFERENCE.search(words):
        return 0.0
    return pull_s if _GAVE_UP.search(words) else min(pull_s, _MAX_UNREACHABLE_S)
