"""Debian's kernel for clouds, and a RAM disk of busybox that serves a page: the smallest Linux VM of a distribution."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Final

from services.vim.worker.cpio import _entry
from tests.parts.debian import DebianPart
from tests.parts.part import PartMissing, run_tool

#: In the order in which they need each other.
_MODULES: Final = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "failover",
    "net_failover", "virtio_net",
)  # fmt: skip
_INIT: Final = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for module in {modules}; do
    [ -f "/modules/$module.ko" ] && /bin/busybox insmod "/modules/$module.ko"
done
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add 10.0.2.15/24 dev eth0
exec /bin/busybox httpd -f -p 8080 -h /www
"""


class LinuxKernel(DebianPart):
    """``vmlinuz`` and its modules."""

    def __init__(self) -> None:
        super().__init__("linux-cloud", ("linux-image-cloud-amd64",), "vmlinuz", use_installed=False)

    def build(self, into: Path) -> None:
        said = run_tool(["apt-cache", *self._apt, "depends", self.packages[0]])
        found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", said)
        if found is None:
            raise PartMissing(f"{self.packages[0]} names no kernel")
        self.say(f"downloading {found[1]}, 27 MB")
        run_tool(["apt-get", *self._apt, "-o", "APT::Sandbox::User=root", "download", found[1]], cwd=into)
        (package,) = into.glob("*.deb")
        run_tool(["dpkg", "-x", package, into / "root"])
        package.unlink()
        (kernel,) = (into / "root" / "boot").glob("vmlinuz-*")
        kernel.rename(into / "vmlinuz")

    def entry(self, folder: Path) -> Path:
        return folder / "vmlinuz"

    def ram_disk(self, busybox: Path, page: str) -> bytes:
        """An initial RAM disk whose only program serves ``page`` on port 8080."""
        root = self.obtain().parent / "root"
        files = {
            "init": (_INIT.format(modules=" ".join(_MODULES)).encode(), 0o755),
            "bin/busybox": (busybox.read_bytes(), 0o755),
            "www/index.html": (page.encode(), 0o644),
        }
        for module in _MODULES:
            for path in (root / "lib" / "modules").glob(f"*/kernel/**/{module}.ko"):
                files[f"modules/{module}.ko"] = (path.read_bytes(), 0o644)
        folders = ("bin", "www", "dev", "modules")
        parts = [
            _entry(number, name, stat.S_IFDIR | 0o755, b"") for number, name in enumerate(folders, start=1)
        ]
        parts += [
            _entry(number, name, stat.S_IFREG | mode, content)
            for number, (name, (content, mode)) in enumerate(files.items(), start=100)
        ]
        return b"".join([*parts, _entry(0, "TRAILER!!!", 0, b"")])
