"""The operating system: ``/etc/os-release`` and the kernel's release."""

from __future__ import annotations

from pathlib import Path

from services.charagent.probes.silent import Silent, text


def read(root: Path) -> dict[str, str | None]:
    """``{"name", "version", "kernel"}``, such as ``debian``, ``12``, ``6.1.0``."""
    release = text(root / "etc/os-release") or text(root / "usr/lib/os-release") or ""
    fields: dict[str, str] = {}
    for line in release.splitlines():
        name, found, value = line.partition("=")
        if found:
            fields[name] = value.strip().strip("\"'")
    kernel = text(root / "proc/sys/kernel/osrelease")
    if not fields and kernel is None:
        raise Silent("no /etc/os-release and no /proc/sys/kernel/osrelease")
    return {"name": fields.get("ID", "linux"), "version": fields.get("VERSION_ID"), "kernel": kernel}
