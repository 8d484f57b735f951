"""Promises of the Kubernetes scheduler, its watch and its requests on servers that fail, forget or hang: a
small API server in a thread, at the other end of real connections.
"""

from __future__ import annotations

import http.server
import json
import logging
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from support.waiting import wait_until

from cluster_tools.schedulers.base import (
    ArrayRequest,
    Cause,
    Element,
    Options,
    Refused,
    Report,
    State,
    Unreachable,
)
from cluster_tools.schedulers.kubernetes.api import (
    ApiError,
    ApiServer,
    CredentialsExpired,
    Forbidden,
    Gone,
    retry_after_s,
)
from cluster_tools.schedulers.kubernetes.manifest import SESSION_LABEL, parse_resources
from cluster_tools.schedulers.kubernetes.pods import INDEX
from cluster_tools.schedulers.kubernetes.scheduler import KubernetesScheduler, _indexes

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


# -- a small API server --


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
    # The request is done before; then the connection ends without a word, or nothing comes any more.
    is_done: bool = False
    hangs_up: bool = False
    hangs: bool = False
    # Bytes less than the answer's length says.
    cut: int = 0


def _status(code: int, message: str) -> dict[str, Any]:
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
        self.answer(verb, path, times, status=status, body=_status(status, message))

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
                return 404, _status(404, f'jobs.batch "{name}" not found')
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
            return 404, _status(404, f'namespaces "{namespace}" not found')
        if name in self.jobs:
            return 409, _status(409, f'jobs.batch "{name}" already exists')
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
            self._send(401, _status(401, "Unauthorized"))
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


# -- what tests begin with --


def _configure(path: Path, port: int, token: str = "first") -> None:
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


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return path


@pytest.fixture
def server(kubeconfig: Path) -> Iterator[FakeApiServer]:
    server = FakeApiServer()
    _configure(kubeconfig, server.port)
    yield server
    server.close()


Make = Callable[..., KubernetesScheduler]


