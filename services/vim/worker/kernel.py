"""What a kernel file is, told from its bytes, and the command line that it understands.

In comes a file, out comes the machine it boots on or a sentence why it does not. The command line is
Unikraft's for unikernels (``lib.parameter=value ... -- arguments``) and Linux's for VMs.
"""

from __future__ import annotations

import platform
import struct
from pathlib import Path
from typing import Final

from services.vim.worker.workload import CannotRun

_READ_LIMIT: Final = 256 * 1024 * 1024
_MULTIBOOT: Final = struct.pack("<I", 0x1BADB002)
_MULTIBOOT_WITHIN: Final = 8192  # Multiboot 0.6.96, 3.1
_PVH_NOTE: Final = (struct.pack("<III", 4, 4, 18) + b"Xen\0", struct.pack("<III", 4, 8, 18) + b"Xen\0")
_ELF_MACHINES: Final = {3: "x86_64", 62: "x86_64", 183: "aarch64"}
_ADDRESS: Final = "10.0.2.15/24:10.0.2.2:10.0.2.3"  # QEMU's user network: address, gateway, DNS


def machine_of(kernel: Path) -> str:
    """``x86_64`` or ``aarch64`` for a kernel that QEMU boots.

    Raises:
        CannotRun: ``KernelNotBootable`` or ``WrongArchitecture``.
    """
    data = kernel.read_bytes() if kernel.stat().st_size <= _READ_LIMIT else b""
    found = _sniff(data)
    if found != platform.machine():
        raise CannotRun(
            "WrongArchitecture", f"the kernel is for {found}", lasting=True, expected=platform.machine()
        )
    return found


def _sniff(data: bytes) -> str:
    if data[0x202:0x206] == b"HdrS":
        return "x86_64"
    if data[56:60] == b"ARM\x64":
        return "aarch64"
    if not data.startswith(b"\x7fELF") or len(data) < 52:
        raise _unbootable("it is no kernel that QEMU knows")
    wide = data[4] == 2
    machine = _ELF_MACHINES.get(struct.unpack_from("<H", data, 18)[0])
    if machine is None:
        raise _unbootable("it is an ELF file for another machine")
    if machine == "x86_64" and not any(note in data for note in _PVH_NOTE):
        if wide:
            raise _unbootable("it is a 64-bit ELF without a PVH note, as made for Firecracker")
        if _MULTIBOOT not in data[:_MULTIBOOT_WITHIN]:
            raise _unbootable("it is an ELF without a multiboot header or PVH note")
    return machine


def _unbootable(why: str) -> CannotRun:
    return CannotRun(
        "KernelNotBootable",
        f"the kernel cannot be booted: {why}",
        lasting=True,
        expected="multiboot 1 or PVH ELF, bzImage, or arm64 Image (Unikraft: plat qemu)",
    )


def unikernel_line(name: str, env: dict[str, str], arguments: list[str], *, unpack_initrd: bool) -> str:
    """The command line of a unikernel; ``unpack_initrd`` makes its files those of the root.

    Raises:
        CannotRun: ``InvalidEnvironment`` for control characters.
    """
    words = [name, f"netdev.ip={_ADDRESS}"]
    if unpack_initrd:
        words.append('vfs.fstab=[ "initrd0:/:extract::ramfs=1:" ]')
    if env:
        words.append(f"env.vars=[ {' '.join(_quoted(f'{key}={value}') for key, value in env.items())} ]")
    if arguments:
        words += ["--", *(_quoted(word) if _needs_quotes(word) else word for word in arguments)]
    return _checked(" ".join(words))


def linux_line(env: dict[str, str], arguments: list[str]) -> str:
    """The command line of a Linux kernel; what it does not know itself becomes init's environment.

    Raises:
        CannotRun: ``InvalidEnvironment`` for what its parser cannot carry.
    """
    console = "ttyAMA0" if platform.machine() == "aarch64" else "ttyS0"
    for key, value in env.items():
        if '"' in value:
            raise CannotRun(
                "InvalidEnvironment", f"{key}: a kernel's command line carries no quotes", lasting=True
            )
    pairs = [f'{key}="{value}"' if _needs_quotes(value) else f"{key}={value}" for key, value in env.items()]
    return _checked(" ".join([f"console={console}", "panic=-1", *pairs, *arguments]))


def _needs_quotes(word: str) -> bool:
    return not word or any(character in word for character in " \"'\\[]")


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _checked(line: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in line):
        raise CannotRun(
            "InvalidEnvironment", "a kernel's command line carries no control characters", lasting=True
        )
    return line
