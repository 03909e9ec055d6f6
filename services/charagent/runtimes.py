"""The runtimes that the node can offer to workloads, with their engines; each absence says why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from services.charagent import kvm, programs


def read(root: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What the node offers, and why it does not offer the rest.

    Returns:
        ``[{"name": "process" | "container" | "vm" | "unikernel", "engine", "acceleration"}]`` and
        ``{"runtimes.<name>": reason}``.
    """
    found: list[dict[str, Any]] = [_runtime("process", f"linux {os.uname().release}", None)]
    silent: dict[str, str] = {}
    refused = _why_no_container(root)
    if refused is None:
        found.append(_runtime("container", f"runc {programs.version(['runc', '--version'])}", None))
    else:
        silent["runtimes.container"] = refused

    qemu = programs.qemu()
    version = programs.version([qemu, "--version"])
    if version is None:
        silent["runtimes.vm"] = silent["runtimes.unikernel"] = f"no {qemu} on this machine"
        return found, silent
    runs, reason = kvm.available()
    if not runs:
        silent["runtimes.kvm"] = reason
    acceleration = "kvm" if runs else "tcg"
    found += [_runtime(name, f"qemu {version}", acceleration) for name in ("vm", "unikernel")]
    return found, silent


def _why_no_container(root: Path) -> str | None:
    if programs.find("runc") is None:
        return "no runc on this machine"
    if os.geteuid() != 0:
        return "runc needs root here, and the agent is not"
    hierarchies = (root / "sys/fs/cgroup/memory", root / "sys/fs/cgroup")  # version 1, version 2
    if not any((folder / "cgroup.procs").exists() and os.access(folder, os.W_OK) for folder in hierarchies):
        return "no writable cgroup in /sys/fs/cgroup, so limits could not be enforced"
    return None


def _runtime(name: str, engine: str, acceleration: str | None) -> dict[str, Any]:
    return {"name": name, "engine": engine, "acceleration": acceleration}
