"""QEMU of this machine as files of an image: the program, what it loads, its firmware, and a shell to start it.

In comes the program, be it installed or a script around one, out come files by their path. What it loads is not
guessed: it is started, halted before the first instruction, and asked.
"""

from __future__ import annotations

import platform
import subprocess
import time
from pathlib import Path
from typing import Final

from schemas.errors import MinicloudError
from services.vim.packaging.layout import Item
from services.vim.worker.machine import PROGRAMS, hardware, network, processor

_FIRMWARE: Final = {
    "x86_64": (
        "bios-256k.bin", "kvmvapic.bin", "linuxboot.bin", "linuxboot_dma.bin", "multiboot.bin", "multiboot_dma.bin",
        "pvh.bin",
    ),
    "aarch64": (),
}  # fmt: skip
_LOADERS: Final = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}
_NEEDED: Final = {"multiboot_dma.bin", "bios-256k.bin"}
_PATIENCE: Final = 20.0
_LIBRARIES: Final = "usr/lib/qemu"
_PT_INTERP: Final = 3


class CannotPackage(MinicloudError):
    """This machine lacks something that an image is made of."""

    code = "CannotPackage"
    status = 409


def files(machine: str, program: Path, busybox: Path) -> dict[str, Item]:
    """The files of an image in which QEMU runs.

    Args:
        machine: what the kernel beside it runs on; the same as this one, as a pod has no other.
        program: QEMU for it.
        busybox: a static one.

    Raises:
        CannotPackage: the program does not start, or lacks its firmware; busybox is not static.
    """
    if machine != platform.machine():
        raise CannotPackage(
            f"QEMU of this machine is for pods on {platform.machine()}, and the kernel is for {machine}",
            expected=f"the same command on a machine with {machine}, or no QEMU inside",
        )
    found = {f"usr/bin/{PROGRAMS[machine]}": None, **_loaded(program, machine)}
    items: dict[str, Item] = {}
    for path, source in found.items():
        if source is not None:
            items |= _with_links(path, source)
    items |= _firmware(program, machine)
    shell = busybox.read_bytes()
    if shell[:4] != b"\x7fELF" or b"/ld-linux" in shell[:4096]:
        raise CannotPackage(f"{busybox} is no static program", expected="busybox-static (Debian)")
    items["bin/busybox"] = Item(shell, 0o755)
    for name in ("sh", "cat", "grep", "tail", "rm"):
        items[f"bin/{name}"] = Item(link="busybox")
    items["entry"] = Item(Path(__file__).with_name("entry.sh").read_bytes(), 0o755)
    return items


def _loaded(program: Path, machine: str) -> dict[str, Path]:
    """The program itself and every library and module that it maps, by their path in the image."""
    words = [
        *hardware("packaging", machine, 16),
        *processor(machine, accelerated=False),
        *network([], outbound=True),
    ]
    with subprocess.Popen(
        [program, *words, "-S"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            mapped = _settled(process, machine)
            executable = Path(f"/proc/{process.pid}/exe").readlink()
        finally:
            process.kill()
    found = {f"usr/bin/{PROGRAMS[machine]}": executable}
    for library in mapped - {executable}:
        if library.name.startswith("ld-linux"):
            found[_LOADERS[machine]] = library
        else:
            folder = f"{_LIBRARIES}/modules" if library.parent.name == "qemu" else _LIBRARIES
            found[f"{folder}/{library.name}"] = library
    return found


def _settled(process: subprocess.Popen[bytes], machine: str) -> set[Path]:
    """What QEMU maps once it maps no more: its accelerator and network are loaded last."""
    deadline = time.monotonic() + _PATIENCE
    before: set[Path] = set()
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            raise CannotPackage(f"{PROGRAMS[machine]} does not start: {said[-300:]}")
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        mapped = {Path(parts[5]) for line in lines if len(parts := line.split(maxsplit=5)) == 6}
        mapped = {
            path
            for path in mapped
            if path.is_file() and (".so" in path.name or PROGRAMS[machine] in path.name)
        }
        if mapped == before and any("slirp" in path.name for path in mapped):
            return mapped
        before = mapped
        time.sleep(0.2)
    raise CannotPackage(f"{PROGRAMS[machine]} has no network of its own (libslirp), or is very slow")


def _with_links(path: str, source: Path) -> dict[str, Item]:
    """A file with the names beside it that programs ask for it by; those for compilers (``.so``) are left out."""
    items = {path: Item(source.read_bytes(), 0o755)}
    if ".so" in source.name and not path.startswith("lib"):
        for other in source.parent.glob(f"{source.name.split('.so')[0].split('-')[0]}*"):
            asked_for = other.is_symlink() and other.suffix != ".so"
            if asked_for and other.resolve() == source.resolve():
                items[str(Path(path).with_name(other.name))] = Item(link=source.name)
    return items


def _firmware(program: Path, machine: str) -> dict[str, Item]:
    told = subprocess.run([program, "-L", "help"], capture_output=True, text=True, check=True).stdout
    folders = [Path(line) for line in told.splitlines()]
    items: dict[str, Item] = {}
    for name in _FIRMWARE[machine]:
        found = next((path for folder in folders if (path := folder / name).is_file()), None)
        if found is not None:
            items[f"usr/share/qemu/{name}"] = Item(found.read_bytes())
        elif name in _NEEDED:
            raise CannotPackage(
                f"QEMU's firmware {name} is not on this machine", expected="qemu-system-data, seabios"
            )
    return items
