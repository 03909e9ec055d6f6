"""etcd: where Kubernetes keeps what it knows."""

from __future__ import annotations

from tests.parts.go import GoPart


class Etcd(GoPart):
    """The ``etcd`` program."""

    def __init__(self) -> None:
        super().__init__("etcd", "etcd", ["etcd=go.etcd.io/etcd/server/v3"], "half a minute")
