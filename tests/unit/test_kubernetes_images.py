"""Promises on what the words of container runtimes mean for an image that was not pulled."""

from __future__ import annotations

import pytest

from cluster_tools.schedulers.kubernetes.images import (
    PullFailure,
    pull_failure,
    seconds_unreachable,
)

_PULL = 'failed to pull and unpack image "r.example/not-found/denied:1": '
_RESOLVE = f'{_PULL}failed to resolve reference "r.example/not-found/denied:1": '
_TRANSFER = 'failed to pull and unpack image "r.example/a:1": failed to resolve image: '
_HEAD = "unexpected status from HEAD request to https://r.example:403/v2/a/manifests/1: "
_HOST = "pulling from host r.example failed with status code [manifests 1]: "
_REQUEST = 'failed to do request: Head "https://r.example/v2/a/manifests/1": '
_ACCESS = "pull access denied, repository does not exist or may require authorization: "
_TOKEN = "failed to authorize: failed to fetch anonymous token: "
_NODE = "rpc error: code = NotFound desc = "


@pytest.mark.parametrize(
    "words",
    [
        f"{_NODE}{_RESOLVE}r.example/a:1: not found",
        f'Back-off pulling image "r.example/a:1": ErrImagePull: {_NODE}{_RESOLVE}r.example/a:1: not found',
        f"{_NODE}{_TRANSFER}r.example/a:1: not found",
        f"[{_NODE}{_RESOLVE}r.example/a:1: not found, {_NODE}{_RESOLVE}r.example/a:1: not found]",
        f"{_NODE}{_PULL}no match for platform in manifest: not found",
        f"{_NODE}{_RESOLVE}r.example/timeout/eof:1: not found",
        "reading manifest 1 in r.example/a: manifest unknown",
        "reading manifest timeout in r.example/toomanyrequests/timeout: manifest unknown",
        "Error response from daemon: manifest for r.example/a:1 not found: manifest unknown",
    ],
)
def test_what_a_registry_does_not_have_is_not_found(words: str) -> None:
    assert pull_failure(words) is PullFailure.NOT_FOUND


@pytest.mark.parametrize(
    "words",
    [
        f"{_RESOLVE}{_HOST}401 Unauthorized",
        f"{_RESOLVE}{_HOST}403 Forbidden",
        f"{_RESOLVE}{_HEAD}403 Forbidden",
        f"{_RESOLVE}{_HEAD}403 Forbidden\ndenied: requested access",
        f"{_RESOLVE}{_TOKEN}unexpected status: 401 Unauthorized",
        f"{_RESOLVE}{_TOKEN}unexpected status from GET request to https://r.example/token: 403 Forbidden",
        f"{_RESOLVE}{_ACCESS}server message: insufficient_scope: authorization failed",
        f"{_RESOLVE}{_ACCESS}authorization failed: no basic auth credentials",
        "reading manifest 1 in r.example/a: unauthorized: access to the requested resource is not authorized",
        "initializing source docker://r.example/a:1: Requesting bearer token: invalid status code from "
        "registry 403: StatusCode: 403, denied",
        "Error response from daemon: pull access denied for a, repository does not exist or may require "
        "'docker login': denied: requested access to the resource is denied",
    ],
)
def test_what_a_registry_does_not_let_anyone_read_is_denied(words: str) -> None:
    assert pull_failure(words) is PullFailure.DENIED


@pytest.mark.parametrize(
    "words",
    [
        "",
        "something new",
        f"{_RESOLVE}{_HOST}429 Too Many Requests",
        f"{_RESOLVE}{_HOST}500 Internal Server Error",
        f"{_RESOLVE}{_HEAD}503 Service Unavailable",
        f"{_RESOLVE}{_TOKEN}unexpected status: 404 Not Found",
        f"{_RESOLVE}{_TOKEN}unexpected status: 502 Bad Gateway",
        f"{_RESOLVE}{_REQUEST}dial tcp 127.0.0.1:5999: connect: connection refused",
        f"{_RESOLVE}{_REQUEST}dial tcp: lookup r.example on 10.0.0.10:53: no such host",
        f"{_RESOLVE}{_REQUEST}dial tcp 10.1.1.1:443: i/o timeout",
        f"{_RESOLVE}{_REQUEST}proxyconnect tcp: Forbidden",
        f"{_RESOLVE}{_REQUEST}tls: failed to verify certificate: x509: certificate signed by unknown authority",
        f"{_RESOLVE}{_REQUEST}context canceled",
        # The node's own disk, and credentials that it could not ask for.
        f"{_NODE}{_PULL}failed to extract layer sha256:0: parent snapshot sha256:1 does not exist: not found",
        f'{_RESOLVE}exec: "docker-credential-x": executable file not found in $PATH',
        # One of two logins says nothing against the other.
        f"[{_RESOLVE}{_HOST}403 Forbidden, {_RESOLVE}{_REQUEST}connect: connection refused]",
        f"{_RESOLVE}{_REQUEST}net/http: TLS handshake timeout",
        f"{_RESOLVE}{_REQUEST}net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
        f"{_RESOLVE}{_REQUEST}EOF",
        "toomanyrequests: You have reached your unauthenticated pull rate limit.",
    ],
)
def test_all_else_is_a_registry_that_could_not_be_reached(words: str) -> None:
    assert pull_failure(words) is PullFailure.UNREACHABLE


def test_a_node_that_pulls_others_first_is_no_failure_of_the_registry() -> None:
    assert pull_failure("pull QPS exceeded") is PullFailure.THROTTLED


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"{_RESOLVE}{_REQUEST}context canceled", 300),
        (f"{_RESOLVE}{_REQUEST}dial tcp 10.1.1.1:443: i/o timeout", 60),
        # It was brought for 300 s, and will be brought further.
        (f"{_PULL}failed to copy: httpReadSeeker: failed open: unexpected EOF", 0),
    ],
)
def test_only_a_pull_that_never_began_was_in_vain(words: str, expected: float) -> None:
    assert seconds_unreachable(words, 300) == expected
