"""OCI images: descriptors, the choice among architectures, and layouts on disk.

In comes a layout or anything else that yields blobs, out come a verified manifest and configuration
for this machine (OCI image-spec 1.1: descriptor, image-index, manifest, config, image-layout).
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from services.vim.worker.workload import CannotRun

INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
MANIFESTS: Final = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
_TAG: Final = "org.opencontainers.image.ref.name"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_DOCUMENT_LIMIT: Final = 4 * 1024 * 1024  # image-spec: implementations should allow manifests of 4 MiB
_CHUNK: Final = 1024 * 1024
#: The same machine under its names in OCI, in Unikraft's images and in the kernel.
_SAME_MACHINE: Final = {
    "x86_64": frozenset({"amd64", "x86_64"}),
    "aarch64": frozenset({"arm64", "aarch64"}),
    "armv7l": frozenset({"arm"}),
    "armv6l": frozenset({"arm"}),
    "i686": frozenset({"386"}),
    "riscv64": frozenset({"riscv64"}),
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob is and how it is recognized."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str]
    platform: dict[str, Any]

    @classmethod
    def of(cls, document: Any) -> Descriptor:
        """The descriptor in an index or manifest.

        Raises:
            CannotRun: ``ImageInvalid`` if it is none, or its digest is of an unknown kind.
        """
        try:
            found = cls(
                media_type=str(document.get("mediaType", "")),
                digest=str(document["digest"]),
                size=int(document["size"]),
                annotations=dict(document.get("annotations") or {}),
                platform=dict(document.get("platform") or {}),
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise invalid(f"a descriptor is incomplete: {error}") from error
        if not _DIGEST.fullmatch(found.digest) or found.size < 0:
            raise invalid(f"digest {found.digest[:80]!r} or size {found.size} is not one")
        return found

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        return self.digest.partition(":")[0]

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.partition(":")[2]


class Blobs(Protocol):
    """Where the blobs of an image come from."""

    async def blob(self, descriptor: Descriptor) -> Path:
        """The file of a blob, verified.

        Raises:
            CannotRun: ``ImageNotFound`` or ``ImageCorrupt``.
        """


@dataclass(frozen=True, slots=True)
class Image:
    """One image for this machine."""

    digest: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    layers: tuple[Descriptor, ...]
    blobs: Blobs

    @property
    def run_config(self) -> dict[str, Any]:
        """The execution parameters: Cmd, Entrypoint, Env, User, WorkingDir, Volumes."""
        found = self.config.get("config")
        return found if isinstance(found, dict) else {}


class Layout:
    """An OCI layout on disk, ``folder`` or ``folder:tag``."""

    def __init__(self, reference: str) -> None:
        folder, tag = Path(reference), None
        if not folder.is_dir() and ":" in reference:
            name, _, tag = reference.rpartition(":")
            folder = Path(name)
        if not (folder / "oci-layout").is_file():
            raise CannotRun(
                "ImageNotFound",
                f"{reference} is no OCI layout",
                expected="a folder with oci-layout and index.json",
            )
        self.folder = folder
        self._tag = tag

    def root(self, platform_os: str = "linux", machines: Sequence[str] = ()) -> Descriptor:
        """The descriptor that the tag names, or the only one, or ``latest``, or the one that fits.

        Raises:
            CannotRun: ``ImageNotFound`` naming the tags that there are.
        """
        entries = [
            Descriptor.of(item) for item in document_in(self.folder / "index.json").get("manifests") or []
        ]
        tagged = {entry.annotations[_TAG]: entry for entry in entries if _TAG in entry.annotations}
        if self._tag is not None:
            if self._tag in tagged:
                return tagged[self._tag]
            raise CannotRun(
                "ImageNotFound",
                f"{self.folder} has no tag {self._tag!r}",
                expected=" | ".join(sorted(tagged)) or "no tag",
            )
        if len(entries) == 1:
            return entries[0]
        if "latest" in tagged:
            return tagged["latest"]
        if entries and all(entry.platform for entry in entries):  # one image for many machines, without a tag
            return choose(entries, platform_os, machines)
        raise CannotRun(
            "ImageNotFound",
            f"{self.folder} holds {len(entries)} images",
            expected=f"{self.folder}:TAG, TAG one of {', '.join(sorted(tagged)) or 'none'}",
        )

    async def blob(self, descriptor: Descriptor) -> Path:
        """The blob's file, verified."""
        file = self.folder / "blobs" / descriptor.algorithm / descriptor.hex
        if not file.is_file():
            raise CannotRun("ImageNotFound", f"{self.folder} lacks blob {descriptor.digest}")
        verify(file, descriptor)
        return file


