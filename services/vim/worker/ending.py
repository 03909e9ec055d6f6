"""How a guest ended, told from what QEMU left: its exit code, its complaints, its log and the console.

Pure: in come a code and texts, out comes an :class:`Exit`. A Unikraft kernel says 83 through the debug
port when its program returned, whatever it returned, and 85 when it crashed; without such a port every
end looks the same, and the console and QEMU's log must tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from services.vim.worker.runtime import plain_exit
from services.vim.worker.workload import Exit

_CLEAN: Final = 83  # isa-debug-exit: (41 << 1) | 1
_CRASH: Final = 85
_KILLED_BY_FAULT: Final = frozenset({4, 6, 7, 8, 11, 31})  # what a program of its own does to itself
_NOT_STARTED: Final = frozenset({126, 127})  # by a shell; a guest that printed something may end so, too
_NO_RANDOMNESS: Final = b"Could not initialize the HWRNG"
_CRASH_SCREEN: Final = b"unikraft crash - "
_SHUTDOWN: Final = "qemu_system_shutdown_request"  # by the guest's power-off, or from outside
_TERMINATED: Final = re.compile(r"terminating on signal (\d+)")


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a run.

    Attributes:
        code: the exit code of QEMU as a shell tells it (128 and the signal).
        console: what the guest printed.
        complaint: the last thing that QEMU complained about.
        log: QEMU's log of its own steps; empty where it keeps none.
    """

    code: int
    console: bytes = b""
    complaint: str | None = None
    log: str = ""


def ending(left: Left, *, unikernel: bool, accelerated: bool) -> Exit:
    """What the end means; ``accelerated`` when KVM was used, which may look alive and be useless."""
    code, complaint = left.code, left.complaint
    if accelerated and not left.console and code != 0:
        return Exit(
            code=code,
            reason="AccelerationFailed",
            message=f"KVM is of no use ({complaint or f'QEMU ended with {code}'}); emulating instead",
        )
    if complaint and "host forwarding rule" in complaint:
        return Exit(code=code, reason="PortInUse", message=complaint)
    if (
        code - 128 in _KILLED_BY_FAULT
        or (code == 1 and complaint)
        or (code in _NOT_STARTED and not left.console)
    ):
        return Exit(code=code, reason="EngineFailed", message=complaint or f"QEMU failed ({code})")
    if code == 0:
        return _quiet(left)
    if code == _CLEAN:
        return Exit(code=0)
    if code == _CRASH:
        return Exit(code=code, reason="GuestCrashed", message="the guest crashed; its console says where")
    if unikernel and code < 128 and code % 2 == 1:
        return Exit(code=(code - 1) // 2)
    return plain_exit(code)


def _quiet(left: Left) -> Exit:
    """Zero: the guest has no debug port or did not use it, or somebody outside ended QEMU."""
    if _NO_RANDOMNESS in left.console:
        return Exit(
            code=1,
            reason="GuestFailed",
            message="the guest demands the processor's random numbers (RDRAND and RDSEED), which QEMU before"
            " 8.1.3 does not emulate in full: give it a node with KVM or a newer QEMU, or a kernel that takes"
            " random.seed as an argument (CONFIG_LIBUKRANDOM_CMDLINE_SEED)",
        )
    if _CRASH_SCREEN in left.console.lower():
        return Exit(code=1, reason="GuestCrashed", message="the guest crashed; its console says where")
    if signal := _TERMINATED.search(left.complaint or ""):
        return plain_exit(128 + int(signal[1]))
    if "runstate_set" in left.log and _SHUTDOWN not in left.log:
        return Exit(
            code=1,
            reason="GuestReset",
            message="the guest reset its machine instead of switching it off: a panic, a fault that it could"
            " not handle, or a reboot; its console may say which",
        )
    return Exit(code=0)
