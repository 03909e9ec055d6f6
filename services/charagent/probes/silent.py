"""How a probe says that it has no answer, and how small files of ``/proc`` and ``/sys`` are read."""

from __future__ import annotations

from pathlib import Path


class Silent(Exception):  # no fault: a machine without a battery is a fine machine
    """A probe has no answer; the message says why, for whoever reads the characterization."""


def text(path: Path) -> str | None:
    """The stripped text of a small file, or None where it cannot be read."""
    try:
        # Some files of sysfs and the device tree end in a NUL, and a few are not UTF-8.
        return path.read_bytes().decode(errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def number(path: Path) -> int | None:
    """The whole number in a small file, or None."""
    found = text(path)
    try:
        return int(found, 0) if found else None
    except ValueError:
        return None


def children(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by name; nothing where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
