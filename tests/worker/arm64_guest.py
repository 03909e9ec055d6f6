"""The smallest arm64 kernel that tells what it was given: it prints its device tree, command line included.

Assembled by hand, since few machines have a compiler for another one: the header of an arm64 Image (Linux,
Documentation/arch/arm64/booting), then fourteen instructions.
"""

import struct
from pathlib import Path

_HEADER = struct.pack("<II6Q4sI", 0x14000010, 0xD503201F, 0x80000, 0x1000, 0xA, 0, 0, 0, b"ARM\x64", 0)
_CODE = [
    0xAA0003F3,  # mov x19, x0            where the device tree is
    0xB9400401,  # ldr w1, [x0, #4]       its size, big-endian
    0x5AC00821,  # rev w1, w1
    0x8B010002,  # add x2, x0, x1
    0xD2A12003,  # mov x3, #0x9000000     the serial port of QEMU's board "virt"
    0x38401664,  # 1: ldrb w4, [x19], #1
    0x34000044,  # cbz w4, 2f
    0x39000064,  # strb w4, [x3]
    0xEB02027F,  # 2: cmp x19, x2
    0x54FFFF83,  # b.lo 1b
    0x52800100,  # mov w0, #0x8           PSCI's SYSTEM_OFF
    0x72B08000,  # movk w0, #0x8400, lsl #16
    0xD4000002,  # hvc #0
    0x14000000,  # b .
]


def write(folder: Path) -> Path:
    """The kernel in a file of ``folder``."""
    path = folder / "arm64"
    path.write_bytes(_HEADER + struct.pack(f"<{len(_CODE)}I", *_CODE))
    return path