@pytest.fixture
def make(server: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes schedulers, and closes them."""
    made: list[KubernetesScheduler] = []

    def make(**job_resources: Any) -> KubernetesScheduler:
        given = {"image": "image", "namespace": NAMESPACE, **job_resources}
        options = Options(job_resources=given, log_directory=str(tmp_path))
        scheduler = KubernetesScheduler(options, parse_resources(given))
        made.append(scheduler)
        return scheduler

    yield make
    # Processes that go on deleting Jobs have nothing to go on with.
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    for scheduler in made:
        scheduler.close()


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., ArrayRequest]:
    run_directory = tmp_path / "run"
    run_directory.mkdir()

    def request_of(
        count: int = 3, *, is_array: bool = True, token: str = TOKEN, name: str = "call"
    ) -> ArrayRequest:
        return ArrayRequest(
            name, token, count, is_array, ["python", "-c", ""], str(tmp_path), str(run_directory)
        )

    return request_of


RequestOf = Callable[..., ArrayRequest]


@pytest.fixture
def api(server: FakeApiServer) -> Iterator[ApiServer]:
    api = ApiServer()
    yield api
    api.close()


def _pod(index: int, name: str = "", status: dict[str, Any] | None = None, **metadata: Any) -> Any:
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


def _running() -> dict[str, Any]:
    return {
        "phase": "Running",
        "containerStatuses": [{"name": "worker", "state": {"running": {}}}],
    }


def _failed(code: int) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": "Error"}}
    return {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": state}]}


def _waiting_for(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "worker", "state": state}]}


def _state_of(scheduler: KubernetesScheduler, element: Element) -> Report | None:
    """As the core reads it: what is not mentioned is as the Job."""
    reports = scheduler.states(OURS)
    return reports.get(element, reports.get(Element(element.job_id)))


def _wait_for_state(scheduler: KubernetesScheduler, element: Element, state: State) -> Report:
    found: list[Report] = []

    def is_so() -> bool:
        report = _state_of(scheduler, element)
        if report is not None and report.state is state:
            found.append(report)
        return bool(found)

    wait_until(is_so, f"{element} to be {state}")
    return found[0]


def _is_unreachable(scheduler: KubernetesScheduler) -> bool:
    try:
        scheduler.states(OURS)
    except Unreachable:
        return True
    return False


def _looked(server: FakeApiServer) -> int:
    """How often the pods were asked for."""
    return len(server.seen("list", "/pods"))


def _own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cluster_tools")]


# -- requests --


def test_without_a_configuration_the_error_says_where_it_was_looked_for(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="configuration"):
        ApiServer()
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(kubeconfig.parent))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(RuntimeError, match=r"neither KUBECONFIG nor ~/\.kube/config"):
        ApiServer()


def test_a_context_that_is_not_there_is_a_runtime_error(server: FakeApiServer) -> None:
    with pytest.raises(RuntimeError, match="nowhere"):
        ApiServer("nowhere")


def test_a_list_is_read_page_by_page(server: FakeApiServer, api: ApiServer) -> None:
    server.pods = [_pod(index) for index in range(5)]
    server.page = 2
    items, version = api.list(PODS, labelSelector="a=b")
    assert items == server.pods
    assert version == "1"
    assert [seen.query.get("continue") for seen in server.seen("list")] == [None, "2", "4"]
    assert all(seen.query["labelSelector"] == "a=b" for seen in server.seen("list"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_passes_is_unreachable_and_asked_for_once(
    server: FakeApiServer, api: ApiServer, status: int
) -> None:
    server.fail("list", "/pods", status, "too many requests, or so")
    with pytest.raises(Unreachable, match=f"{status} too many requests"):
        api.list(PODS)
    assert len(server.requests) == 1
    assert api.list(PODS)[0] == []


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Forbidden), (410, Gone), (400, ApiError), (422, ApiError)]
)
def test_an_answer_that_stays_is_an_error_with_the_servers_words(
    server: FakeApiServer, api: ApiServer, status: int, kind: type[ApiError]
) -> None:
    server.fail("list", "/pods", status, 'pods is "forbidden"')
    with pytest.raises(kind) as caught:
        api.list(PODS)
    assert (str(caught.value), caught.value.status) == ('pods is "forbidden"', status)


def test_the_page_of_a_proxy_is_no_end(server: FakeApiServer, api: ApiServer) -> None:
    server.answer("list", "/pods", status=502, body=b"<html>Bad Gateway</html>")
    with pytest.raises(Unreachable, match="Bad Gateway"):
        api.list(PODS)
    server.answer("list", "/pods", status=200, body=b"<html>Please log in</html>")
    with pytest.raises(Unreachable):
        api.list(PODS)


@pytest.mark.parametrize("body", [{}, [], None, 7, {"items": None}, {"kind": "List"}])
def test_json_that_is_no_kubernetes_is_said(
    server: FakeApiServer, api: ApiServer, body: object
) -> None:
    """It may come from a login page or a proxy."""
    text = json.dumps(body).encode()
    for verb in ("list", "get", "create", "delete"):
        server.answer(verb, "", body=text)
    for ask in (
        lambda: api.list(PODS),
        lambda: api.get(f"{JOBS}/it"),
        lambda: api.create(JOBS, {}),
        lambda: api.delete(f"{JOBS}/it"),
    ):
        with pytest.raises(Unreachable, match="no API server of Kubernetes") as caught:
            ask()
        assert text.decode() in str(caught.value)


def test_a_busy_servers_plain_words_are_kubernetes(server: FakeApiServer, api: ApiServer) -> None:
    body = b"Too many requests, please try again later.\n"
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    server.answer("list", "/pods", status=429, body=body, headers=headers)
    with pytest.raises(Unreachable, match=r"429 Too many requests, please try again later\.$"):
        api.list(PODS)


def test_a_list_from_which_no_watch_can_go_on_is_no_answer(
    server: FakeApiServer, api: ApiServer
) -> None:
    server.answer("list", "/pods", body={"kind": "List", "metadata": {}, "items": None})
    with pytest.raises(Unreachable, match="resourceVersion"):
        api.list(PODS)


@pytest.mark.parametrize("body", [b"{}", b"[]\n", b'{"type": "ADDED"}\n', b"7\n", b"<html>"])
def test_a_watch_that_is_no_kubernetes_is_said(
    server: FakeApiServer, api: ApiServer, body: bytes
) -> None:
    headers = {"Content-Type": "text/html"} if body == b"<html>" else {}
    server.answer("watch", "/jobs", body=body, headers=headers)
    with pytest.raises(Unreachable, match="no API server of Kubernetes"):
        list(api.watch(JOBS, timeout_s=1.0, resourceVersion="1"))


def test_an_event_that_is_cut_short_is_no_end(server: FakeApiServer, api: ApiServer) -> None:
    server.answer("watch", "/jobs", body=b'{"type": "ADDED", "obj')
    with pytest.raises(Unreachable, match="broke off"):
        list(api.watch(JOBS, timeout_s=1.0, resourceVersion="1"))


def test_an_answer_that_is_cut_short_is_unreachable(server: FakeApiServer, api: ApiServer) -> None:
    server.answer("list", "/pods", cut=7)
    with pytest.raises(Unreachable, match="cut short"):
        api.list(PODS)
    server.answer("list", "/pods", hangs_up=True)
    with pytest.raises(Unreachable):
        api.list(PODS)
    assert len(server.requests) == 2
    assert api.list(PODS)[0] == []


def test_a_server_that_is_not_there_is_unreachable(server: FakeApiServer, api: ApiServer) -> None:
    server.refuse_connections()
    with pytest.raises(Unreachable, match=f"{server.port}"):
        api.get(PODS)


def test_a_delete_that_hangs_takes_no_longer_than_it_may(
    server: FakeApiServer, api: ApiServer
) -> None:
    server.answer("delete", "/it", times=None, hangs=True)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        api.delete(f"{JOBS}/it", timeout_s=0.5)
    assert 0.4 < time.monotonic() - began < 3
    assert len(server.requests) == 1


def test_to_delete_what_is_not_there_is_no_error(server: FakeApiServer, api: ApiServer) -> None:
    api.delete(f"{JOBS}/nothing")
    server.fail("delete", "/nothing", 403)
    with pytest.raises(Forbidden):
        api.delete(f"{JOBS}/nothing")


def test_the_servers_warnings_are_logged(
    server: FakeApiServer, api: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    words = "would violate PodSecurity: host path volumes"
    server.answer("list", "/pods", headers={"Warning": f'299 - "{words}"'})
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        api.list(PODS)
    assert words in caplog.text


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("9" * 5000, 300),
        ("Sun, 01 Jun 2025 12:00:20 GMT", 20),
        ("Sunday, 01-Jun-25 12:00:20 GMT", 20),
        ("Sun Jun  1 12:00:20 2025", 20),
        ("Sun, 01 Jun 2025 14:00:20 +0200", 20),
        ("Mon, 02 Jun 2025 12:00:00 GMT", 300),
        ("Sun, 01 Jun 2025 11:00:00 GMT", 0),
        ("", None),
        ("-3", None),
        ("1.5", None),
        ("\u00b2", None),
        ("soon", None),
        ("Sun, 99 Jun 2025 12:00:20 GMT", None),
        ("Sun, 01 Jun 2025 12:00:20 +9999", None),
    ],
)
def test_a_time_to_wait_is_seconds_or_a_date_by_the_servers_clock(
    text: str, wait_s: float | None
) -> None:
    headers = {"Retry-After": text, "Date": "Sun, 01 Jun 2025 12:00:00 GMT"}
    assert retry_after_s(headers) == wait_s


def test_a_date_before_which_to_ask_nothing_is_kept_to(
    server: FakeApiServer, api: ApiServer
) -> None:
    until = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    headers = {"Retry-After": until}
    server.answer("list", "/pods", status=503, body=_status(503, "busy"), headers=headers)
    with pytest.raises(Unreachable, match="busy"):
        api.list(PODS)
    with pytest.raises(Unreachable, match="asked to wait for"):
        api.list(PODS)
    assert len(server.requests) == 1


def test_credentials_that_have_expired_are_read_anew(
    server: FakeApiServer, api: ApiServer, kubeconfig: Path
) -> None:
    server.token = "second"
    _configure(kubeconfig, server.port, "second")
    assert api.list(PODS)[0] == []
    sent = [seen.headers["authorization"] for seen in server.requests]
    assert sent == ["Bearer first", "Bearer second"]
    api.list(PODS)
    assert len(server.requests) == 3


def test_credentials_that_stay_unknown_have_expired(
    server: FakeApiServer, api: ApiServer, kubeconfig: Path
) -> None:
    server.token = "second"
    with pytest.raises(CredentialsExpired, match="credentials expired"):
        api.list(PODS)
    assert len(server.requests) == 2
    kubeconfig.unlink()
    with pytest.raises(CredentialsExpired, match="credentials expired"):
        api.list(PODS)


# -- submission --


def test_an_array_is_one_job(
    server: FakeApiServer, make: Make, request_of: RequestOf, tmp_path: Path
) -> None:
    assert make().submit(request_of(3)) == JOB
    (created,) = server.seen("create")
    assert created.path == JOBS
    assert created.body["metadata"]["name"] == JOB
    assert created.body["metadata"]["labels"] == {SESSION_LABEL: SESSION}
    assert created.body["spec"]["completions"] == 3
    (watched,) = server.seen("watch")
    assert watched.query["labelSelector"] == f"{SESSION_LABEL}={SESSION}"
    assert watched.query["allowWatchBookmarks"] == "true"


def test_the_clients_environment_is_a_file_that_only_it_reads(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "it's")
    request = request_of()
    scheduler = make()
    scheduler.submit(request)
    files = set(Path(request.run_directory).iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    (path,) = (p for p in files if b"export SECRET='it'\"'\"'s'\n" in p.read_bytes())
    (created,) = server.seen("create")
    assert "it's" not in json.dumps(created.body)
    assert str(path) in created.body["spec"]["template"]["spec"]["containers"][0]["command"][2]
    (script,) = files - {path}
    scheduler.submit(request_of(token=f"{SESSION}.1.0.0"))
    assert set(Path(request.run_directory).iterdir()) == files
    scheduler.forget(JOB)
    assert not script.exists()


def test_an_answer_that_was_lost_makes_no_second_job(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    server.answer("create", "/jobs", is_done=True, hangs_up=True)
    with pytest.raises(Unreachable):
        scheduler.submit(request_of())
    assert list(server.jobs) == [JOB]
    assert scheduler.find(TOKEN) == JOB
    assert scheduler.submit(request_of()) == JOB
    assert list(server.jobs) == [JOB]
    server.set_status(active=3, ready=3)
    _wait_for_state(scheduler, Element(JOB, 2), State.RUNNING)


def test_an_array_that_did_not_arrive_is_not_found(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    assert scheduler.find(TOKEN) is None
    server.answer("create", "/jobs", hangs_up=True)
    with pytest.raises(Unreachable):
        scheduler.submit(request_of())
    assert scheduler.find(TOKEN) is None
    server.fail("get", f"/{JOB}", 503)
    with pytest.raises(Unreachable):
        scheduler.find(TOKEN)
    server.fail("get", f"/{JOB}", 403)
    with pytest.raises(Unreachable):
        scheduler.find(TOKEN)


def test_somebody_elses_job_of_that_name_is_a_refusal(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    theirs: dict[str, Any] = {
        "metadata": {"name": JOB, "labels": {SESSION_LABEL: "another"}},
        "spec": {},
    }
    server.add_job(theirs)
    with pytest.raises(Refused, match=f"Kubernetes says: .*{JOB}.* already exists"):
        make().submit(request_of())
    assert server.jobs[JOB]["metadata"]["labels"] == {SESSION_LABEL: "another"}


def test_who_may_not_create_jobs_is_told_so_and_what_is_needed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    words = f'jobs.batch is forbidden: User "me" cannot create resource "jobs" in "{NAMESPACE}"'
    server.fail("create", "/jobs", 403, words)
    with pytest.raises(Refused, match=re.escape(f"Kubernetes says: {words}.") + ".*README"):
        make().submit(request_of())


def test_who_may_not_watch_jobs_is_told_so_before_any_is_created(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    words = 'jobs.batch is forbidden: User "me" cannot list resource "jobs"'
    server.fail("list", "/jobs", 403, words, times=None)
    with pytest.raises(Refused, match="cannot list resource"):
        make().submit(request_of())
    assert server.seen("create") == []


def test_what_admission_refuses_is_a_refusal_without_advice_on_roles(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.fail("create", "/jobs", 422, 'Job.batch "x" is invalid: spec.template: Required')
    with pytest.raises(Refused, match="is invalid") as caught:
        make().submit(request_of())
    assert "README" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "exceeded quota: few, requested: count/jobs.batch=1"), (429, "slow"), (503, "not yet")],
)
def test_what_may_pass_is_worth_another_try(
    server: FakeApiServer, make: Make, request_of: RequestOf, status: int, words: str
) -> None:
    scheduler = make()
    server.fail("create", "/jobs", status, words)
    with pytest.raises(Unreachable, match=words[:8]):
        scheduler.submit(request_of())
    assert scheduler.submit(request_of()) == JOB


def test_a_namespace_that_is_not_there_is_made(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.namespaces.clear()
    assert make().submit(request_of()) == JOB
    assert server.namespaces == {NAMESPACE}
    assert [seen.path for seen in server.seen("create")] == [JOBS, "/api/v1/namespaces", JOBS]


def test_a_namespace_that_somebody_else_makes_meanwhile_will_do(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.fail("create", "/jobs", 404, f'namespaces "{NAMESPACE}" not found')
    server.fail("create", "/namespaces", 409, "already exists")
    assert make().submit(request_of()) == JOB


def test_who_may_not_make_the_namespace_is_told_so(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.namespaces.clear()
    server.fail("create", "/namespaces", 403, 'User "me" cannot create resource "namespaces"')
    with pytest.raises(Refused, match='cannot create resource "namespaces"'):
        make().submit(request_of())


def test_many_elements_are_advised_to_be_batched(
    make: Make, request_of: RequestOf, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make()
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        scheduler.submit(request_of(1001))
    assert "batching" in caplog.text
    assert scheduler.max_array_size() == 100_000
    assert scheduler.max_submitted() is None


# -- states --


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("", []),
        ("0", [0]),
        ("1,3-5,7", [1, 3, 4, 5, 7]),
        ("0-2", [0, 1, 2]),
        ("8,10-10", [8, 10]),
    ],
)
def test_indexes_are_read_as_a_status_writes_them(text: str | None, expected: list[int]) -> None:
    assert list(_indexes(text)) == expected


def test_states_follow_the_events_of_the_job(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(9))
    assert scheduler.states(OURS)[Element(JOB)].state is State.PENDING
    server.set_status(active=9, ready=0)
    assert scheduler.states(OURS)[Element(JOB)].state is State.PENDING
    server.set_status(active=9, ready=4)
    _wait_for_state(scheduler, Element(JOB, 8), State.RUNNING)
    server.set_status(
        active=4, ready=4, succeeded=4, failed=1, completedIndexes="0,2-4", failedIndexes="6"
    )
    _wait_for_state(scheduler, Element(JOB, 6), State.ENDED)
    reports = scheduler.states(OURS)
    ended = {element for element, report in reports.items() if report.state is State.ENDED}
    assert ended == {Element(JOB, index) for index in (0, 2, 3, 4, 6)}
    assert reports[Element(JOB)].state is State.RUNNING


def test_a_single_call_is_an_element_without_index(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(1, is_array=False))
    server.set_status(active=1, ready=1)
    _wait_for_state(scheduler, Element(JOB), State.RUNNING)
    server.set_status(failed=1, failedIndexes="0")
    _wait_for_state(scheduler, Element(JOB), State.ENDED)
    assert list(scheduler.states(OURS)) == [Element(JOB)]


def test_what_is_not_known_is_not_mentioned(make: Make, request_of: RequestOf) -> None:
    scheduler = make()
    assert scheduler.states(OURS) == {}
    scheduler.submit(request_of())
    assert scheduler.states({"another": TOKEN}) == {}


def test_a_suspended_job_waits_and_says_so(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.set_spec(suspend=True)
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].reason == "Suspended")
    report = scheduler.states(OURS)[Element(JOB)]
    assert (report.state, report.notable, report.hopeless) == (State.PENDING, True, "")


def test_the_elements_of_a_job_that_was_deleted_have_ended(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.delete_job()
    report = _wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    ended = scheduler.explain({Element(JOB, 1): report}, OURS)[Element(JOB, 1)]
    assert ended.cause is Cause.CANCELLED
    assert "deleted by somebody else" in ended.message


def test_a_failed_index_whose_pod_is_ending_still_runs(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(1, is_array=False))
    server.pods = [_pod(0, status=_running(), deletionTimestamp="2025-06-01T12:00:10Z")]
    server.set_status(active=0, failed=1, failedIndexes="0")
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].word == "Terminating")
    assert scheduler.states(OURS)[Element(JOB)].state is State.RUNNING
    server.pods = []
    report = _wait_for_state(scheduler, Element(JOB), State.ENDED)
    ended = scheduler.explain({Element(JOB): report}, OURS)[Element(JOB)]
    assert (ended.cause, ended.may_go_in_again) == (Cause.CANCELLED, True)


def test_a_pod_of_a_lost_node_that_has_not_said_that_it_began_is_never_left_out(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(1, is_array=False))
    status = _waiting_for("ContainerCreating", "")
    server.pods = [_pod(0, status=status, deletionTimestamp="2025-06-01T12:00:10Z")]
    server.set_status(active=0, terminating=1)
    reports: list[Report | None] = []

    def is_seen() -> bool:
        reports.append(_state_of(scheduler, Element(JOB)))
        return reports[-1] is not None and reports[-1].word == "Terminating"

    wait_until(is_seen)
    assert None not in reports
    assert reports[-1] is not None
    assert reports[-1].state is State.RUNNING


def test_a_look_at_pods_that_failed_is_made_up_for(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    """A failed index whose pod is ending must not pass for ended since the server was busy once."""
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [_pod(0, status=_running(), deletionTimestamp="2025-06-01T12:00:10Z")]
    server.fail("list", "/pods", 503)
    server.set_status(active=2, ready=2, failed=1, failedIndexes="0")
    wait_until(lambda: _is_unreachable(scheduler))
    report = _state_of(scheduler, Element(JOB, 0))
    assert report is not None
    assert report.state is State.RUNNING


def test_who_may_not_list_pods_is_told_so_once_and_gets_states_all_the_same(
    server: FakeApiServer, make: Make, request_of: RequestOf, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.fail("list", "/pods", 403, 'User "me" cannot list resource "pods"', times=None)
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        for failed in (1, 2):
            server.set_status(failed=failed, failedIndexes="0,1"[: 2 * failed - 1])
            _wait_for_state(scheduler, Element(JOB, failed - 1), State.ENDED)
    assert caplog.text.count("cannot list resource") == 1


# -- sidecars --


def _outlived(phase: str = "Running", **mesh: Any) -> dict[str, Any]:
    """The call was killed, and the container `mesh` is in another state."""
    ended = {"terminated": {"exitCode": 137, "reason": "Error"}}
    beside = [{"name": "worker", "state": ended}, {"name": "mesh", "state": mesh}]
    return {"phase": phase, "containerStatuses": beside}


_NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (_outlived(running={}), "'mesh' goes on"),
        (_outlived("Pending", **_NO_IMAGE), "'mesh' does not begin (ImagePullBackOff: not found)"),
        (_outlived("Pending", waiting={"reason": "ContainerCreating"}), "'mesh' goes on"),
    ],
)
def test_a_call_has_ended_though_a_container_stays_beside_it(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    caplog: pytest.LogCaptureFixture,
    status: dict[str, Any],
    words: str,
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [_pod(0, status=_running()), _pod(1, status=status)]
    server.set_status(active=3, ready=1)
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        report = _wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    (deleted,) = server.seen("deletecollection", PODS)
    assert deleted.query["labelSelector"] == f"job-name={JOB},{INDEX} in (1)"
    assert caplog.text.count(words) == 1
    assert "they are deleted" in caplog.text
    # The call has ended as it did, although now its pod is killed.
    server.pods = [_pod(1, status=_failed(1))]
    server.set_status(active=2, failed=1, failedIndexes="1")
    _wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    ended = scheduler.explain({Element(JOB, 1): report}, OURS)[Element(JOB, 1)]
    assert "signal 9" in ended.message


def test_a_call_that_runs_is_not_ended_since_a_container_beside_it_does_not_begin(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at more often."""
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.scheduler._STUCK_LOOK_S", 0.5)
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of(1, is_array=False))
    status = _outlived("Pending", **_NO_IMAGE)
    status["containerStatuses"][0]["state"] = {"running": {}}
    server.pods = [_pod(0, status=status)]
    server.set_status(active=1, ready=0)
    states: set[State] = set()

    def is_looked_at_often() -> bool:
        states.update(report.state for report in scheduler.states(OURS).values())
        return _looked(server) >= 5

    wait_until(is_looked_at_often)
    looks = [seen.at for seen in server.seen("list", "/pods")]
    assert looks[4] - looks[0] < 8
    assert State.ENDED not in states
    assert server.seen("deletecollection") == []


