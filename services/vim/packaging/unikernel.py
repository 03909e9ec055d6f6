"""The image of one unikernel, for all engines under one reference.

In come a kernel with its RAM disk, arguments and environment, out comes a layout: as Unikraft's tools write it
for a node's worker, and as a container whose first process boots the same kernel by QEMU, for pods. In that
container urunc and KubeVirt find the kernel at its usual place, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.vim.packaging.layout import Image, Item, Layer, write
from services.vim.worker.kernel import parameter_of, parts_of, word_of

KERNEL: Final = "unikraft/bin/kernel"
INITRD: Final = "unikraft/bin/initrd"
ENTRY: Final = "/entry"
_DEFAULTS: Final = "unikraft/defaults"
_NOTES: Final = {KERNEL: "org.unikraft.kernel.image", INITRD: "org.unikraft.kernel.initrd"}
#: A machine as Unikraft's images and as others name it.
_NAMES: Final = {"x86_64": ("x86_64", "amd64"), "aarch64": ("arm64", "arm64")}


@dataclass(frozen=True, slots=True)
class Unikernel:
    """What an image is made of.

    Attributes:
        kernel: its bytes.
        machine: what it runs on: ``x86_64`` or ``aarch64``.
        initrd: its RAM disk.
        arguments: its default arguments; those in front of a ``--`` are the kernel's own.
        env: its default environment.
        mounts_initrd: whether it takes its RAM disk as the root by itself.
    """

    kernel: bytes
    machine: str
    initrd: bytes | None = None
    arguments: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    mounts_initrd: bool = False


def package(made: Unikernel, folder: Path, name: str, qemu: dict[str, Item] | None = None) -> str:
    """Write the image's layout into ``folder`` under ``name``; returns the digest of its index.

    Args:
        made: what goes into it.
        folder: of the layout.
        name: a tag, or a whole reference with one.
        qemu: the files of a QEMU, without which it runs in no pod.

    Raises:
        CannotRun: arguments or environment that a kernel's command line cannot carry.
    """
    own, others = _NAMES[made.machine]
    defaults = _defaults(made)  # refuses before anything is written
    content = {KERNEL: made.kernel, **({INITRD: made.initrd} if made.initrd is not None else {})}
    bare = [Layer({path: Item(data)}, {_NOTES[path]: f"/{path}"}) for path, data in content.items()]
    run = {
        **({"Cmd": list(made.arguments)} if made.arguments else {}),
        **({"Env": [f"{name}={value}" for name, value in made.env.items()]} if made.env else {}),
    }
    # The options that a kernel was built with tell whether it takes a table of what to mount.
    more = {"os.features": ["CONFIG_LIBVFSCORE=y"]} if made.mounts_initrd else {}
    images = [Image({"architecture": own, "os": "qemu"}, bare, run, more)]
    if qemu is not None:
        files = {path: Item(data, 0o644) for path, data in content.items()}
        layers = [Layer(qemu, packed=True), Layer({**files, **defaults})]
        entry = {"Entrypoint": [ENTRY], "Env": ["PATH=/bin"], "User": "65534:65534"}
        images.append(Image({"architecture": others, "os": "linux"}, layers, entry))
    return write(folder, name, images)


def _defaults(made: Unikernel) -> dict[str, Item]:
    """What the entry adds where the pod says nothing else, in words that a kernel reads."""
    parameters, arguments = parts_of(list(made.arguments))
    items = {
        f"{_DEFAULTS}/env/{name}": Item(parameter_of(name, value).encode())
        for name, value in made.env.items()
    }
    items[f"{_DEFAULTS}/parameters"] = Item(" ".join(map(word_of, parameters)).encode())
    items[f"{_DEFAULTS}/arguments"] = Item(" ".join(map(word_of, arguments)).encode())
    if made.mounts_initrd:
        items[f"{_DEFAULTS}/mounts-initrd"] = Item()
    return items
