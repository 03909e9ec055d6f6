"""The configuration of a container for an OCI runtime (runtime-spec 1.0), as tight as it can be.

In comes a place and what the image says, out comes ``config.json``: namespaces for processes,
mounts, IPC and host name; the node's own network, so that a published port is simply bound; no
capability, no new privileges, a read-only root, the kernel's interfaces masked.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: What root inside of a container may do, where request and node allow root at all.
_ROOT_CAPABILITIES: Final = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID",
    "CAP_SETUID",
]  # fmt: skip
_CAPABILITY_SETS: Final = ("bounding", "effective", "permitted", "inheritable", "ambient")
_MASKED: Final = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
]  # fmt: skip
_READ_ONLY: Final = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
#: Never needed by a workload, and where most ways out of a container begin.
_REFUSED_CALLS: Final = [
    "add_key", "bpf", "clock_settime", "delete_module", "finit_module", "fsconfig", "fsmount", "fsopen",
    "fspick", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "kexec_file_load",
    "kexec_load", "keyctl", "mount", "mount_setattr", "move_mount", "open_by_handle_at", "open_tree",
    "perf_event_open",
    "pivot_root", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl", "reboot", "request_key",
    "setns", "settimeofday", "swapoff", "swapon", "umount2", "unshare", "userfaultfd",
]  # fmt: skip
_SECCOMP_MACHINES: Final = {
    "x86_64": ["SCMP_ARCH_X86_64"],
    "aarch64": ["SCMP_ARCH_AARCH64"],
    "armv7l": ["SCMP_ARCH_ARM"],
}


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """What varies between containers.

    ``binds`` maps a path inside to a file of the node, read-only; ``scratch`` are folders that are
    writable, empty at each start and gone afterwards; the group's memory limit bounds them too.
    """

    hostname: str
    root: Path
    command: tuple[str, ...]
    env: dict[str, str]
    directory: str
    uid: int
    gid: int
    groups_path: str | None
    binds: dict[str, Path]
    scratch: tuple[str, ...]
    writable: bool = False


def configuration(plan: ContainerPlan) -> dict[str, Any]:
    """The runtime-spec document for ``plan``."""
    capabilities = _ROOT_CAPABILITIES if plan.uid == 0 else []
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "rootfsPropagation": "private",
    }
    if plan.groups_path is not None:
        linux["cgroupsPath"] = plan.groups_path
    if (machines := _SECCOMP_MACHINES.get(platform.machine())) is not None:
        linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": machines,
            "syscalls": [{"names": _REFUSED_CALLS, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }
    return {
        "ociVersion": "1.0.2",
        "hostname": plan.hostname[:63],
        "process": {
            "terminal": False,
            "user": {"uid": plan.uid, "gid": plan.gid},
            "args": list(plan.command),
            "env": [f"{name}={value}" for name, value in plan.env.items()],
            "cwd": plan.directory,
            "capabilities": dict.fromkeys(_CAPABILITY_SETS, capabilities),
            "noNewPrivileges": True,
        },
        "root": {"path": str(plan.root), "readonly": not plan.writable},
        "mounts": [*_system_mounts(), *_scratch(plan), *_binds(plan)],
        "linux": linux,
    }


def _system_mounts() -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", "proc", quiet),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=64k"]),
        _mount(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
        ),
        _mount("/dev/shm", "tmpfs", "shm", [*quiet, "mode=1777", "size=64m"]),  # noqa: S108 - inside the container
        _mount("/dev/mqueue", "mqueue", "mqueue", quiet),
    ]


def _scratch(plan: ContainerPlan) -> list[dict[str, Any]]:
    return [
        _mount(
            path, "tmpfs", "tmpfs", ["nosuid", "nodev", f"mode={mode}", f"uid={plan.uid}", f"gid={plan.gid}"]
        )
        for path in plan.scratch
        for mode in ("1777" if path.endswith("tmp") else "0755",)
    ]


def _binds(plan: ContainerPlan) -> list[dict[str, Any]]:
    return [
        _mount(path, "bind", str(source), ["bind", "ro", "nosuid", "nodev"])
        for path, source in plan.binds.items()
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}
