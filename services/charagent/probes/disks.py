"""Mounted disks, each once: no bind mounts, no duplicates, no pseudo file systems; from mountinfo."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from services.charagent.probes.silent import Silent, children, number, text

_NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.sshfs", "9p", "virtiofs")
_READ_ONLY_IMAGES: Final = ("squashfs", "erofs", "iso9660", "udf", "cramfs")
_NO_DISKS: Final = ("/dev/loop", "/dev/ram", "/dev/zram")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One mounted disk.

    Attributes:
        number: ``major:minor`` of the device.
        root: which folder of the file system is mounted; ``/`` unless it is a bind mount.
        path: where it is mounted.
        filesystem: its type.
        source: the device, or the network share.
        read_only: mounted so.
    """

    number: str
    root: str
    path: str
    filesystem: str
    source: str
    read_only: bool


def read(root: Path) -> list[dict[str, Any]]:
    """``[{"device", "mount", "filesystem", "total": bytes, "kind", "read_only"}]``, by mount path."""
    found = []
    for mount in mounts(root):
        space = usage(root, mount)
        if space is None or space.f_blocks == 0:
            continue
        found.append(
            {
                "device": mount.source,
                "mount": mount.path,
                "filesystem": mount.filesystem,
                "total": space.f_blocks * space.f_frsize,
                "kind": _kind(root, mount),
                "read_only": mount.read_only,
            }
        )
    if not found:
        raise Silent("no disk is mounted here (in a container, only the host sees them)")
    return found


def mounts(root: Path) -> list[Mount]:
    """The mounted disks, each device once, at its shortest path."""
    listing = text(root / "proc/self/mountinfo") or ""
    every = [mount for line in listing.splitlines() if (mount := _parse(line)) is not None]
    whole = [mount for mount in every if _is_disk(mount)]
    once: dict[str, Mount] = {}
    for mount in sorted(whole, key=lambda mount: (len(mount.path), mount.path)):
        # btrfs gives each subvolume a number of its own, but the device is one.
        key = mount.source if mount.number.startswith("0:") else mount.number
        once.setdefault(key, mount)
    return sorted(once.values(), key=lambda mount: mount.path)


def usage(root: Path, mount: Mount) -> os.statvfs_result | None:
    """Sizes of a mounted file system; None if it cannot be asked (a share that is gone)."""
    try:
        return os.statvfs(root / mount.path.lstrip("/"))
    except OSError:
        return None


def _parse(line: str) -> Mount | None:
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue   (proc(5))
    before, found, after = line.partition(" - ")
    fields, tail = before.split(), after.split()
    if not found or len(fields) < 6 or len(tail) < 2:
        return None
    path, source = _unescaped(fields[4]), _unescaped(tail[1])
    options = {*fields[5].split(","), *(tail[2].split(",") if len(tail) > 2 else ())}
    return Mount(fields[2], _unescaped(fields[3]), path, tail[0], source, "ro" in options)


def _is_disk(mount: Mount) -> bool:
    if mount.filesystem in _NETWORK:
        return True
    if mount.filesystem in _READ_ONLY_IMAGES or mount.source.startswith(_NO_DISKS):
        return False
    whole = mount.root == "/" or mount.filesystem == "btrfs"  # a subvolume is no bind mount
    return whole and (mount.source.startswith("/dev/") or mount.filesystem == "zfs")


def _kind(root: Path, mount: Mount) -> str:
    if mount.filesystem in _NETWORK:
        return "network"
    device = _block(root, mount)
    if device is None:
        return "unknown"
    if device.name.startswith("nvme"):
        return "nvme"
    if device.name.startswith("mmcblk"):
        return "sd"
    rotational = number(device / "queue/rotational")
    if rotational == 1 and device.name.startswith(("vd", "xvd")):
        return "unknown"  # a virtual disk says "rotating" unless its host says otherwise
    return "unknown" if rotational is None else "hdd" if rotational else "ssd"


def _block(root: Path, mount: Mount) -> Path | None:
    """The whole disk's folder in sysfs; a partition's disk, the first disk below a mapped device."""
    device = root / "sys/dev/block" / mount.number
    if not device.exists():
        device = root / "sys/class/block" / Path(mount.source).name
    if not device.exists():
        return None
    device = device.resolve()
    for _ in range(4):  # LVM on LUKS on RAID is three deep
        below = children(device / "slaves")
        if not below:
            break
        device = below[0].resolve()
    return device.parent if (device / "partition").exists() else device


def _unescaped(field: str) -> str:
    return _ESCAPE.sub(lambda code: chr(int(code[1], 8)), field)
