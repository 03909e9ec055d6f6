"""Installed memory, from ``/proc/meminfo``."""

from __future__ import annotations

from pathlib import Path

from services.charagent.probes.silent import Silent, text


def read(root: Path) -> dict[str, int]:
    """``{"total": bytes}``."""
    total = fields(root).get("MemTotal")
    if total is None:
        raise Silent("/proc/meminfo names no MemTotal")
    return {"total": total}


def fields(root: Path) -> dict[str, int]:
    """Every field of ``/proc/meminfo``, in bytes."""
    found: dict[str, int] = {}
    for line in (text(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found
