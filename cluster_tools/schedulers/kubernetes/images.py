"""Why a node could not get an image, by the words that its container runtime has for that.

The API has no code for it, so stable words are looked for; what matches none of them counts as a registry
that could not be reached. They are those of

- containerd 1.6 to 2.x: remotes/docker/resolver.go ("not found", "pull access denied"), authorizer.go
  ("authorization failed", "failed to fetch anonymous token"), remotes/errors/errors.go ("unexpected status"),
  pull.go ("failed to resolve reference") and transfer/local/pull.go ("failed to resolve image"),
  images/handlers.go ("no match for platform"); https://github.com/containerd/containerd
- CRI-O: docker/distribution_error.go and docker/docker_client.go ("manifest unknown", "unauthorized: ",
  "denied: "); https://github.com/containers/image
- Docker Engine: distribution/errors.go ("pull access denied for", "manifest for ... not found");
  https://github.com/moby/moby
- the kubelet itself: pkg/kubelet/images/helpers.go ("pull QPS exceeded")

and seen with containerd 1.6.20. Knows text, nothing of pods.
"""

from __future__ import annotations

import enum
import re


class PullFailure(enum.Enum):
    """Why an image was not pulled."""

    NOT_FOUND = "the registry says that there is none of this name"
    DENIED = "the registry does not let the node read it"
    # The node has too many to pull, and tries again.
    THROTTLED = "the node pulls others first"
    UNREACHABLE = "anything else"


_THROTTLED = re.compile("pull QPS exceeded")
# Besides these nothing else in the text is the registry's last word: it was too busy, ill or not there.
# Images may have names such as timeout: those words count only with others beside them.
_PASSING = re.compile(
    r": (408|429|5\d\d)\b|StatusCode: (408|429|5\d\d)\b|(^|[\s:(])toomanyrequests: |connection refused"
    r"|no such host|connection reset|timed out|deadline exceeded|context canceled"
    r"|(i/o|handshake|request|gateway) timeout|timeout (awaiting|waiting|exceeded)|Client\.Timeout"
    r"|(unexpected|:) EOF\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"status\b[^\n]*: 40[13]\b|StatusCode: 40[13]\b|pull access denied|authorization failed"
    r"|no basic auth credentials|unauthorized: |authentication required|access to the resource is denied"
    r"|: denied: |\ndenied: ",
)
_NOT_FOUND = re.compile(
    r"failed to resolve (reference|image)\b[^\n]*: not found(?=$|[\n\],\"])"
    r"|no match for platform in manifest|manifest unknown|name unknown|manifest for \S+ not found"
)
# A pull that fails here has not begun to bring anything.
_AT_THE_REFERENCE = re.compile("failed to resolve (reference|image)|pinging container registry")
# The runtime itself has waited for a registry that took the connection and said nothing.
_GAVE_UP = re.compile("context canceled|deadline exceeded")
# What a pull that has failed may have waited for other pulls of its node is not known.
_MAX_TRIED_S = 60.0


def pull_failure(words: str) -> PullFailure:
    """What a runtime's words for a pull that has failed say of the registry."""
    if _THROTTLED.search(words):
        return PullFailure.THROTTLED
    if _PASSING.search(words):
        return PullFailure.UNREACHABLE
    if _DENIED.search(words):
        return PullFailure.DENIED
    if _NOT_FOUND.search(words):
        return PullFailure.NOT_FOUND
    return PullFailure.UNREACHABLE


def tried_in_vain_s(words: str, pull_s: float) -> float:
    """How many of the seconds that a failed pull took went into reaching the registry.

    None of a download that broke off: it was one that worked.
    """
    if not _AT_THE_REFERENCE.search(words):
        return 0.0
    return pull_s if _GAVE_UP.search(words) else min(pull_s, _MAX_TRIED_S)
