"""How good each node is for a request: a number a part, the first preference weighs most.

Pure: the same nodes and preferences give the same scores, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from schemas.attributes import lookup
from schemas.deployment import DeploymentRequest
from schemas.node import RuntimeName
from schemas.version import version_key
from services.vim.preferences import preferences
from services.vim.room import Room


def scores(
    request: DeploymentRequest, runtime: RuntimeName, rooms: Iterable[Room]
) -> dict[str, dict[str, float]]:
    """Each node's score by part, each part from 0 to its weight."""
    rooms = list(rooms)
    parts: dict[str, dict[str, float]] = {room.name: {} for room in rooms}
    weight = 1.0
    for preference in preferences(request):
        ((attribute, direction),) = preference.items()
        values = {room.name: room.node.get(attribute) for room in rooms}
        for name, part in _ranked(attribute, values, ascending=direction == "asc").items():
            parts[name][attribute] = rounded(weight * part)
        weight /= 2
    for room in rooms:
        total = float(room.node.get("memory.total") or 1)
        free = max(0.0, total - room.reserved.memory) / total
        part = 1 - free if request.pack else free
        parts[room.name]["pack" if request.pack else "room"] = rounded(weight * part * 0.5)
        load = float(room.node.get("load.1m") or 0.0) / max(1.0, float(room.node.get("cpu.cores") or 1))
        parts[room.name]["idle"] = rounded(weight * 0.5 / (1.0 + max(0.0, load)))
    away = {room.name for room in rooms if room.avoids(request, runtime)}
    if away:
        for room in rooms:
            parts[room.name]["taints"] = 0.0 if room.name in away else rounded(weight)
    return parts


def rounded(score: float) -> float:
    """To four digits, as whole arrays are rounded, so that both ways to score agree to the last bit."""
    return round(score * 1e4) / 1e4


def _ranked(attribute: str, values: dict[str, Any], *, ascending: bool) -> dict[str, float]:
    """1 for the best value, 0 for the worst and for none; equal values are equal."""
    key = order_of(attribute)
    keys = {name: key(value) for name, value in values.items() if value is not None}
    known = sorted(set(keys.values()), reverse=not ascending)
    if len(known) <= 1:
        return {name: float(name in keys) for name in values}
    parts = {value: 1 - index / (len(known) - 1) for index, value in enumerate(known)}
    return {name: parts[keys[name]] if name in keys else 0.0 for name in values}


def order_of(attribute: str) -> Callable[[Any], Any]:
    """What values of an attribute are ordered by, as the index orders them; mixed kinds never meet."""
    about = lookup(attribute)
    if about is not None and about.kind == "version":
        return lambda value: version_key(str(value))
    if about is not None and about.kind in ("string", "set"):
        return lambda value: tuple(value) if isinstance(value, list) else (str(value),)
    return lambda value: float(value) if isinstance(value, (int, float)) else float("-inf")
