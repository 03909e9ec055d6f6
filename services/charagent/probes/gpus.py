"""Graphics processors: NVIDIA's own files and tool, a Jetson's device tree, then PCI cards in DRM."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from services.charagent.probes.silent import Silent, children, number, text
from services.charagent.programs import output

_VENDORS: Final = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}
_PCI_NAMES: Final = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


def read(root: Path) -> list[dict[str, Any]]:
    """``[{"name", "vendor", "memory": bytes or None}]``.

    Cards of virtual machines and of management controllers draw a console and compute nothing: only the
    vendors above count. A Raspberry Pi's VideoCore is left out for the same reason.
    """
    found = _nvidia(root) or _tegra(root)
    found += _drm(root, skip_nvidia=bool(found))
    if not found:
        raise Silent("no GPU of NVIDIA, AMD or Intel in /proc/driver/nvidia or /sys/class/drm")
    return found


def _nvidia(root: Path) -> list[dict[str, Any]]:
    if not children(root / "proc/driver/nvidia/gpus"):
        return []
    if root == Path("/"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        rows = [line.rpartition(",") for line in (output(query) or "").splitlines()]
        cards = [_card(name.strip(), "nvidia", _mebibytes(memory)) for name, comma, memory in rows if comma]
        if cards:
            return cards
    cards = []
    for card in children(root / "proc/driver/nvidia/gpus"):
        for line in (text(card / "information") or "").splitlines():
            if line.startswith("Model:"):
                cards.append(_card(line.partition(":")[2].strip(), "nvidia", None))
    return cards


def _tegra(root: Path) -> list[dict[str, Any]]:
    if "nvidia,tegra" not in (text(root / "proc/device-tree/compatible") or ""):
        return []
    # A Jetson's GPU has no name and no memory of its own: it shares the board's.
    return [_card(f"{text(root / 'proc/device-tree/model') or 'NVIDIA Jetson'} GPU", "nvidia", None)]


def _drm(root: Path, *, skip_nvidia: bool) -> list[dict[str, Any]]:
    found = []
    for card in children(root / "sys/class/drm"):
        if not card.name.removeprefix("card").isdigit():  # card0-HDMI-A-1 is a socket
            continue
        vendor = number(card / "device/vendor")
        name = _VENDORS.get(vendor or 0)
        if vendor is None or name is None or (skip_nvidia and name == "nvidia"):
            continue
        model = number(card / "device/device") or 0
        called = _pci_name(root, vendor, model) or f"{name} {vendor:04x}:{model:04x}"
        found.append(_card(called, name, number(card / "device/mem_info_vram_total")))
    return found


def _pci_name(root: Path, vendor: int, model: int) -> str | None:
    """A card's name in the PCI database, where the machine has one."""
    for path in _PCI_NAMES:
        try:
            with (root / path).open(errors="replace") as database:
                within = False
                for line in database:
                    if not line.startswith(("\t", "#")):
                        within = line.startswith(f"{vendor:04x} ")
                    elif within and line.startswith(f"\t{model:04x} "):
                        return line.split(None, 1)[1].strip()
        except OSError:
            continue
    return None


def _card(name: str, vendor: str, memory: int | None) -> dict[str, Any]:
    return {"name": name, "vendor": vendor, "memory": memory}


def _mebibytes(figure: str) -> int | None:
    figure = figure.strip()
    return int(figure) * 1024 * 1024 if figure.isdigit() else None
