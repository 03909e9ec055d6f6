"""Whether KVM runs guest code here: tried, not guessed.

``/dev/kvm`` may exist and be useless (a nested host that emulates, or refuses 64-bit guests). So a child
process makes a virtual machine, lets it run a few instructions in 64-bit mode and looks for the one exit
that only executed code can cause. Out: exit status 0 if it did, 1 if not, the reason on standard output.
The child keeps the agent small (``ctypes``) and may hang or crash alone.

Numbers: Linux ``include/uapi/linux/kvm.h`` and ``arch/x86/include/uapi/asm/kvm.h``; Intel SDM volume 3,
chapters 2 and 4, for the registers of long mode.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

TIMEOUT: Final = 5.0  # seconds for the child, the start of an interpreter included
_DEVICE: Final = "/dev/kvm"

_API_VERSION: Final = 12
_GET_API_VERSION, _CREATE_VM, _GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
_CREATE_VCPU, _RUN = 0xAE41, 0xAE80
_SET_USER_MEMORY_REGION: Final = 0x4020AE46
_GET_SREGS, _SET_SREGS, _SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
_EXIT_IO: Final = 2

# Guest-physical layout, inside 64 KiB: three page tables that map the first 2 MiB onto itself, then code.
_SIZE, _PML4, _PDPT, _PD, _STACK, _CODE = 0x10000, 0x1000, 0x2000, 0x3000, 0x7000, 0x8000
_PORT: Final = 0x10
_PROGRAM: Final = bytes.fromhex(
    "660fefc0"  # pxor xmm0, xmm0     SSE: emulating hosts stop here
    "b940420f00"  # mov ecx, 1000000
    "ffc9"  # loop: dec ecx
    "75fc"  # jnz loop               a million turns: emulation would be slow enough to time out
    "b042"  # mov al, 0x42
    "e610"  # out 0x10, al           the exit that we wait for
    "f4"  # hlt
)


def available(timeout: float = TIMEOUT) -> tuple[bool, str]:
    """Whether guest code ran, and a sentence about it."""
    if not Path(_DEVICE).exists():
        return False, f"no {_DEVICE}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return False, f"{_DEVICE} is not open to this user (group kvm)"
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__ if __name__ != "__main__" else "services.charagent.kvm"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
            cwd=Path(__file__).resolve().parents[2],
        )
    except subprocess.TimeoutExpired:
        return False, f"{_DEVICE}: guest code did not end within {timeout:g} s"
    except OSError as error:
        return False, f"{_DEVICE} could not be tried: {error}"
    said = done.stdout.decode(errors="replace").strip()
    return done.returncode == 0, said or f"{_DEVICE}: the trial ended with status {done.returncode}"


def _run_guest() -> int:
    """Run the program in a fresh virtual machine; the reason of its exit (``kvm_run.exit_reason``)."""
    import ctypes  # noqa: PLC0415 - in the child only
    import fcntl  # noqa: PLC0415
    import mmap  # noqa: PLC0415

    kvm = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    version = fcntl.ioctl(kvm, _GET_API_VERSION, 0)
    if version != _API_VERSION:
        raise OSError(f"KVM's API is version {version}, not {_API_VERSION}")
    machine = fcntl.ioctl(kvm, _CREATE_VM, 0)

    memory = mmap.mmap(-1, _SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    present_writable, large_page = 0x3, 0x80
    struct.pack_into("<Q", memory, _PML4, _PDPT | present_writable)
    struct.pack_into("<Q", memory, _PDPT, _PD | present_writable)
    struct.pack_into("<Q", memory, _PD, large_page | present_writable)
    memory[_CODE : _CODE + len(_PROGRAM)] = _PROGRAM
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, _SIZE, address))

    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    shared = mmap.mmap(processor, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
    special = bytearray(0x138)
    fcntl.ioctl(processor, _GET_SREGS, special)
    _enter_long_mode(special)
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    general = [0] * 18
    general[6], general[16], general[17] = _STACK, _CODE, 0x2  # rsp, rip, rflags
    fcntl.ioctl(processor, _SET_REGS, struct.pack("<18Q", *general))

    fcntl.ioctl(processor, _RUN, 0)
    (reason,) = struct.unpack_from("<I", shared, 8)
    return int(reason)


def _enter_long_mode(special: bytearray) -> None:
    """Flat 64-bit segments, paging on, in a ``struct kvm_sregs``."""
    # base, limit, selector; type, present, dpl, db, s, l, g, avl, unusable, padding
    code = struct.pack("<QIH10B", 0, 0xFFFFFFFF, 0x08, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
    data = struct.pack("<QIH10B", 0, 0xFFFFFFFF, 0x10, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
    special[0:24] = code
    for segment in range(1, 6):  # ds, es, fs, gs, ss
        special[24 * segment : 24 * (segment + 1)] = data
    control = 8 * 24 + 2 * 16  # after eight segments and two descriptor tables
    *_, apic_base = struct.unpack_from("<7Q", special, control)
    cr0 = 0x80050033  # PG, AM, WP, NE, ET, MP, PE
    cr4 = 0x620  # OSXMMEXCPT, OSFXSR, PAE
    efer = 0x500  # LMA, LME
    struct.pack_into("<7Q", special, control, cr0, 0, _PML4, cr4, 0, efer, apic_base)


def _main() -> int:
    if os.uname().machine != "x86_64":
        print(f"{_DEVICE}: no trial guest for {os.uname().machine} yet, so it is not trusted")  # noqa: T201
        return 1
    try:
        reason = _run_guest()
    except OSError as error:
        print(f"{_DEVICE} refuses a virtual machine: {error}")  # noqa: T201
        return 1
    if reason != _EXIT_IO:
        print(f"{_DEVICE}: the guest ended with KVM's exit {reason} instead of running its code")  # noqa: T201
        return 1
    print("guest code ran")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(_main())
