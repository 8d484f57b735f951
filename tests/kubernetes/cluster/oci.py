"""Writes images as `ctr images import` reads them: an OCI layout in a tar archive.

python oci.py ARCHIVE IMAGE=LAYER[,LAYER...] ...

A layer is a tar file. Where only its `LAYER.sha256` is there, which this script writes, the image
refers to a layer that containerd has already: so a large layer is imported once, and the images
that build upon it are small. The image whose name ends with `:pause` runs `/pause`.
"""

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path

OCI = "application/vnd.oci.image"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Archive:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._written: set[str] = set()

    def write(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def blob(self, content: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._written:
            self._written.add(digest)
            self.write(f"blobs/sha256/{digest}", content)
        return {
            "mediaType": f"{OCI}.{kind}.v1+json",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }

    def layer(self, layer: Path) -> dict[str, object]:
        known = layer.with_name(layer.name + ".sha256")
        if layer.exists():
            with layer.open("rb") as file:
                # `file_digest` is Python 3.11's, as what runs this.
                digest = str(hashlib.file_digest(file, "sha256").hexdigest())  # pyright: ignore
            size = layer.stat().st_size
            known.write_text(f"{digest} {size}\n")
            if digest not in self._written:
                self._written.add(digest)
                self._tar.add(layer, f"blobs/sha256/{digest}")
        else:
            digest, size = known.read_text().split()
        return {
            "mediaType": f"{OCI}.layer.v1.tar",
            "digest": f"sha256:{digest}",
            "size": int(size),
        }

    def image(self, name: str, layers: list[Path]) -> dict[str, object]:
        descriptors = [self.layer(layer) for layer in layers]
        configuration: dict[str, object] = {"Env": [PATH]}
        if name.endswith(":pause"):
            configuration["Entrypoint"] = ["/pause"]
        image = {
            "architecture": architecture(),
            "os": "linux",
            "config": configuration,
            # Layers are not compressed, so their digests are those of their content.
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in descriptors]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.blob(json.dumps(image).encode(), "config"),
            "layers": descriptors,
        }
        descriptor = self.blob(json.dumps(manifest).encode(), "manifest")
        return {**descriptor, "annotations": {"io.containerd.image.name": name}}


def architecture() -> str:
    return ARCHITECTURES[platform.machine()]


def main() -> None:
    path, *images = sys.argv[1:]
    with tarfile.open(path, "w") as tar:
        archive = Archive(tar)
        manifests: list[dict[str, object]] = []
        for image in images:
            name, _, layers = image.partition("=")
            manifests.append(archive.image(name, [Path(layer) for layer in layers.split(",")]))
        archive.write("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        archive.write(
            "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
        )


if __name__ == "__main__":
    main()
