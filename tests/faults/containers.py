"""What happens to containers, by the Docker Engine API: tests run in one that has only docker's
socket.

https://docs.docker.com/reference/api/engine/
"""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

_SOCKET = "/var/run/docker.sock"
_LIMIT_S = 30.0  # for one request
_STOP_GRACE_S = 5  # which a container has for its end

_NOT_MODIFIED = 304  # it is as it should be already


class DockerError(Exception):
    """Docker did not do what it was asked."""


@dataclass(frozen=True)
class Address:
    """Where a container is to be found on its network, once it is connected."""

    network: str
    ip: str


class _Connection(http.client.HTTPConnection):
    def __init__(self) -> None:
        super().__init__("docker", timeout=_LIMIT_S)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_LIMIT_S)
        self.sock.connect(_SOCKET)


def _request(method: str, path: str, body: object = None, **query: object) -> Any:
    """Docker's answer. Raises: DockerError, OSError."""
    connection = _Connection()
    try:
        connection.request(
            method,
            f"{path}?{urlencode(query)}",
            None if body is None else json.dumps(body),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status >= 400:
        raise DockerError(f"{method} {path}: {response.status} {text.strip()}")
    return json.loads(text) if text and response.status != _NOT_MODIFIED else None


def _do(name: str, action: str, **query: object) -> None:
    _request("POST", f"/containers/{quote(name)}/{action}", **query)


def _inspect(name: str) -> Any:
    return _request("GET", f"/containers/{quote(name)}/json")


def is_running(name: str) -> bool:
    """Whether it has been started and has not ended; a paused one counts."""
    return bool(_inspect(name)["State"]["Running"])


def is_paused(name: str) -> bool:
    return bool(_inspect(name)["State"]["Paused"])


def address(name: str) -> Address | None:
    """None while it is connected to no network."""
    for network, endpoint in _inspect(name)["NetworkSettings"]["Networks"].items():
        asked_for: dict[str, str] = endpoint["IPAMConfig"] or {}
        return Address(network, asked_for.get("IPv4Address", ""))
    return None


def kill(name: str) -> None:
    """As a power cut does."""
    _do(name, "kill")


def stop(name: str) -> None:
    """As a shutdown does: with a signal first."""
    _do(name, "stop", t=_STOP_GRACE_S)


def start(name: str) -> None:
    _do(name, "start")


def pause(name: str) -> None:
    _do(name, "pause")


def unpause(name: str) -> None:
    _do(name, "unpause")


def disconnect(name: str) -> Address:
    """Cuts it off its network: it goes on running. Returns what `connect` needs."""
    where = address(name)
    if where is None:
        raise DockerError(f"{name} is on no network")
    _request(
        "POST", f"/networks/{quote(where.network)}/disconnect", {"Container": name, "Force": True}
    )
    return where


def connect(name: str, where: Address) -> None:
    endpoint = {"IPAMConfig": {"IPv4Address": where.ip}} if where.ip else {}
    _request(
        "POST",
        f"/networks/{quote(where.network)}/connect",
        {"Container": name, "EndpointConfig": endpoint},
    )
