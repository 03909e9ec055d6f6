"""What a kernel file is, told from its bytes, and the command line that it understands.

In comes a file, out comes the machine it boots on or a sentence why it does not. The command line is
Unikraft's for unikernels (``lib.parameter=value ... -- arguments``) and Linux's for VMs.

Unikraft on x86 finds QEMU's path of the kernel in front of its line, on arm64 it does not: a name comes first,
so that it is ``argv[0]`` there and a parameter that nobody knows, and so is passed over, here. A ``--``
straight after ``argv[0]`` would be an argument: the address always stands between.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from services.vim.worker.machine import GUEST, Share
from services.vim.worker.workload import CannotRun

_READ_LIMIT: Final = 256 * 1024 * 1024
_MULTIBOOT: Final = struct.pack("<I", 0x1BADB002)
_MULTIBOOT_WITHIN: Final = 8192  # Multiboot 0.6.96, 3.1
_PVH_NOTE: Final = (struct.pack("<III", 4, 4, 18) + b"Xen\0", struct.pack("<III", 4, 8, 18) + b"Xen\0")
_ELF_MACHINES: Final = {3: "x86_64", 62: "x86_64", 183: "aarch64"}
_ADDRESS: Final = f"{GUEST}/24:10.0.2.2:10.0.2.3"  # QEMU's user network: address, gateway, DNS
_RAMFS: Final = "initrd0:/:extract::ramfs=1:"
_SEPARATOR: Final = "--"


def machine_of(kernel: Path, machines: Collection[str] = ()) -> str:
    """``x86_64`` or ``aarch64`` for a kernel that QEMU boots.

    Args:
        kernel: its file.
        machines: what this node has a QEMU for; its own machine unless given.

    Raises:
        CannotRun: ``KernelNotBootable`` or ``WrongArchitecture``.
    """
    data = kernel.read_bytes() if kernel.stat().st_size <= _READ_LIMIT else b""
    found = _sniff(data)
    able = machines or (platform.machine(),)
    if found not in able:
        raise CannotRun(
            "WrongArchitecture", f"the kernel is for {found}", lasting=True, expected=" | ".join(able)
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


def unikernel_line(
    name: str,
    env: dict[str, str],
    arguments: list[str],
    *,
    unpack_initrd: bool = False,
    folders: Iterable[Share] = (),
    address: str = _ADDRESS,
) -> str:
    """The command line of a unikernel.

    Args:
        name: what it is called; its ``argv[0]`` on arm64.
        env: its environment.
        arguments: its arguments; those in front of a ``--`` are the kernel's own parameters, as
            Unikraft's tools take them.
        unpack_initrd: make the files of its RAM disk those of the root.
        folders: what it mounts, tagged ``fs1``, ``fs2`` ... in their order.
        address: its address, network, gateway and name server, as ``netdev.ip`` takes them.

    Raises:
        CannotRun: ``InvalidEnvironment`` for control characters, ``InvalidArguments`` for empty words.
    """
    own, arguments = parts_of(arguments)
    mounts = [_RAMFS] if unpack_initrd else []
    mounts += [f"fs{number}:{share.mount}:9pfs:::mkmp" for number, share in enumerate(folders, start=1)]
    words = [unikernel_start(name, address)]
    if mounts and not any(word.startswith("vfs.fstab=") for word in own):
        words.append(_list("vfs.fstab", mounts))
    pairs = [f"{key}={value}" for key, value in env.items()]
    # Within a list a "]" at a value's end ends the list, quotes or not: such values go one by one.
    words += [parameter_of(key, value) for key, value in env.items() if value.endswith("]")]
    if listed := [pair for pair in pairs if not pair.endswith("]")]:
        words.append(_list("env.vars", listed))
    words += map(word_of, own)
    if arguments:
        words += [_SEPARATOR, *map(word_of, arguments)]
    return _checked(" ".join(words))


def unikernel_start(name: str, address: str = _ADDRESS) -> str:
    """What every line of a unikernel begins with: its name and its address on QEMU's own network."""
    return f"{name} netdev.ip={address}"


def parts_of(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The kernel's own parameters and the program's arguments, which a ``--`` parts."""
    if _SEPARATOR not in arguments:
        return [], arguments
    cut = arguments.index(_SEPARATOR)
    return arguments[:cut], arguments[cut + 1 :]


def parameter_of(name: str, value: str) -> str:
    """One variable of the environment as a parameter of its own, as it stands in a line.

    Raises:
        CannotRun: ``InvalidEnvironment``.
    """
    return _checked(_quoted(f"env.vars={name}={value}"))


def _list(parameter: str, values: list[str]) -> str:
    return f"{parameter}=[ {' '.join(map(_quoted, values))} ]"


def word_of(word: str) -> str:
    """A parameter or an argument as it stands in a line.

    Raises:
        CannotRun: ``InvalidArguments`` or ``InvalidEnvironment``.
    """
    if not word:
        raise CannotRun(
            "InvalidArguments",
            "one of the arguments is empty, and a unikernel's command line carries no empty words",
            lasting=True,
            expected="arguments of at least one character, also after $(NAME) is filled in",
        )
    return _checked(_quoted(word) if _needs_quotes(word) else word)


def linux_line(env: dict[str, str], arguments: list[str], architecture: str = platform.machine()) -> str:
    """The command line of a Linux kernel; what it does not know itself becomes init's environment.

    Raises:
        CannotRun: ``InvalidEnvironment`` for what its parser cannot carry.
    """
    console = "ttyAMA0" if architecture == "aarch64" else "ttyS0"
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
