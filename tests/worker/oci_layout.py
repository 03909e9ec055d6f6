"""Writes OCI layouts for tests: blobs by digest, layers from dictionaries of files."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def layer(entries: dict[str, Any], *, compressed: bool = False) -> bytes:
    """A layer: bytes are files, None folders, TarInfo as it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return gzip.compress(out.getvalue()) if compressed else out.getvalue()


def link(target: str, *, hard: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
    info.linkname = target
    return info


def _rootfs(layers: list[bytes]) -> dict[str, Any]:
    """What the layers are unpacked; containerd refuses images that do not say."""
    unpacked = [gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data for data in layers]
    return {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in unpacked]}


class LayoutWriter:
    """A layout in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._entries: list[dict[str, Any]] = []

    def blob(self, content: bytes | dict[str, Any], kind: str) -> dict[str, Any]:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        name = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    def image(
        self,
        layers: list[bytes],
        config: dict[str, Any],
        annotations: list[dict[str, str]] | None = None,
        more: dict[str, Any] | None = None,
        **platform: str,
    ) -> dict[str, Any]:
        """An image; ``annotations`` are those of its layers, ``more`` stands beside ``config``."""
        where = {"architecture": "amd64", "os": "linux", **platform}
        written = [
            self.blob(data, f"{LAYER}+gzip" if data.startswith(b"\x1f\x8b") else LAYER) for data in layers
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(
                {**where, **(more or {}), "config": config, "rootfs": _rootfs(layers)}, CONFIG
            ),
            "layers": [
                {**one, **({"annotations": notes} if notes else {})}
                for one, notes in zip(written, annotations or [{}] * len(written), strict=True)
            ],
        }
        return {**self.blob(document, MANIFEST), "platform": where}

    def index(self, images: list[dict[str, Any]]) -> dict[str, Any]:
        return self.blob({"schemaVersion": 2, "mediaType": INDEX, "manifests": images}, INDEX)

    def tag(self, descriptor: dict[str, Any], name: str | None = None) -> "LayoutWriter":
        notes = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
        self._entries.append({**descriptor, **notes})
        (self.folder / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": self._entries})
        )
        return self
