"""busybox, linked statically: a whole root filesystem in one file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from tests.parts.debian import DebianPart

_PT_INTERP: Final = 3


class Busybox(DebianPart):
    """The static ``busybox``; a dynamic one on the machine does not serve."""

    def __init__(self, *, use_installed: bool = True) -> None:
        super().__init__("busybox-static", ("busybox-static",), "bin/busybox", use_installed=use_installed)

    def installed(self) -> Path | None:
        found = super().installed()
        return found if found is not None and _is_static(found) else None

    def entry(self, folder: Path) -> Path:
        """The program itself, to be copied into a root filesystem: a wrapper would not run there."""
        return folder / "root" / self.program

    def _write_wrapper(self, into: Path) -> None:
        """None: a static program needs no libraries."""


def _is_static(program: Path) -> bool:
    """Whether a 64-bit ELF program names no loader (a PT_INTERP program header)."""
    with program.open("rb") as file:
        head = file.read(4096)
    if head[:5] != b"\x7fELF\x02":
        return False
    (table,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    kinds = [struct.unpack_from("<I", head, table + size * index)[0] for index in range(count)]
    return _PT_INTERP not in kinds
