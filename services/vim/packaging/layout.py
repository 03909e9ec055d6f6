"""Writes OCI layouts (image-spec 1.1): the same content gives the same digests, whoever writes it and when.

In come files by their path in the image, out come blobs, manifests and an index in a folder that a registry
client pushes and a node's worker reads as it is.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_CONTAINERD: Final = "io.containerd.image.name"
_FAST: Final = 6


@dataclass(frozen=True, slots=True)
class Item:
    """A file, or with ``link`` a symbolic link, of a layer."""

    content: bytes = b""
    mode: int = 0o644
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """Files by their path, with the layer's annotations; ``packed`` compresses it."""

    items: Mapping[str, Item]
    annotations: Mapping[str, str] = field(default_factory=dict)
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """One image for one platform; ``run`` is its configuration (Cmd, Env, Entrypoint), ``more`` lies beside it."""

    platform: Mapping[str, str]
    layers: Sequence[Layer]
    run: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)


def write(folder: Path, name: str, images: Sequence[Image]) -> str:
    """Write an index of ``images`` under ``name``, a tag or a whole reference with one; returns its digest."""
    blobs = _Blobs(folder)
    entries = [_image(blobs, image) for image in images]
    index = blobs.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')
    # containerd takes the whole name from an annotation of its own.
    notes = {_REF_NAME: name.rpartition(":")[2], **({_CONTAINERD: name} if "/" in name else {})}
    top = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**index, "annotations": notes}]}
    (folder / "index.json").write_text(json.dumps(top))
    return str(index["digest"])


def _image(blobs: _Blobs, image: Image) -> dict[str, Any]:
    layers, diffs = [], []
    for layer in image.layers:
        data = _tar(layer.items)
        diffs.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        kind = f"{_LAYER}+gzip" if layer.packed else _LAYER
        descriptor = blobs.blob(gzip.compress(data, _FAST, mtime=0) if layer.packed else data, kind)
        layers.append(
            {**descriptor, **({"annotations": dict(layer.annotations)} if layer.annotations else {})}
        )
    config = {
        **image.platform,
        **image.more,
        "config": dict(image.run),
        "rootfs": {"type": "layers", "diff_ids": diffs},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": blobs.document(config, _CONFIG),
        "layers": layers,
    }
    return {**blobs.document(manifest, _MANIFEST), "platform": dict(image.platform)}


class _Blobs:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "blobs" / "sha256"
        self._folder.mkdir(parents=True, exist_ok=True)

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (self._folder / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    def document(self, document: Mapping[str, Any], kind: str) -> dict[str, Any]:
        return self.blob(json.dumps(document, sort_keys=True).encode(), kind)


def _tar(items: Mapping[str, Item]) -> bytes:
    out = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, item in sorted(items.items()):
            for parent in reversed(Path(path).parents[:-1]):
                if (name := str(parent)) not in made:
                    made.add(name)
                    tar.addfile(_entry(name, 0o755, kind=tarfile.DIRTYPE))
            if item.link is not None:
                entry = _entry(path, 0o777, kind=tarfile.SYMTYPE)
                entry.linkname = item.link
                tar.addfile(entry)
                continue
            entry = _entry(path, item.mode)
            entry.size = len(item.content)
            tar.addfile(entry, io.BytesIO(item.content))
    return out.getvalue()


def _entry(name: str, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode  # no owner, no time: the same everywhere
    return entry
