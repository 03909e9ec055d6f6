"""The CNI plugins that give pods their addresses."""

from __future__ import annotations

from tests.parts.go import GoPart


class CniPlugins(GoPart):
    """``bridge``, ``host-local``, ``loopback`` and ``portmap``."""

    def __init__(self) -> None:
        plugins = ("main/bridge", "main/loopback", "ipam/host-local", "meta/portmap")
        packages = [f"github.com/containernetworking/plugins/plugins/{plugin}" for plugin in plugins]
        super().__init__("cni-plugins", "cni", packages, "some seconds")
