"""What is promised: the cores, memory and host ports that placements reserve on each node.

Reservations are taken in the same step as the choice, before anything is awaited, so two requests
at once never both take the last gigabyte. The ledger is rebuilt from the decisions at start.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.deployment import Placement


@dataclass
class Reserved:
    """What is taken on one node: cores, bytes, and who holds which host port."""

    cpu: float = 0.0
    memory: int = 0
    ports: dict[int, str] = field(default_factory=dict)


class Ledger:
    """Reservations by deployment and by node."""

    def __init__(self) -> None:
        self._placements: dict[str, list[Placement]] = {}
        self._ports: dict[str, list[int]] = {}

    def reserve(self, deployment: str, placements: list[Placement], host_ports: list[int]) -> None:
        """Replace what a deployment holds."""
        self._placements[deployment] = placements
        self._ports[deployment] = host_ports

    def release(self, deployment: str) -> None:
        """A deployment holds nothing any more."""
        self._placements.pop(deployment, None)
        self._ports.pop(deployment, None)

    def of_nodes(self, *, without: str | None = None) -> dict[str, Reserved]:
        """What is taken on each node, leaving out one deployment (that is being placed anew)."""
        nodes: dict[str, Reserved] = {}
        for deployment, placements in self._placements.items():
            if deployment == without:
                continue
            for placement in placements:
                taken = nodes.setdefault(placement.node, Reserved())
                taken.cpu += placement.cpu
                taken.memory += placement.memory + placement.memory_overhead
                taken.ports.update(dict.fromkeys(self._ports[deployment], deployment))
        return nodes