async def resolve(
    root: Descriptor, blobs: Blobs, *, platform_os: str = "linux", machines: Sequence[str] = ()
) -> Image:
    """Follow indexes down to the image for this machine and ``platform_os``.

    Args:
        root: where to begin.
        blobs: where to read.
        platform_os: what the image runs on: ``linux``, or ``qemu`` for a unikernel.
        machines: those that will do, the best first; this one unless given.

    Raises:
        CannotRun: ``ImageNotFound``, ``ImageCorrupt``, ``ImageInvalid`` or ``WrongArchitecture``.
    """
    descriptor = root
    for _ in range(4):
        document = document_in(await blobs.blob(descriptor))
        kind = str(document.get("mediaType") or descriptor.media_type)
        if kind in INDEXES or "manifests" in document:
            entries = [Descriptor.of(item) for item in document.get("manifests") or []]
            descriptor = choose(entries, platform_os, machines)
            continue
        if kind not in MANIFESTS and "layers" not in document:
            raise invalid(f"media type {kind[:80]!r} is neither an index nor a manifest")
        config = document_in(await blobs.blob(Descriptor.of(document.get("config"))))
        _require_machine(config, platform_os, machines)
        layers = tuple(Descriptor.of(item) for item in document.get("layers") or [])
        return Image(descriptor.digest, document, config, layers, blobs)
    raise invalid("indexes are nested more than four deep")


def choose(entries: list[Descriptor], platform_os: str = "linux", machines: Sequence[str] = ()) -> Descriptor:
    """The entry of an index for this machine, or for the first of ``machines`` that it has one for.

    Raises:
        CannotRun: ``WrongArchitecture``, with the platforms that there are.
    """
    for machine in machines or (platform.machine(),):
        fitting = [
            entry
            for entry in entries
            if entry.platform.get("architecture") in _names(machine)
            and entry.platform.get("os") == platform_os
        ]
        if fitting:
            return max(fitting, key=lambda entry: str(entry.platform.get("variant", "")))
    bare = [entry for entry in entries if not entry.platform]
    if len(bare) == 1:
        return bare[0]  # its configuration will be asked
    offered = sorted(
        {f"{entry.platform.get('os')}/{entry.platform.get('architecture')}" for entry in entries}
    )
    raise CannotRun(
        "WrongArchitecture",
        f"the image is for {', '.join(offered) or 'nothing'}",
        lasting=True,
        expected=f"{platform_os}/{'|'.join(sorted(_all_names(machines)))}",
    )


def _require_machine(config: dict[str, Any], platform_os: str, machines: Sequence[str]) -> None:
    architecture, system = config.get("architecture"), config.get("os")
    if (architecture and architecture not in _all_names(machines)) or (system and system != platform_os):
        raise CannotRun(
            "WrongArchitecture",
            f"the image is for {system}/{architecture}",
            lasting=True,
            expected=f"{platform_os}/{'|'.join(sorted(_all_names(machines)))}",
        )


def _names(machine: str) -> frozenset[str]:
    return _SAME_MACHINE.get(machine, frozenset({machine}))


def _all_names(machines: Sequence[str]) -> frozenset[str]:
    return frozenset().union(*map(_names, machines or (platform.machine(),)))


def verify(file: Path, descriptor: Descriptor) -> None:
    """Raise ``ImageCorrupt`` unless the file has the descriptor's size and digest."""
    size = file.stat().st_size
    if size != descriptor.size:
        raise CannotRun(
            "ImageCorrupt", f"blob {descriptor.digest} has {size} B", expected=f"{descriptor.size} B"
        )
    found = hashlib.new(descriptor.algorithm)
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != descriptor.hex:
        raise CannotRun(
            "ImageCorrupt",
            f"a blob's content has digest {descriptor.algorithm}:{found.hexdigest()}",
            expected=descriptor.digest,
        )


def document_in(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CannotRun: ``ImageInvalid`` or ``ImageNotFound``.
    """
    try:
        if file.stat().st_size > _DOCUMENT_LIMIT:
            raise invalid(f"{file.name} is larger than {_DOCUMENT_LIMIT} B")
        document = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise CannotRun("ImageNotFound", f"there is no {file}") from error
    except ValueError as error:
        raise invalid(f"{file.name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"{file.name} is not a JSON object")
    return document


def invalid(message: str) -> CannotRun:
    """The error for an image that breaks the specification."""
    return CannotRun("ImageInvalid", message, lasting=True)
