"""The battery that feeds the node, from ``/sys/class/power_supply``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.charagent.probes.silent import Silent, children, number, text


def read(root: Path) -> dict[str, Any]:
    """``{"charge": per cent or None, "plugged": bool or None}``."""
    charges: list[int | None] = []
    plugged: list[bool] = []
    supplies = children(root / "sys/class/power_supply")
    for supply in supplies:
        kind = text(supply / "type")
        if kind == "Battery" and text(supply / "scope") != "Device":  # a mouse's battery feeds no node
            charges.append(number(supply / "capacity"))
        elif kind in ("Mains", "USB"):
            plugged.append(number(supply / "online") == 1)
    if not charges:
        raise Silent("no battery in /sys/class/power_supply")
    known = [charge for charge in charges if charge is not None]
    return {
        "charge": round(sum(known) / len(known), 1) if known else None,
        "plugged": any(plugged) if plugged else None,
    }
