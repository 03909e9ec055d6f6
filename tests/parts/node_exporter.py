"""Prometheus' node_exporter: the peer that the agent is measured beside."""

from __future__ import annotations

from pathlib import Path

from tests.parts.debian import DebianPart
from tests.parts.process import PartProcess, free_port


class NodeExporter(DebianPart):
    """``prometheus-node-exporter`` of Debian."""

    def __init__(self, *, use_installed: bool = True) -> None:
        super().__init__(
            "node-exporter",
            ("prometheus-node-exporter",),
            "usr/bin/prometheus-node-exporter",
            use_installed=use_installed,
        )

    def start(self, output: Path) -> tuple[PartProcess, str]:
        """A running exporter on loopback, and the URL of its page."""
        port = free_port()
        exporter = PartProcess([self.obtain(), f"--web.listen-address=127.0.0.1:{port}"], output)
        try:
            exporter.wait_for_port(port)
        except BaseException:
            exporter.kill()
            raise
        return exporter, f"http://127.0.0.1:{port}/metrics"
