"""What the node is: every probe asked once, the answers and the silences in one document.

In: the settings and the machine below ``root``. Out: the data of a ``minicloud.node.characterized.v1``
event, and the smaller part of it that is cheap enough to compare every half minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from services.charagent import VERSION, runtimes, software
from services.charagent.event import now
from services.charagent.probes import (
    addresses,
    battery,
    cpu,
    disks,
    gpus,
    identity,
    k3s,
    memory,
    system,
)
from services.charagent.probes.silent import Silent
from services.charagent.settings import Settings

_CHEAP: Final[Mapping[str, Callable[[Path], Any]]] = {
    "addresses": addresses.read,
    "cpu": cpu.read,
    "memory": memory.read,
    "disks": disks.read,
    "battery": battery.read,
    "os": system.read,
    "k3s": k3s.read,
}
# What stands in for a silent probe: the schema's word for "none".
_NONE: Final[Mapping[str, Any]] = {
    "addresses": [],
    "cpu": {"arch": "unknown", "bits": 64, "cores": 1, "model": None},
    "memory": {"total": 0},
    "disks": [],
    "gpus": [],
    "battery": None,
    "os": {"name": "linux", "version": None, "kernel": None},
    "k3s": None,
}


def characterize(settings: Settings, root: Path = Path("/")) -> dict[str, Any]:
    """The whole document; programs are run for it, so it takes up to a few seconds."""
    silent: dict[str, str] = {}
    found = {name: _ask(name, read, root, silent) for name, read in [*_CHEAP.items(), ("gpus", gpus.read)]}
    offered, not_offered = runtimes.read(root)
    return {
        "node": settings.node,
        "id": identity.read(root, settings.data),
        "minicloud": settings.minicloud,
        "agent": {"version": VERSION},
        **found,
        "region": settings.region,
        "rack": settings.rack,
        "labels": settings.labels,
        "software": software.read(software.commands(settings.software)),
        "runtimes": offered,
        "silent": {**silent, **not_offered},
        "probed_at": now(),
    }


def glance(root: Path = Path("/")) -> dict[str, Any]:
    """What the cheap probes say now, for :func:`changed`; a few milliseconds, no program is run."""
    return {name: _ask(name, read, root, {}) for name, read in _CHEAP.items()}


def changed(before: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    """The probes whose answer in ``seen`` says that the node is another than ``before`` said.

    A battery's charge is a metric, not what the node is.
    """

    def settled(name: str, value: Any) -> Any:
        return (value is not None, value and value["plugged"]) if name == "battery" else value

    return [name for name, value in seen.items() if settled(name, before[name]) != settled(name, value)]


def _ask(name: str, read: Callable[[Path], Any], root: Path, silent: dict[str, str]) -> Any:
    try:
        return read(root)
    except Silent as reason:
        silent[name] = str(reason)
    except Exception as error:  # noqa: BLE001 - one odd file in /sys must not silence the whole node
        silent[name] = f"the probe failed: {type(error).__name__}: {error}"
    return _NONE[name]
