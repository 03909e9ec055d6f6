"""What a runtime itself takes on top of what a workload asks for.

In: what runs it, and how large it is. Out: bytes that placement reserves beside the workload's own.
"""

from __future__ import annotations

import math
from typing import Final

_MIB: Final = 1024 * 1024
#: By runtime, on a node's own worker (measured: QEMU's RSS beyond its guest). Emulating Linux takes more than
#: emulating a unikernel: the code that it translates, bounded, is all used.
OVERHEAD: Final[dict[str, int]] = {
    "process": 0,
    "container": 8 * _MIB,
    "unikernel": 64 * _MIB,
    "vm": 96 * _MIB,
}
#: Engines that run QEMU inside of a pod, which takes what every pod takes.
_IN_A_POD: Final = frozenset({"qemu-pod", "urunc"})
#: Engines that put a pod of KubeVirt around each guest.
_IN_A_LAUNCHER: Final = frozenset({"kubevirt", "kernel-boot"})
#: The sidecar in that pod that keeps the console.
_SIDECAR: Final = 35_000_000


def overhead_of(runtime: str, engine: str | None, cpu: float | None, arch: str | None = None) -> int:
    """Bytes that ``engine`` takes on top of a workload with ``cpu`` cores."""
    if engine in _IN_A_LAUNCHER:
        return launcher_overhead(cpu, arch)
    return OVERHEAD[runtime] + (OVERHEAD["container"] if engine in _IN_A_POD else 0)


def processors(cpu: float | None) -> int:
    """Whole processors of a guest whose limit is ``cpu`` cores."""
    return max(1, math.ceil(cpu or 1))


def launcher_overhead(cpu: float | None, arch: str | None = None) -> int:
    """Bytes that the pod around a guest asks for beyond the guest's own memory.

    KubeVirt's formula for a machine without graphics whose memory is given as the guest's: 220 MiB, 8 for each
    processor, 8 for the disk's thread, 128 on arm64, and the sidecar that keeps the console.
    """
    arm = 128 if arch in ("aarch64", "arm64") else 0
    return (220 + 8 * processors(cpu) + 8 + arm) * _MIB + _SIDECAR