@pytest.mark.parametrize("is_old", [False, True])
def test_that_pods_stay_in_which_calls_have_ended_is_said_once(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    caplog: pytest.LogCaptureFixture,
    is_old: bool,
) -> None:
    """Either the Role forbids to delete them, or an old server would replace them."""
    server.drops_new_fields = is_old
    refusal = 'User "me" cannot deletecollection resource "pods"'
    server.fail("deletecollection", "/pods", 403, refusal, times=None)
    scheduler = make()
    scheduler.submit(request_of())
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        for count in (1, 2):
            server.pods = [_pod(index, status=_outlived(running={})) for index in range(count)]
            server.set_status(active=3, ready=3 - count)
            _wait_for_state(scheduler, Element(JOB, count - 1), State.ENDED)
    assert caplog.text.count("they stay") == 1
    words = "would put others" if is_old else refusal
    assert words in caplog.text
    assert len(server.seen("deletecollection")) == (0 if is_old else 2)


# -- endings --


def test_why_an_element_ended_is_what_its_pod_says(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [_pod(0, status=_failed(3)), _pod(1, status=_failed(137))]
    elements = {Element(JOB, 0): None, Element(JOB, 1): None}
    endings = scheduler.explain(elements, OURS)
    assert endings[Element(JOB, 0)].exit_code == 3
    assert "signal 9" in endings[Element(JOB, 1)].message
    assert _looked(server) == 1


def test_why_elements_ended_is_said_even_where_the_server_is_gone(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.refuse_connections()
    elements = {Element(JOB, 0): None, Element("another"): None}
    endings = scheduler.explain(elements, OURS)
    assert set(endings) == set(elements)
    assert endings[Element("another")].cause is Cause.LOST


@pytest.mark.parametrize("is_leased", [True, False])
def test_a_job_that_failed_as_a_whole_ends_all_its_elements(
    server: FakeApiServer, make: Make, request_of: RequestOf, is_leased: bool
) -> None:
    scheduler = make(client_lease_s=900 if is_leased else None)
    scheduler.submit(request_of())
    condition = {
        "type": "FailureTarget",
        "status": "True",
        "reason": "DeadlineExceeded",
        "message": "Job was active longer than specified deadline",
    }
    server.set_status(conditions=[condition])
    report = _wait_for_state(scheduler, Element(JOB, 1), State.ENDED)
    assert report.word == "DeadlineExceeded"
    ended = scheduler.explain({Element(JOB, 1): report}, OURS)[Element(JOB, 1)]
    assert ended.cause is Cause.CANCELLED
    words = "client_lease_s = 900" if is_leased else "active longer than specified deadline"
    assert words in ended.message


def test_failed_indexes_do_not_end_the_others(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    condition = {"type": "Failed", "status": "True", "reason": "FailedIndexes", "message": ""}
    server.set_status(active=1, ready=1, failed=1, failedIndexes="0", conditions=[condition])
    _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    report = _state_of(scheduler, Element(JOB, 1))
    assert report is not None
    assert report.state is State.RUNNING


def test_an_index_that_a_second_pod_completed_was_preempted(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.set_status(succeeded=1, completedIndexes="0")
    report = _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    ended = scheduler.explain({Element(JOB, 0): report}, OURS)[Element(JOB, 0)]
    assert ended.cause is Cause.PREEMPTED
    assert not ended.may_go_in_again


def test_a_server_without_limits_per_index_replaces_pods_until_three_have_failed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.drops_new_fields = True
    scheduler = make()
    scheduler.submit(request_of())
    for failed in (1, 2, 3):
        server.pods = [_pod(0, f"pod-{number}", _failed(1)) for number in range(failed)]
        server.set_status(active=3, ready=2, failed=failed)
        looks = _looked(server)
        wait_until(lambda looks=looks: scheduler.states(OURS) and _looked(server) > looks)
        report = _state_of(scheduler, Element(JOB, 0))
        assert report is not None
        assert (report.state is State.ENDED) is (failed == 3)
    report = _state_of(scheduler, Element(JOB, 1))
    assert report is not None
    assert report.state is State.RUNNING


def test_a_failed_pod_ends_nothing_by_itself_where_the_server_knows_indexes(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [_pod(0, f"pod-{number}", _failed(1)) for number in range(3)]
    server.set_status(active=3, ready=2, failed=3)
    wait_until(lambda: scheduler.states(OURS) and _looked(server))
    report = _state_of(scheduler, Element(JOB, 0))
    assert report is not None
    assert report.state is not State.ENDED


# -- what is waited for --


def test_what_pods_wait_for_is_said_and_given_up_after_its_time(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of())
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available",
    }
    server.pods = [
        _pod(0, status={"phase": "Pending", "conditions": [unschedulable]}),
        _pod(1, status=_waiting_for("ImagePullBackOff", "no such image")),
        _pod(2, status=_waiting_for("ContainerCreating", "")),
    ]
    mounting = {
        "reason": "FailedMount",
        "involvedObject": {"name": f"{JOB}-2-x"},
        "message": "hostPath type check failed: /work is not a directory",
    }
    server.events = [mounting]
    server.set_status(active=3, ready=0)
    first: dict[Element, Report] = {}
    latest: dict[Element, Report] = {}

    def is_given_up() -> bool:
        for element, report in scheduler.states(OURS).items():
            if element.index is not None:
                first.setdefault(element, report)
                latest[element] = report
        return sum(bool(report.hopeless) for report in latest.values()) == 2

    wait_until(is_given_up, "startup_timeout_s to pass")
    said = {element.index: (report.reason, report.details) for element, report in first.items()}
    assert said == {
        0: ("Unschedulable", "0/3 nodes are available"),
        1: ("ImagePullBackOff", "no such image"),
        2: ("FailedMount", mounting["message"]),
    }
    for report in first.values():
        assert (report.state, report.notable, report.hopeless) == (State.PENDING, True, "")
    assert not latest[Element(JOB, 0)].hopeless
    assert "startup_timeout_s = 1 s" in latest[Element(JOB, 1)].hopeless


def _given_up(scheduler: KubernetesScheduler, element: Element) -> str:
    report = _state_of(scheduler, element)
    return "" if report is None else report.hopeless


def test_elements_without_a_pod_are_given_up_with_those_whose_image_is_refused(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [_pod(0, status=_waiting_for("InvalidImageName", "bad"))]
    server.set_status(active=1, ready=0)
    wait_until(lambda: _given_up(scheduler, Element(JOB, 2)), "the end of an element without a pod")
    assert _given_up(scheduler, Element(JOB, 0))


def test_elements_without_a_pod_are_given_up_with_the_last_that_could_begin(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of())
    server.pods = [
        _pod(0, status=_waiting_for("ErrImagePull", "connection refused")),
        _pod(1, status=_waiting_for("ContainerCreating", "")),
    ]
    server.set_status(active=2, ready=0)
    wait_until(lambda: _given_up(scheduler, Element(JOB, 0)), "the end of the first")
    assert not scheduler.states(OURS)[Element(JOB)].hopeless
    server.pods[1] = _pod(1, status=_waiting_for("CreateContainerConfigError", "no secret"))
    wait_until(lambda: _given_up(scheduler, Element(JOB, 2)), "the end of one without a pod")


@pytest.mark.parametrize("seen", ["running", "succeeded"])
def test_elements_without_a_pod_are_not_given_up_where_another_got_the_image(
    server: FakeApiServer, make: Make, request_of: RequestOf, seen: str
) -> None:
    scheduler = make(startup_timeout_s=1)
    scheduler.submit(request_of())
    server.pods = [
        _pod(0, status=_waiting_for("ErrImageNeverPull", "not here")),
        *([_pod(1, status=_running())] if seen == "running" else []),
    ]
    others = {"running": {"active": 2, "ready": 0}, "succeeded": {"active": 1, "succeeded": 1}}
    server.set_status(**{"ready": 0, **others[seen]})
    found: dict[Element, Report] = {}

    def is_given_up() -> bool:
        found.update(scheduler.states(OURS))
        return Element(JOB, 0) in found and bool(found[Element(JOB, 0)].hopeless)

    wait_until(is_given_up, "the end of the element whose node lacks the image")
    assert not found[Element(JOB)].hopeless


def test_a_server_that_counts_no_ready_pods_is_asked_why_they_wait(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.pods = [_pod(0, status=_waiting_for("InvalidImageName", "bad"))]
    server.set_status(active=3)  # before 1.24
    wait_until(lambda: _given_up(scheduler, Element(JOB, 0)), "the look at pods")


def test_what_is_pulled_is_asked_for_only_where_pods_have_not_begun(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.events = [{"reason": "FailedCreate", "involvedObject": {"name": JOB}, "message": "no"}]
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].notable)
    selectors = [seen.query["fieldSelector"] for seen in server.seen("list", "/events")]
    assert set(selectors) == {"type=Warning"}


def test_a_job_that_may_make_no_pod_says_so(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    words = 'pods is forbidden: violates PodSecurity "restricted"'
    server.events = [
        {"reason": "FailedCreate", "involvedObject": {"name": JOB}, "message": words},
        {"reason": "FailedCreate", "involvedObject": {"name": "another"}, "message": "other"},
    ]
    wait_until(lambda: scheduler.states(OURS)[Element(JOB)].notable)
    report = scheduler.states(OURS)[Element(JOB)]
    assert (report.state, report.reason, report.details) == (State.PENDING, "FailedCreate", words)


# -- the watch --


def test_a_watch_goes_on_from_the_last_bookmark(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.bookmark(99)
    server.end_watches()
    wait_until(lambda: len(server.seen("watch")) == 2)
    assert server.seen("watch")[1].query["resourceVersion"] == "99"
    assert len(server.seen("list", "/jobs")) == 1
    server.set_status(active=3, ready=3)
    _wait_for_state(scheduler, Element(JOB, 0), State.RUNNING)


def test_a_server_that_has_forgotten_is_asked_for_a_list_and_no_end_is_missed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    other = "other-0a1b2c3d-1-0-0"
    scheduler.submit(request_of(token=f"{SESSION}.1.0.0", name="other"))
    _wait_for_state(scheduler, Element(JOB, 0), State.PENDING)
    wait_until(lambda: other in scheduler._watch.jobs)
    with server.changed:
        server.jobs[other]["status"] = {"failed": 1, "failedIndexes": "2"}
        del server.jobs[JOB]
        server.version += 10
        body = json.dumps({"type": "ERROR", "object": _status(410, "too old")}).encode() + b"\n"
        server.answer("watch", "/jobs", body=body)
    server.end_watches()
    _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    wait_until(
        lambda: (
            (report := scheduler.states({other: ""}).get(Element(other, 2))) is not None
            and report.state is State.ENDED
        )
    )
    assert len(server.seen("list", "/jobs")) == 2
    assert server.seen("watch")[-1].query["resourceVersion"] == str(server.version)


def test_a_server_that_is_gone_is_unreachable_and_what_happened_is_seen_later(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.refuse_connections()
    wait_until(lambda: _is_unreachable(scheduler), "it to be unreachable")
    with server.changed:
        server.jobs[JOB]["status"] = {"succeeded": 3, "completedIndexes": "0-2"}
    server.listen()
    wait_until(lambda: not _is_unreachable(scheduler), "it to be back")
    _wait_for_state(scheduler, Element(JOB, 2), State.ENDED)


def test_a_watch_that_breaks_goes_on_where_it_was(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.watches_break = True
    server.end_watches()
    wait_until(lambda: len(server.seen("watch")) == 2)
    server.watches_break = False
    server.set_status(active=3, ready=3)
    wait_until(lambda: not _is_unreachable(scheduler))
    _wait_for_state(scheduler, Element(JOB, 0), State.RUNNING)
    assert len(server.seen("list", "/jobs")) == 1


def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_a_pause(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    server.watch_s = 0.0
    scheduler = make()
    scheduler.submit(request_of())
    wait_until(lambda: len(server.seen("watch")) == 4)
    times = [seen.at for seen in server.seen("watch")]
    assert times[3] - times[0] > 1.5  # at least half of 0.5, 1 and 2 s
    server.set_status(failed=1, failedIndexes="0")
    _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)


def test_a_server_that_forgets_at_once_is_not_asked_without_a_pause(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    body = json.dumps({"type": "ERROR", "object": _status(410, "too old")}).encode() + b"\n"
    server.answer("watch", "/jobs", times=None, body=body)
    make().submit(request_of())
    wait_until(lambda: len(server.seen("watch")) >= 5)
    times = [seen.at for seen in server.seen("watch")]
    assert times[4] - times[0] > 1.0


def test_pauses_grow_only_while_nothing_gets_better(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    """As behind a proxy that cuts connections off: each watch was a good one."""
    server.watch_s = 0.6
    server.watches_break = True
    make().submit(request_of())

    def is_begun_again() -> bool:
        server.bookmark(server.version + 1)
        return len(server.seen("watch")) >= 5

    wait_until(is_begun_again)
    pause_s = server.seen("watch")[4].at - server.broken_at[3]
    assert pause_s < 1.5


def _forget_what_was_said(server: FakeApiServer) -> None:
    """No watch brings what was said so far, as if a load balancer held watches back."""
    with server.changed:
        server._log.clear()


@pytest.mark.parametrize("breaks", [False, True])
def test_watches_that_end_without_a_word_are_followed_by_lists_and_begun_ever_more_rarely(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    monkeypatch: pytest.MonkeyPatch,
    breaks: bool,
) -> None:
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.watch._UNHEARD_S", 2.0)
    server.watch_s, server.watches_break = 0.6, breaks
    scheduler = make()
    scheduler.submit(request_of())
    began = time.monotonic()
    with server.changed:
        server.jobs[JOB]["status"] = {"failed": 1, "failedIndexes": "0"}
    _forget_what_was_said(server)
    _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
    wait_until(lambda: len(server.seen("list", "/jobs")) >= 3)
    lists = [seen.at for seen in server.seen("list", "/jobs")]
    assert lists[2] - lists[1] > 2.0
    assert len(server.seen("watch")) < 2 + (time.monotonic() - began)


def test_a_watch_that_says_something_is_followed_by_no_list(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.watch._UNHEARD_S", 2.0)
    server.watch_s = 0.6
    make().submit(request_of())

    def is_begun_again() -> bool:
        server.bookmark(server.version + 1)
        return len(server.seen("watch")) >= 6

    wait_until(is_begun_again)
    assert len(server.seen("list", "/jobs")) == 1


def test_a_watch_whose_answer_does_not_begin_is_said_once_and_followed_by_lists(
    server: FakeApiServer,
    make: Make,
    request_of: RequestOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.api.WATCH_SILENCE_S", 2.0)
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.watch._OPENING_PATIENCE_S", 0.5)
    server.answer("watch", "/jobs", times=None, hangs=True)
    scheduler = make()
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        began = time.monotonic()
        scheduler.submit(request_of())
        assert time.monotonic() - began < 1.9
        with server.changed:
            server.jobs[JOB]["status"] = {"failed": 1, "failedIndexes": "0"}
        _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)
        wait_until(lambda: len(server.seen("watch")) == 4)
    assert caplog.text.count("no answer to one began within 2 s") == 1
    assert len(server.seen("list", "/jobs")) == 4
    server.heal()
    server.end_watches()


def test_a_server_that_lets_each_request_wait_is_unreachable(
    server: FakeApiServer, make: Make, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as behind a firewall that drops packets."""
    scheduler = make()
    scheduler.submit(request_of())
    monkeypatch.setattr("cluster_tools.schedulers.kubernetes.api.CONNECT_TIMEOUT_S", 0.7)
    server.refuse_connections()
    with socket.socket() as full, socket.socket() as last:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind(("127.0.0.1", server.port))
        full.listen(0)
        last.connect(("127.0.0.1", server.port))
        wait_until(lambda: scheduler._watch.trouble, "it to be said")
        with pytest.raises(Unreachable, match="timed out"):
            scheduler.states(OURS)


def test_a_passing_error_within_a_watch_passes(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    body = json.dumps({"type": "ERROR", "object": _status(500, "context canceled")}).encode()
    server.answer("watch", "/jobs", body=body + b"\n")
    scheduler = make()
    scheduler.submit(request_of())
    wait_until(lambda: len(server.seen("watch")) == 2)
    wait_until(lambda: not _is_unreachable(scheduler))
    server.set_status(failed=1, failedIndexes="0")
    _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)


def test_credentials_that_expire_while_watching_are_said_and_new_ones_taken(
    server: FakeApiServer, make: Make, request_of: RequestOf, kubeconfig: Path
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    server.token = "second"
    server.end_watches()
    wait_until(lambda: _is_unreachable(scheduler))
    with pytest.raises(Unreachable, match="credentials expired"):
        scheduler.states(OURS)
    _configure(kubeconfig, server.port, "second")
    wait_until(lambda: not _is_unreachable(scheduler))
    server.set_status(failed=1, failedIndexes="0")
    _wait_for_state(scheduler, Element(JOB, 0), State.ENDED)


def test_events_on_jobs_that_nobody_asks_about_are_not_kept(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    scheduler.forget(JOB)
    wait_until(lambda: server.jobs == {})
    scheduler.submit(request_of(token=f"{SESSION}.1.0.0", name="other"))
    server.set_status("other-0a1b2c3d-1-0-0", active=1)
    wait_until(lambda: any(job["status"] for job in scheduler._watch.jobs.values()))
    assert set(scheduler._watch.jobs) == {"other-0a1b2c3d-1-0-0"}
    assert scheduler._watch.deleted == set()


# -- leases --


def _poll_until(scheduler: KubernetesScheduler, condition: Callable[[], object]) -> None:
    def is_so() -> object:
        _is_unreachable(scheduler)
        return condition()

    wait_until(is_so)


def test_a_lease_is_renewed_after_a_third_of_its_time_and_no_earlier(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(client_lease_s=LEASE_S)
    scheduler.submit(request_of())
    _poll_until(scheduler, lambda: len(server.seen("patch")) == 2)
    (created,) = server.seen("create")
    assert created.body["spec"]["activeDeadlineSeconds"] == LEASE_S
    for number, patched in enumerate(server.seen("patch"), 1):
        age_s = patched.at - created.at
        assert number * LEASE_S / 3 - 0.2 < age_s < number * LEASE_S / 3 + 0.9
        assert patched.path == f"{JOBS}/{JOB}"
        assert patched.headers["content-type"] == "application/merge-patch+json"
        deadline_s = patched.body["spec"]["activeDeadlineSeconds"]
        assert patched.body == {"spec": {"activeDeadlineSeconds": deadline_s}}
        assert age_s + LEASE_S - 1.1 < deadline_s < age_s + LEASE_S + 0.2


def test_a_lease_that_could_not_be_renewed_is_tried_again(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(client_lease_s=LEASE_S)
    scheduler.submit(request_of())
    server.fail("patch", f"/{JOB}", 503)
    _poll_until(scheduler, lambda: len(server.seen("patch")) == 2)
    first, second = server.seen("patch")
    assert second.at - first.at < LEASE_S / 3


def test_without_a_lease_nothing_is_renewed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make(client_lease_s=None)
    scheduler.submit(request_of())
    began = time.monotonic()
    _poll_until(scheduler, lambda: time.monotonic() - began > 1.5)
    assert server.seen("patch") == []


def test_the_lease_of_a_job_that_a_lost_answer_made_counts_from_its_creation(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    """Kubernetes counts from there; the time until another try arrives is not to be missing."""
    scheduler = make(client_lease_s=LEASE_S)
    server.answer("create", "/jobs", is_done=True, hangs_up=True)
    with pytest.raises(Unreachable):
        scheduler.submit(request_of())
    made_at = server.seen("create")[0].at
    wait_until(lambda: time.monotonic() - made_at > 2)
    scheduler.submit(request_of())
    _poll_until(scheduler, lambda: server.seen("patch"))
    patched = server.seen("patch")[0]
    left_s = patched.body["spec"]["activeDeadlineSeconds"] - (patched.at - made_at)
    assert left_s > LEASE_S - 1.1


# -- ends --


def test_what_was_submitted_can_be_cancelled_by_its_indexes(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of(600))
    scheduler.cancel([Element(JOB, index) for index in reversed(range(600))], SESSION)
    scheduler.cancel([Element("another", 3)], SESSION)
    selectors = [seen.query["labelSelector"] for seen in server.seen("deletecollection", PODS)]
    found: list[int] = []
    for selector in selectors:
        match = re.fullmatch(rf"job-name={JOB},{re.escape(INDEX)} in \(([0-9,]+)\)", selector)
        assert match is not None
        found += map(int, match[1].split(","))
    assert sorted(found) == list(range(600))
    assert len(selectors) == 2
    server.fail("deletecollection", "/pods", 403)
    with pytest.raises(Unreachable):
        scheduler.cancel([Element(JOB, 1)], SESSION)


def test_a_job_that_is_done_is_deleted_with_its_pods(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    scheduler.forget("another")
    scheduler.forget(JOB)
    scheduler.forget(JOB)
    (deleted,) = server.seen("delete")
    assert deleted.path == f"{JOBS}/{JOB}"
    assert deleted.query == {"propagationPolicy": "Background"}
    assert server.jobs == {}
    assert scheduler.states(OURS) == {}


def test_who_may_not_delete_jobs_is_told_so_once(
    server: FakeApiServer, make: Make, request_of: RequestOf, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make()
    server.fail("delete", "", 403, 'User "me" cannot delete resource "jobs"', times=None)
    with caplog.at_level(logging.WARNING, "cluster_tools"):
        for number in range(2):
            scheduler.forget(scheduler.submit(request_of(token=f"{SESSION}.{number}.0.0")))
    assert caplog.text.count("cannot delete resource") == 1
    assert len(server.seen("delete")) == 2


def test_a_delete_that_hangs_holds_up_one_time_limit_for_all_jobs(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    jobs = [scheduler.submit(request_of(token=f"{SESSION}.{n}.0.0")) for n in range(3)]
    server.answer("delete", "", times=None, hangs=True)
    began = time.monotonic()
    for job in jobs:
        scheduler.forget(job)
    assert time.monotonic() - began < 8
    assert len(server.seen("delete")) == 1
    server.heal()
    server.end_watches()


def test_jobs_that_could_not_be_deleted_are_deleted_when_all_is_over(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    for number in range(2):
        scheduler.submit(request_of(token=f"{SESSION}.{number}.0.0"))
    server.refuse_connections()
    began = time.monotonic()
    for name in list(server.jobs):
        scheduler.forget(name)
    assert time.monotonic() - began < 2
    server.listen()
    scheduler.close()
    wait_until(lambda: server.jobs == {}, "a process of its own to delete them")
    assert all(seen.query["propagationPolicy"] == "Background" for seen in server.seen("delete"))


@pytest.mark.parametrize("what", ["nothing", "watching", "unreachable", "forbidden"])
def test_no_thread_is_left_when_it_is_closed(
    server: FakeApiServer, make: Make, request_of: RequestOf, what: str
) -> None:
    before = _own_threads()
    scheduler = make()
    assert len(_own_threads()) == len(before) + 1
    if what == "forbidden":
        server.fail("list", "/jobs", 403, times=None)
        with pytest.raises(Refused):
            scheduler.submit(request_of())
    elif what != "nothing":
        scheduler.submit(request_of())
    if what == "unreachable":
        server.refuse_connections()
        wait_until(lambda: _is_unreachable(scheduler))
    began = time.monotonic()
    scheduler.close()
    wait_until(lambda: _own_threads() == before)
    assert time.monotonic() - began < 1


def test_no_connection_is_left_when_it_is_closed(
    server: FakeApiServer, make: Make, request_of: RequestOf
) -> None:
    scheduler = make()
    scheduler.submit(request_of())
    assert server.connections
    began = time.monotonic()
    scheduler.close()
    wait_until(lambda: time.monotonic() - began > 2 or not server.connections)
    assert not server.connections
