"""QEMU for x86-64 machines, by software emulation unless the machine offers more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.parts.debian import DebianPart
from tests.parts.process import PartProcess


class Qemu(DebianPart):
    """``qemu-system-x86_64`` with its firmware."""

    def __init__(self, *, use_installed: bool = True) -> None:
        super().__init__(
            "qemu",
            ("qemu-system-x86", "qemu-system-data", "seabios"),
            "usr/bin/qemu-system-x86_64",
            # Unpacked, its data lie in three folders that the installed one finds by links.
            (
                "-L",
                "{root}/usr/share/qemu",
                "-L",
                "{root}/usr/share/seabios",
                "-L",
                "{root}/usr/lib/ipxe/qemu",
            ),
            use_installed=use_installed,
        )

    def start(self, kernel: Path, output: Path, arguments: Sequence[str] = ()) -> PartProcess:
        """Boot a kernel with its serial console in ``output``; exits instead of rebooting."""
        machine = ["-machine", "pc", "-accel", "tcg", "-m", "64", "-display", "none", "-no-reboot"]
        plain = ["-nodefaults", "-serial", "stdio", "-monitor", "none", "-kernel", str(kernel)]
        return PartProcess([self.obtain(), *machine, *plain, *arguments], output)


class QemuArm(DebianPart):
    """``qemu-system-aarch64``: machines of another kind than most tests run on."""

    def __init__(self, *, use_installed: bool = True) -> None:
        super().__init__(
            "qemu-arm",
            ("qemu-system-arm", "qemu-system-data"),
            "usr/bin/qemu-system-aarch64",
            ("-L", "{root}/usr/share/qemu"),
            use_installed=use_installed,
        )
