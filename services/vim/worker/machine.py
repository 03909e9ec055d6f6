"""The machine that QEMU makes for a kernel: pure words, the same on a node of ours and in a pod.

In comes what the guest needs, out come arguments of QEMU. Everything that is a path is either a fixed
relative name or has been made safe; nothing here looks at the machine it runs on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GUEST: Final = "10.0.2.15"
PROGRAMS: Final = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}
#: The smallest guest, MiB: a Unikraft that served HTTP took 4 on x86, 8 on arm64.
LEAST_MEMORY: Final = {"x86_64": 4, "aarch64": 8}
#: QEMU says which way the guest went: only the log of its own steps tells a reset from a power-off.
TRACE: Final = (
    "-D",
    "qemu.log",
    "-trace",
    "enable=runstate_set",
    "-trace",
    "enable=qemu_system_shutdown_request",
)
#: MiB for code that emulation translated: without a bound a Linux guest fills 60 and more, and is killed for it.
TRANSLATED: Final = 32
# On q35, Unikraft finds its network card in one slot only, and never behind a bridge: pc it is.
_BOARDS: Final = {"x86_64": "pc,usb=off,vmport=off,hpet=off,graphics=off", "aarch64": "virt"}
_ACCELERATED: Final = {"x86_64": "host,+x2apic,-pmu", "aarch64": "host"}


def hardware(name: str, architecture: str, memory: int, processors: int = 1) -> list[str]:
    """The board without its processor.

    Args:
        name: of the guest, for whoever looks at the processes.
        architecture: ``x86_64`` or ``aarch64``.
        memory: of the guest, MiB.
        processors: how many the guest sees.
    """
    return [
        "-name", f"guest={name},process=minicloud-{name}",
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-machine", _BOARDS[architecture],
        "-smp", str(processors), "-m", f"{max(LEAST_MEMORY[architecture], memory)}M",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        # Through this port a guest says how it ended; there is none like it on arm64.
        *(["-device", "isa-debug-exit,iobase=0x501,iosize=2"] if architecture == "x86_64" else []),
    ]  # fmt: skip


def processor(architecture: str, *, accelerated: bool) -> list[str]:
    """The processor: the node's own by KVM, or an emulated one that has everything."""
    if accelerated:
        return ["-accel", "kvm", "-cpu", _ACCELERATED[architecture]]
    return ["-accel", f"tcg,tb-size={TRANSLATED}", "-cpu", "max"]


def network(forwards: Iterable[tuple[str, int, int]], *, outbound: bool) -> list[str]:
    """A card on QEMU's own network.

    Args:
        forwards: ``(address, port outside, port of the guest)`` for each port that is served.
        outbound: whether the guest may open connections itself.
    """
    rules = [f"hostfwd=tcp:{address}:{outside}-{GUEST}:{inside}" for address, outside, inside in forwards]
    user = ["user", "id=net", f"restrict={'off' if outbound else 'on'}", "ipv6=off", *rules]
    return [
        "-netdev", ",".join(user),
        "-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=",
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Share:
    """A folder of the node that the guest mounts at ``mount`` (9p)."""

    folder: str
    mount: str
    read_only: bool = True


def shares(folders: Iterable[Share]) -> list[str]:
    """The devices of the folders, tagged ``fs1``, ``fs2`` ... in their order."""
    words: list[str] = []
    for number, share in enumerate(folders, start=1):
        path = share.folder.replace(",", ",,")
        how = "on" if share.read_only else "off"
        words += [
            "-fsdev", f"local,id=f{number},path={path},security_model=none,readonly={how}",
            "-device", f"virtio-9p-pci,fsdev=f{number},mount_tag=fs{number}",
        ]  # fmt: skip
    return words
