"""Images made ready on this node: a folder or file as it is, OCI images in a cache by content.

In comes a runtime's image document, out comes a root filesystem or a kernel with the image's own
defaults. What the cache holds was verified and unpacked whole; a kill in between leaves a folder
that the next one ignores.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.vim.worker.oci import Image, Layout, invalid, resolve
from services.vim.worker.registry import Reference, Registry
from services.vim.worker.unpack import extract, unpack
from services.vim.worker.workload import CannotRun

_MOUNT_POINTS: Final = ("proc", "sys", "dev", "tmp", "run", "etc")
_MOUNT_FILES: Final = ("etc/resolv.conf", "etc/hosts")
_KERNEL: Final = "unikraft/bin/kernel"
_INITRD: Final = "unikraft/bin/initrd"
_TAKES_FSTAB: Final = frozenset({"CONFIG_LIBVFSCORE_AUTOMOUNT_UP", "CONFIG_LIBVFSCORE_FSTAB"})


@dataclass(frozen=True, slots=True)
class RootFilesystem:
    """A container's files; ``config`` is the image's own (Cmd, Entrypoint, Env, User, WorkingDir...)."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot, with the image's default arguments and environment.

    ``mounts_initrd`` tells whether it takes its RAM disk as the root by itself, told from the options that it
    was built with where the image lists them; else it has to be told on its command line.
    """

    path: Path
    initrd: Path | None = None
    arguments: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    mounts_initrd: bool = False


class ImageStore:
    """The images on this node, below ``folder``."""

    def __init__(self, folder: Path, plain_registries: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._plain = plain_registries
        self._busy: dict[str, asyncio.Lock] = {}

    async def root_filesystem(self, image: dict[str, Any]) -> RootFilesystem:
        """The root filesystem of ``{rootfs}``, ``{layout}`` or ``{image}``.

        Raises:
            CannotRun: whatever is wrong with the image.
        """
        if (given := image.get("rootfs")) is not None:
            path = Path(given)
            if not path.is_dir():
                raise CannotRun("ImageNotFound", f"there is no folder {path} on this node")
            return RootFilesystem(path.resolve())
        async with self._opened(image, "linux") as found:
            target = self._folder / "rootfs" / found.digest.replace(":", "-")
            async with self._busy.setdefault(str(target), asyncio.Lock()):
                if not target.is_dir():
                    files = [await found.blobs.blob(layer) for layer in found.layers]
                    await asyncio.to_thread(_unpack_all, files, target)
            return RootFilesystem(target, found.run_config)

    async def kernel(self, image: dict[str, Any], machines: Sequence[str] = ()) -> Kernel:
        """The kernel of ``{kernel, initrd?}``, ``{layout}`` or ``{image}`` as Unikraft's tools make them.

        Args:
            image: one of the three.
            machines: what it may be for, the best first; this machine unless given.

        Raises:
            CannotRun: whatever is wrong with the image.
        """
        if (given := image.get("kernel")) is not None:
            return Kernel(_file(given), _file(image["initrd"]) if image.get("initrd") else None)
        async with self._opened(image, "qemu", machines) as found:
            target = self._folder / "kernels" / found.digest.replace(":", "-")
            async with self._busy.setdefault(str(target), asyncio.Lock()):
                if not target.is_dir():
                    files = [await found.blobs.blob(layer) for layer in found.layers]
                    await asyncio.to_thread(_extract_kernel, files, target, found)
            initrd = target / "initrd"
            config = found.run_config
            env = dict(item.split("=", 1) for item in config.get("Env") or [] if "=" in item)
            return Kernel(
                target / "kernel",
                initrd if initrd.is_file() else None,
                tuple(map(str, config.get("Cmd") or ())),
                env,
                _mounts_initrd(found.config.get("os.features")),
            )

    @asynccontextmanager
    async def _opened(
        self, image: dict[str, Any], platform_os: str, machines: Sequence[str] = ()
    ) -> AsyncIterator[Image]:
        if (given := image.get("layout")) is not None:
            layout = Layout(str(given))
            root = layout.root(platform_os, machines)
            yield await resolve(root, layout, platform_os=platform_os, machines=machines)
            return
        if image.get("image") is None:
            raise invalid("the image names no source")
        import httpx  # noqa: PLC0415 - only nodes that use a registry pay for it

        reference = Reference.of(str(image["image"]))
        async with httpx.AsyncClient(timeout=30.0, follow_redirects=False) as client:
            registry = Registry(reference, client, self._folder / "blobs", self._plain)
            root = await registry.root()
            yield await resolve(root, registry, platform_os=platform_os, machines=machines)


def _file(given: Any) -> Path:
    path = Path(str(given))
    if not path.is_file():
        raise CannotRun("ImageNotFound", f"there is no file {path} on this node")
    return path.resolve()


def _unpack_all(layers: list[Path], target: Path) -> None:
    with _beside(target) as building:
        for layer in layers:
            unpack(layer, building)
        for name in _MOUNT_POINTS:
            with suppress(FileExistsError):
                (building / name).mkdir()
        for name in _MOUNT_FILES:  # over which the node's own are shown
            with suppress(OSError):
                _place_empty(building, name)


def _place_empty(root: Path, name: str) -> None:
    """An empty file in a folder of the image, unless something is there; links are not followed."""
    folder, _, file = name.partition("/")
    handle = os.open(root / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=handle))
    finally:
        os.close(handle)


def _mounts_initrd(features: Any) -> bool:
    """Whether a kernel built with ``features`` (``CONFIG_*``) takes no table of what to mount."""
    options = (
        {str(feature).removesuffix("=y") for feature in features} if isinstance(features, list) else set()
    )
    lists_options = any(option.startswith("CONFIG_") for option in options)
    return lists_options and not options & _TAKES_FSTAB


def _extract_kernel(layers: list[Path], target: Path, image: Image) -> None:
    # The tools annotate the layer; others the manifest; the paths are the same for all that is known.
    annotations = dict(image.manifest.get("annotations") or {})
    for descriptor in image.layers:
        annotations.update(descriptor.annotations)
    kernel = str(annotations.get("org.unikraft.kernel.image") or _KERNEL).lstrip("/")
    initrd = str(annotations.get("org.unikraft.kernel.initrd") or _INITRD).lstrip("/")
    with _beside(target) as building:
        found: set[str] = set()
        for layer in layers:
            found |= extract(layer, {kernel: building / "kernel", initrd: building / "initrd"})
        if kernel not in found:
            raise invalid(f"no layer of the image holds {kernel}")


class _beside:  # noqa: N801 - reads as the context that it is
    """A folder that becomes ``target`` when the block ends well, and is gone when it does not."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._building = target.with_name(f"{target.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        shutil.rmtree(self._building, ignore_errors=True)
        self._building.mkdir(parents=True, mode=0o755)
        return self._building

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._building.chmod(0o755)
            self._building.rename(self._target)
        else:
            shutil.rmtree(self._building, ignore_errors=True)
