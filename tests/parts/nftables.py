"""nft: what kube-proxy and the port mappings of pods write their rules with."""

from __future__ import annotations

from tests.parts.debian import DebianPart


class Nftables(DebianPart):
    """The ``nft`` program."""

    def __init__(self, *, use_installed: bool = True) -> None:
        super().__init__("nftables", ("nftables",), "usr/sbin/nft", use_installed=use_installed)
