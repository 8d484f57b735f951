"""A container registry in the network of a node, where the node finds it at localhost; each image's
name says how it answers.

    python registry.py PORT DIRECTORY

DIRECTORY has `manifest` and the blobs by their digests; `modes/NAME` may have another mode for the
image of that name than the name itself, and is read at each request. Modes are status codes, or:

    serve, slow-S     the image; slowly: its last layer takes S seconds
    hang              the connection is taken, and nothing comes
    basic, token-N    401, which asks for a password, or for a token that another request answers
                      with N
"""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BLOB = "application/octet-stream"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, version, *words = self.path.partition("?")[0].split("/")
        if version == "token":
            self._answer(int(words[0]), b'{"errors": []}')
            return
        if len(words) < 3:
            self._answer(200, b"{}")
            return
        name, kind, reference = words[-3:]
        mode = self._mode(name)
        if mode == "hang":
            time.sleep(3600)
        elif mode == "basic":
            self._answer(401, headers={"WWW-Authenticate": 'Basic realm="tests"'})
        elif mode.startswith("token-"):
            host = f"http://{self.headers['Host']}/token/{mode.removeprefix('token-')}"
            challenge = f'Bearer realm="{host}",service="tests",scope="repository:{name}:pull"'
            self._answer(401, headers={"WWW-Authenticate": challenge})
        elif mode.isdigit():
            self._answer(int(mode), b'{"errors": [{"code": "TEST", "message": "by the test"}]}')
        else:
            self._serve(kind, reference, float(mode.partition("-")[2] or 0))

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _mode(self, name: str) -> str:
        try:
            return (self.directory / "modes" / name).read_text()
        except FileNotFoundError:
            return name

    def _serve(self, kind: str, reference: str, seconds: float) -> None:
        manifest = (self.directory / "manifest").read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        if kind == "manifests":
            content = {"Content-Type": _MANIFEST, "Docker-Content-Digest": f"sha256:{digest}"}
            self._answer(200, manifest, headers=content)
            return
        blob = self.directory / reference.removeprefix("sha256:")
        if not blob.exists():
            self._answer(404)
            return
        is_last = json.loads(manifest)["layers"][-1]["digest"] == reference
        content = blob.read_bytes()
        self._answer(200, content, seconds if is_last else 0, headers={"Content-Type": _BLOB})

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        seconds: float = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(body), len(body) // 50 + 1):
            time.sleep(seconds / 50)
            self.wfile.write(body[start : start + len(body) // 50 + 1])


class Registry:
    """One that runs. `port`: of localhost, in the node."""

    def __init__(self, directory: Path, port: int):
        self._directory = directory
        self.port = port

    def image(self, mode: str, name: str = "") -> str:
        """The image that is answered for so; `set_mode` changes that, where it has a name of its
        own.
        """
        if name:
            self.set_mode(name, mode)
        return f"localhost:{self.port}/{name or mode}:1"

    def set_mode(self, name: str, mode: str) -> None:
        path = self._directory / "modes" / name
        path.with_suffix(".new").write_text(mode)
        path.with_suffix(".new").rename(path)


@contextmanager
def running(directory: Path, archive: Path, enter: list[str], port: int) -> Generator[Registry]:
    """A registry whose image is that of `archive` (as `oci.py` writes it) and one more small layer,
    of its own.

    `enter`: the command that goes where the registry is to run.
    """
    (directory / "modes").mkdir(parents=True)
    _write_image(directory, archive)
    command = [*enter, sys.executable, __file__, str(port), str(directory)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield Registry(directory, port)
        finally:
            process.kill()
    shutil.rmtree(directory)


def _write_image(directory: Path, archive: Path) -> None:
    def add(content: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (directory / digest).write_bytes(content)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    with tarfile.open(archive) as tar:

        def read(name: str) -> Any:
            file = tar.extractfile(name)
            assert file is not None
            return json.load(file)

        def blob(descriptor: Any) -> Any:
            return read(f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}")

        (described,) = read("index.json")["manifests"]
        manifest = blob(described)
        configuration = blob(manifest["config"])
    # Nodes have the other layers already: of a registry they are asked for what they lack.
    layer = directory / "layer.tar"
    (directory / "content").write_text(f"{directory} {time.time()}" * 100)
    with tarfile.open(layer, "w") as tar:
        tar.add(directory / "content", "content-of-this-registry")
    added = add(layer.read_bytes(), "application/vnd.oci.image.layer.v1.tar")
    manifest["layers"].append(added)
    configuration["rootfs"]["diff_ids"].append(added["digest"])
    manifest["config"] = add(json.dumps(configuration).encode(), manifest["config"]["mediaType"])
    (directory / "manifest").write_bytes(json.dumps(manifest).encode())


def main() -> None:
    port, directory = sys.argv[1:]
    _Handler.directory = Path(directory)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler)
    server.daemon_threads = True
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
