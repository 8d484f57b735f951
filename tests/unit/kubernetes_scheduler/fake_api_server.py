"""A small Kubernetes API server in a thread, at the other end of real connections: the scheduler's
border.

It serves, forgets, fails or hangs, as a test says. Nobody runs its Jobs: pods are what a test puts
there.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cluster_tools.schedulers.kubernetes.manifest import SESSION_LABEL
from cluster_tools.schedulers.kubernetes.pods import INDEX

SESSION = "0a1b2c3d"
TOKEN = f"{SESSION}.0.0.0"
JOB = "call-0a1b2c3d-0-0-0"
NAMESPACE = "research"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
OURS = {JOB: TOKEN}
LEASE_S = 3
# After which the server looks whether who watches is still there.
_POLL_S = 0.05


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    verb: str  # as in a Role
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]
    at: float


@dataclass
class Answer:
    """What comes instead of a well-behaved answer. `times`: how often; None for ever."""

    verb: str
    path: str
    times: int | None
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    # The request is done before; then the connection ends without a word, or nothing comes any
    # more.
    is_done: bool = False
    hangs_up: bool = False
    hangs: bool = False
    # Bytes less than the answer's length says.
    cut: int = 0


def error_status(code: int, message: str) -> dict[str, Any]:
    reason = "AlreadyExists" if "already exists" in message else ""
    return {
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "message": message,
        "reason": reason,
    }


def _by_lower_name(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _HangUp(Exception):
    pass


class FakeApiServer:
    """Jobs that nobody runs; pods and events are what a test puts there."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.namespaces = {NAMESPACE}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.requests: list[Seen] = []
        self.answers: list[Answer] = []
        self.token: str | None = None
        self.page: int | None = None
        self.drops_new_fields = False
        # How long each watch lasts; None: until somebody ends it.
        self.watch_s: float | None = None
        self.watches_break = False
        self.broken_at: list[float] = []
        self.version = 1
        self._log: list[tuple[int, str, dict[str, Any]]] = []
        self._generation = 0
        self.connections: set[socket.socket] = set()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.port = 0
        self.listen()

    # -- what a test does to it --

    def listen(self) -> None:
        """At the same port as before."""
        outer = self

        class Handler(_Handler):
            fake = outer

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="api server", daemon=True
        )
        thread.start()

    def refuse_connections(self) -> None:
        """It is not there any more."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        self.end_watches()
        with self.changed:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self) -> None:
        if self._server is not None:
            self.refuse_connections()

    def answer(self, verb: str, path: str, times: int | None = 1, **how: Any) -> None:
        """The next requests of this verb and path are answered so."""
        with self.changed:
            self.answers.append(Answer(verb, path, times, **how))

    def fail(
        self, verb: str, path: str, status: int, message: str = "no", times: int | None = 1
    ) -> None:
        self.answer(verb, path, times, status=status, body=error_status(status, message))

    def heal(self) -> None:
        with self.changed:
            self.answers.clear()

    def set_status(self, name: str = JOB, **status: Any) -> None:
        with self.changed:
            self.jobs[name]["status"] = status
            self.emit("MODIFIED", self.jobs[name])

    def set_spec(self, name: str = JOB, **spec: Any) -> None:
        with self.changed:
            self.jobs[name]["spec"].update(spec)
            self.emit("MODIFIED", self.jobs[name])

    def delete_job(self, name: str = JOB) -> None:
        with self.changed:
            self.emit("DELETED", self.jobs.pop(name))

    def emit(self, kind: str, item: dict[str, Any]) -> None:
        with self.changed:
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            self._log.append((self.version, kind, json.loads(json.dumps(item))))
            self.changed.notify_all()

    def bookmark(self, version: int) -> None:
        with self.changed:
            self.version = version
            item = {"kind": "Job", "metadata": {"resourceVersion": str(version)}}
            self._log.append((version, "BOOKMARK", item))
            self.changed.notify_all()

    def end_watches(self) -> None:
        with self.changed:
            self._generation += 1
            self.changed.notify_all()

    def seen(self, verb: str, path: str = "") -> list[Seen]:
        with self.changed:
            return [
                request
                for request in self.requests
                if request.verb == verb and path in request.path
            ]

    # -- what it does --

    def take_answer(self, seen: Seen) -> Answer | None:
        with self.changed:
            for answer in self.answers:
                if answer.verb == seen.verb and seen.path.endswith(answer.path):
                    if answer.times is not None:
                        answer.times -= 1
                        if answer.times == 0:
                            self.answers.remove(answer)
                    return answer
        return None

    def do(self, seen: Seen) -> tuple[int, dict[str, Any]]:
        with self.changed:
            if seen.verb == "list":
                return self._list(seen)
            if seen.verb == "create":
                return self._create(seen)
            if seen.path.endswith("/pods"):
                return 200, {"kind": "PodList", "metadata": {}, "items": []}
            name = seen.path.rpartition("/")[2]
            if name not in self.jobs:
                return 404, error_status(404, f'jobs.batch "{name}" not found')
            if seen.verb == "delete":
                self.delete_job(name)
                return 200, {"kind": "Status", "status": "Success", "metadata": {}}
            if seen.verb == "patch":
                self.jobs[name]["spec"].update(seen.body["spec"])
                self.emit("MODIFIED", self.jobs[name])
            return 200, self.jobs[name]

    def _list(self, seen: Seen) -> tuple[int, dict[str, Any]]:
        if seen.path.endswith("/jobs"):
            key, _, value = seen.query.get("labelSelector", "").partition("=")
            items = [
                job
                for job in self.jobs.values()
                if not key or job["metadata"]["labels"].get(key) == value
            ]
        elif seen.path.endswith("/pods"):
            items = [pod for pod in self.pods if pod["status"].get("phase") != "Succeeded"]
        else:
            items = self.events if seen.query["fieldSelector"] == "type=Warning" else []
        metadata = {"resourceVersion": str(self.version)}
        if self.page is not None:
            first = int(seen.query.get("continue", 0))
            if first + self.page < len(items):
                metadata["continue"] = str(first + self.page)
            items = items[first : first + self.page]
        return 200, {"kind": "List", "metadata": metadata, "items": items}

    def _create(self, seen: Seen) -> tuple[int, dict[str, Any]]:
        name = seen.body["metadata"]["name"]
        if seen.path.endswith("/namespaces"):
            self.namespaces.add(name)
            return 201, {"kind": "Namespace", **seen.body}
        namespace = seen.path.split("/")[5]
        if namespace not in self.namespaces:
            return 404, error_status(404, f'namespaces "{namespace}" not found')
        if name in self.jobs:
            return 409, error_status(409, f'jobs.batch "{name}" already exists')
        return 201, self.add_job(seen.body)

    def add_job(self, body: dict[str, Any]) -> dict[str, Any]:
        job: dict[str, Any] = json.loads(json.dumps({"kind": "Job", "status": {}, **body}))
        job["metadata"]["uid"] = f"uid-of-{job['metadata']['name']}"
        if self.drops_new_fields:
            del job["spec"]["backoffLimitPerIndex"], job["spec"]["podReplacementPolicy"]
        self.jobs[job["metadata"]["name"]] = job
        self.emit("ADDED", job)
        return job

    def watch(
        self, seen: Seen, send: Callable[[bytes], object], is_gone: Callable[[], bool]
    ) -> None:
        """Sends events until the watch is to end. Raises: _HangUp."""
        since = int(seen.query["resourceVersion"])
        began = time.monotonic()
        with self.changed:
            generation = self._generation
        while True:
            with self.changed:
                news = [event for event in self._log if event[0] > since]
                if not news:
                    if generation != self._generation:
                        break
                    left = None
                    if self.watch_s is not None:
                        left = self.watch_s - (time.monotonic() - began)
                        if left <= 0:
                            break
                    self.changed.wait(min(left or _POLL_S, _POLL_S))
                    if is_gone():
                        raise _HangUp
                    continue
            for version, kind, item in news:
                since = version
                send(json.dumps({"type": kind, "object": item}).encode() + b"\n")
        if self.watches_break:
            self.broken_at.append(time.monotonic())
            raise _HangUp

    def remember(self, connection: socket.socket) -> None:
        with self.changed:
            self.connections.add(connection)

    def forget(self, connection: socket.socket) -> None:
        with self.changed:
            self.connections.discard(connection)

    def wait_for_end(self) -> None:
        with self.changed:
            generation = self._generation
            self.changed.wait_for(lambda: generation != self._generation)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeApiServer

    def setup(self) -> None:
        super().setup()
        self.fake.remember(self.connection)

    def finish(self) -> None:
        super().finish()
        self.fake.forget(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        try:
            self._answer()
        except (_HangUp, OSError):
            self.close_connection = True
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        is_collection = url.path.rpartition("/")[2] in ("jobs", "pods", "events", "namespaces")
        verb = {
            "GET": "watch" if "watch" in query else "list" if is_collection else "get",
            "POST": "create",
            "PATCH": "patch",
            "DELETE": "deletecollection" if is_collection else "delete",
        }[self.command]
        seen = Seen(verb, url.path, query, body, _by_lower_name(self.headers), time.monotonic())
        with self.fake.changed:
            self.fake.requests.append(seen)
        if self.fake.token not in (None, self.headers.get("Authorization", "")[len("Bearer ") :]):
            self._send(401, error_status(401, "Unauthorized"))
            return
        answer = self.fake.take_answer(seen)
        if answer is None:
            if verb == "watch":
                self._watch(seen)
            else:
                self._send(*self.fake.do(seen))
            return
        if answer.is_done:
            self.fake.do(seen)
        if answer.hangs:
            self.fake.wait_for_end()
        if answer.hangs or answer.hangs_up:
            raise _HangUp
        if answer.body is None:
            status, what = self.fake.do(seen)
            self._send(status, what, answer.headers, answer.cut)
        else:
            self._send(answer.status, answer.body, answer.headers, answer.cut)

    def _send(
        self, status: int, body: Any, headers: dict[str, str] | None = None, cut: int = 0
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in {**usual, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) - cut])
        if cut:
            raise _HangUp

    def _is_gone(self) -> bool:
        """Whether the client has closed its side."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def _watch(self, seen: Seen) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.fake.watch(
            seen,
            lambda line: self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line)),
            self._is_gone,
        )
        self.wfile.write(b"0\r\n\r\n")


def configure(path: Path, port: int, token: str = "first") -> None:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "me", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me"}}],
            }
        )
    )


def pod(index: int, name: str = "", status: dict[str, Any] | None = None, **metadata: Any) -> Any:
    name = name or f"{JOB}-{index}-x"
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "creationTimestamp": "2025-06-01T12:00:00Z",
            "labels": {"job-name": JOB, SESSION_LABEL: SESSION},
            "annotations": {INDEX: str(index)},
            **metadata,
        },
        "spec": {"nodeName": "node-1"},
        "status": status or {},
    }


def running() -> dict[str, Any]:
    return {
        "phase": "Running",
        "containerStatuses": [{"name": "worker", "state": {"running": {}}}],
    }


def failed(code: int) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": "Error"}}
    return {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": state}]}


def waiting_for(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "worker", "state": state}]}
