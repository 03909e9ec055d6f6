"""containerd: what a kubelet has its containers run by."""

from __future__ import annotations

from tests.parts.go import GoPart


class Containerd(GoPart):
    """``containerd``, its shim for runc and ``ctr``."""

    def __init__(self) -> None:
        programs = ("containerd", "containerd-shim-runc-v2", "ctr")
        packages = [f"github.com/containerd/containerd/v2/cmd/{program}" for program in programs]
        super().__init__("containerd", "containerd", packages, "1 to 2 minutes")
