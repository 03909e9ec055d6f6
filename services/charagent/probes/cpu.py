"""The processor: architecture, word size, usable logical cores, model; from ``/proc/cpuinfo``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from services.charagent.probes.silent import Silent, text

_BITS_OF_ARCH = {"x86_64": 64, "aarch64": 64, "riscv64": 64, "armv7l": 32, "armv6l": 32, "i686": 32}


def read(root: Path) -> dict[str, Any]:
    """``{"arch", "bits", "cores", "model"}``; cores are the online ones that this process may use."""
    listing = text(root / "proc/cpuinfo")
    if listing is None:
        raise Silent(f"{root / 'proc/cpuinfo'} cannot be read")
    fields: dict[str, str] = {}
    processors = 0
    for line in listing.splitlines():
        name, _, value = line.partition(":")
        key = name.strip()
        processors += key == "processor"
        fields.setdefault(key, value.strip())
    arch = _arch(root)
    cores = _online(text(root / "sys/devices/system/cpu/online")) or processors or 1
    if root == Path("/"):
        # A container or a taskset may leave us fewer than the machine has.
        cores = min(cores, len(os.sched_getaffinity(0)))
    return {"arch": arch, "bits": _BITS_OF_ARCH.get(arch, 64), "cores": cores, "model": _model(root, fields)}


def _arch(root: Path) -> str:
    recorded = text(root / "proc/sys/kernel/arch")  # Linux 6.1 and newer; recordings carry it too
    return recorded or os.uname().machine


def _model(root: Path, fields: dict[str, str]) -> str | None:
    # ARM's cpuinfo names no processor, but the board's device tree names the machine.
    return (
        fields.get("model name")
        or fields.get("Model")
        or text(root / "proc/device-tree/model")
        or fields.get("Hardware")
        or None
    )


def _online(ranges: str | None) -> int:
    """How many processors ``0-3,6`` counts."""
    total = 0
    for part in (ranges or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            total += int(last or first) - int(first) + 1
    return total
