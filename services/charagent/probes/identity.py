"""The node's stable id: the same after a restart, a rename, a new address; different on every machine.

The raw machine id is confidential (machine-id(5)), so what leaves the node is a keyed hash of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from services.charagent.lean import import_hashlib
from services.charagent.probes.silent import text

_SOURCES: Final = (
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "sys/class/dmi/id/product_uuid",  # readable by root only
    "proc/device-tree/serial-number",  # a Raspberry Pi
)
_UNFILLED: Final = ("uninitialized", "none", "not specified")  # what images ship and boards report


def read(root: Path, data: Path) -> str:
    """32 hexadecimal digits.

    Args:
        root: where the machine's files lie.
        data: the agent's folder; where the machine has no id of its own, one is made and kept there.
    """
    for source in _SOURCES:
        raw = text(root / source)
        if raw and raw.lower() not in _UNFILLED and set(raw.lower()) - set("0f-"):
            return _hashed(raw)
    kept = data / "id"
    raw = text(kept)
    if not raw:
        data.mkdir(parents=True, exist_ok=True)
        raw = os.urandom(16).hex()
        kept.write_text(raw + "\n")
    return _hashed(raw)


def _hashed(raw: str) -> str:
    blake2b = import_hashlib().blake2b
    return str(blake2b(b"minicloud node", key=raw.encode()[:64], digest_size=16).hexdigest())
