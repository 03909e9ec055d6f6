"""What is promised: the cores, memory and host ports that deployments hold on each node.

Reservations are taken in the same step as the choice, before anything is awaited, so two requests
at once never both take the last gigabyte. The ledger is rebuilt from the levels at start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Held:
    """What one replica takes on one node: cores, bytes with the runtime's own, pinned host ports; and its number."""

    node: str
    cpu: float = 0.0
    memory: int = 0
    ports: tuple[int, ...] = ()
    replica: int = 0


@dataclass(slots=True)
class Reserved:
    """What is taken on one node: cores, bytes, and who holds which host port."""

    cpu: float = 0.0
    memory: int = 0
    ports: dict[int, str] = field(default_factory=dict)


class Ledger:
    """Reservations by deployment and by node.

    Args:
        changed: told what all hold on a node whenever that changes.
    """

    def __init__(self, changed: Callable[[str, Reserved], None] = lambda _node, _reserved: None) -> None:
        self._changed = changed
        self._held: dict[str, list[Held]] = {}
        self._on: dict[str, dict[str, list[Held]]] = {}
        self._taken: dict[str, Reserved] = {}

    def reserve(self, deployment: str, held: list[Held]) -> bool:
        """Replace what a deployment holds; whether it now leaves room that it took before."""
        before = self._held.pop(deployment, [])
        if held:
            self._held[deployment] = held
        if before == held:
            return False
        for one in before:
            self._on[one.node].pop(deployment, None)
        for one in held:
            self._on.setdefault(one.node, {}).setdefault(deployment, []).append(one)
        for node in {one.node for one in (*before, *held)}:
            # Summed anew, since cores are fractions: adding and taking away would drift.
            self._taken[node] = self._sum(node)
            self._changed(node, self._taken[node])
        return any(one not in held for one in before)

    def release(self, deployment: str) -> bool:
        """A deployment holds nothing any more; whether it held anything."""
        return self.reserve(deployment, [])

    def of(self, deployment: str) -> list[Held]:
        """What a deployment holds."""
        return self._held.get(deployment, [])

    def of_nodes(self, *, without: str | None = None) -> dict[str, Reserved]:
        """What is taken on each node, leaving out one deployment (that is being placed)."""
        taken = dict(self._taken)
        for one in self._held.get(without or "", []):
            taken[one.node] = self._sum(one.node, without)
        return taken

    def _sum(self, node: str, without: str | None = None) -> Reserved:
        total = Reserved()
        for deployment, held in self._on[node].items():
            if deployment != without:
                for one in held:
                    total.cpu += one.cpu
                    total.memory += one.memory
                    total.ports.update(dict.fromkeys(one.ports, deployment))
        return total
