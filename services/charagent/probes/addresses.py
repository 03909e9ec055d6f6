"""The addresses at which others may reach the node, by interface."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

import psutil

from services.charagent.probes.silent import Silent

# Interfaces that come and go with workloads: each container would make the node characterize anew.
_OF_WORKLOADS: Final = ("lo", "veth", "docker", "br-", "cni", "flannel", "cali", "virbr", "tap", "kube-")


def read(root: Path) -> list[dict[str, Any]]:
    """``[{"interface", "family": "ipv4" | "ipv6", "address"}]``, sorted; no loopback, no link-local.

    ``root`` is not looked at: addresses are asked of the kernel, which keeps them in no file.
    """
    del root
    families = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}
    found = [
        {"interface": interface, "family": families[address.family], "address": address.address.split("%")[0]}
        for interface, addresses in psutil.net_if_addrs().items()
        if not is_of_workloads(interface)
        for address in addresses
        if address.family in families and not address.address.startswith(("fe80:", "169.254."))
    ]
    if not found:
        raise Silent("no network interface has an address, loopback aside")
    return sorted(found, key=lambda entry: (entry["interface"], entry["family"], entry["address"]))


def is_of_workloads(interface: str) -> bool:
    """Whether an interface is loopback or belongs to workloads rather than to the node."""
    return interface.startswith(_OF_WORKLOADS)
