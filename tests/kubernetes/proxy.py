"""A proxy before the API server, which does what load balancers, quotas and busy servers do."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import urllib3
import yaml

from support import kube

# What is answered instead of the server's own: status, headers, body; None: the server is asked.
Answer = tuple[int, dict[str, str], bytes] | None


class Proxy:
    """`interfere`: is asked before each request, by its method and path."""

    def __init__(self) -> None:
        self.interfere: Callable[[str, str], Answer] = lambda method, path: None
        # Watches are accepted, and nothing comes; likewise, and they end well after so long.
        self.holds_watches = False
        self.ends_watches_after_s: float | None = None
        # Not even the answer to a watch begins.
        self.withholds_watches = False
        self.seen: list[tuple[str, str]] = []
        self.ended = threading.Event()
        server = kube.admin()
        self._pool = urllib3.PoolManager(ca_certs=server.ca_file, retries=False)
        self._host = server.host

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        method, path = request.command, request.path
        self.seen.append((method, path))
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        answer = self.interfere(method, path)
        if answer is None:
            self._forward(request, body, is_watch="watch=1" in path)
            return
        status, headers, text = answer
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(text)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, *, is_watch: bool) -> None:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "content-length", "connection")
        }
        if is_watch and self.withholds_watches:
            self.ended.wait()
            return
        url = self._host + request.path
        answer = self._pool.request(
            request.command, url, body=body or None, headers=headers, preload_content=False
        )
        request.send_response(answer.status)
        request.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.flush()
        if is_watch and (self.holds_watches or self.ends_watches_after_s is not None):
            self.ended.wait(self.ends_watches_after_s)
            return
        for chunk in answer.stream(1 << 16) if not is_watch else answer.read_chunked():
            request.wfile.write(chunk)
            request.wfile.flush()
        answer.release_conn()


@contextmanager
def in_front_of_the_server(directory: Path) -> Generator[tuple[Proxy, Path]]:
    """The proxy, and the kubeconfig of a client that goes by it."""
    proxy = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            try:
                proxy.handle(self)
            except (OSError, urllib3.exceptions.HTTPError):  # one of the two has gone
                pass
            self.close_connection = True

        do_GET = do_POST = do_PATCH = do_DELETE = _handle

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{server.server_port}"}
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield proxy, path
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()


def status(code: int, reason: str, message: str) -> bytes:
    """An answer of the API server's."""
    words = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return json.dumps(words).encode()
