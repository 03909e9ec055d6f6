"""A node while replicas are put on it: what is free there, and why one more does not fit.

In: the node as the index knows it, what others hold there and what the deployment itself runs
there. Out: refusals that say what was wanted and what there was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from schemas.decision import Placement
from schemas.deployment import DeploymentRequest
from schemas.node import RuntimeName
from schemas.quantities import format_bytes, format_cores
from services.vim.ledger import Reserved
from services.vim.neighbours import Neighbours
from services.vim.offer import Offer, no_offer, offer
from services.vim.overhead import overhead_of
from services.vim.taints import avoided, standing

_MIB: Final = 1024 * 1024
#: Memory of a guest whose request does not say: a kernel must be given some.
GUEST_MEMORY: Final[dict[str, int]] = {"unikernel": 64 * _MIB, "vm": 256 * _MIB}
#: Cores are fractions: less than a thousandth of a millicore is nobody's.
CRUMB: Final = 1e-6


def needs(
    request: DeploymentRequest, runtime: RuntimeName, engine: str | None = None, arch: str | None = None
) -> tuple[float, int, int]:
    """Cores, bytes and bytes of overhead that one replica is charged in ``runtime`` run by ``engine``."""
    memory = request.resources.memory or GUEST_MEMORY.get(runtime, 0)
    cpu = request.resources.cpu
    return cpu or 0.0, memory, overhead_of(runtime, engine, cpu, arch)


class Refusal(NamedTuple):
    """Why one more replica does not fit: by which attribute, what was wanted and what there was."""

    kind: str
    attribute: str | None
    wanted: Any
    had: Any

    def sentence(self, least: Any, most: Any) -> str:
        """For people; of several nodes refused alike, what they had from ``least`` to ``most``."""
        had = _span(least, most, _FORMATS.get(self.kind, str))
        match self.kind:
            case "runtimes" | "unfit":
                return f"offers no {self.wanted}"
            case "cpu" | "memory":
                return f"{self.kind} {had} unreserved < {_FORMATS[self.kind](self.wanted)}"
            case "available":
                return f"memory {had} available < {format_bytes(self.wanted)}"
            case "twin":
                return f"host port {self.wanted} is taken by another replica"
            case "port":
                return f"host port {self.wanted} is taken by deployment {had}"
            case "taint":
                return f"taint {had} is not tolerated"
            case "apart" | "together":
                runs = "runs" if self.kind == "apart" else "does not run"
                there = "there" if self.attribute == "name" else f"on the same {self.attribute}"
                return f"{self.wanted} {runs} {there}"
            case _:
                return f"was tried there: {self.wanted}"


_FORMATS: Final[dict[str, Callable[[Any], str]]] = {
    "cpu": format_cores,
    "memory": format_bytes,
    "available": format_bytes,
}


def _span(least: Any, most: Any, text: Callable[[Any], str]) -> str:
    return text(least) if least == most else f"{text(least)} to {text(most)}"


class Room:
    """What one node has left.

    Args:
        node: the node's attributes.
        reserved: what other deployments hold there.
        own: what this deployment runs there, by replica; a replica that is put here again replaces it.
        placing: replicas that are being placed and so do not yet count as being here.
        neighbours: who may not run beside whom.
    """

    def __init__(
        self,
        node: dict[str, Any],
        reserved: Reserved,
        own: Mapping[int, Placement],
        placing: Iterable[int],
        neighbours: Neighbours | None = None,
    ) -> None:
        self.node = node
        self.name: str = node["name"]
        self.reserved = reserved
        self._neighbours = neighbours
        self.own = dict(own)
        self.replicas = len(self.own.keys() - set(placing))
        self._cpu = float(node.get("cpu.cores") or 0) - reserved.cpu
        self._memory = int(node.get("memory.total") or 0) - reserved.memory
        self._available: int | None = node.get("memory.available")
        self._put = 0
        # Pods get less than the machine has.
        self._beyond_pods = (
            max(0.0, float(node.get("cpu.cores") or 0) - float(node.get("cluster.cpu", math.inf))),
            max(0, int(node.get("memory.total") or 0) - int(node.get("cluster.memory", 2**63))),
        )
        self._offers: dict[str, Offer | None] = {}
        for placement in self.own.values():
            self._cpu -= placement.cpu
            self._memory -= placement.memory + placement.memory_overhead

    def offer(self, request: DeploymentRequest, runtime: RuntimeName) -> Offer | None:
        """Who would run it here, and with what."""
        if runtime not in self._offers:
            self._offers[runtime] = offer(request, runtime, self.node)
        return self._offers[runtime]

    def refusal(
        self, request: DeploymentRequest, runtime: RuntimeName, replica: int | None = None
    ) -> Refusal | None:
        """Why this node cannot take ``replica`` (or a new one), None where it can."""
        by = self.offer(request, runtime)
        if by is None:
            if unfit := no_offer(request, runtime, self.node):
                return Refusal("unfit", "runtimes", f"{runtime} for this: {unfit}", None)
            offered = self.node.get("runtimes") or ()
            return Refusal("runtimes", "runtimes", runtime, ", ".join(offered))
        cpu, memory, overhead = needs(request, runtime, by.engine, self.node.get("cpu.arch"))
        less_cpu, less_memory = self._beyond_pods if by.driver == "kubernetes" else (0.0, 0)
        before = self.own.get(-1 if replica is None else replica)
        if before is None and (taints := standing(request, self.node, by.driver)):
            return Refusal("taint", "taints", None, taints)  # what runs already is let run
        if self._neighbours and (forbidden := self._neighbours.refusal(self.node, replica)):
            return Refusal(*forbidden, None)
        freed = before.memory + before.memory_overhead if before else 0
        cores = self._cpu - less_cpu + (before.cpu if before else 0.0)
        if cpu > cores + CRUMB:
            return Refusal("cpu", "allocatable.cpu", cpu, max(0.0, round(cores, 3)))
        unreserved = self._memory - less_memory + freed
        if memory + overhead > unreserved:
            return Refusal("memory", "allocatable.memory", memory + overhead, max(0, unreserved))
        # What a workload gives back is not known: only for one that goes on as it is, it surely is enough.
        back = freed if before and before.runtime == runtime else 0
        if self._available is not None and memory + overhead > self._available + back:
            return Refusal("available", "memory.available", memory + overhead, self._available)
        pinned = [port.host_port for port in request.ports if port.host_port]
        if pinned and (self._put or self.own.keys() - {replica}):
            return Refusal("twin", "ports", pinned[0], None)
        for port in pinned:
            if port in self.reserved.ports:
                return Refusal("port", "ports", port, self.reserved.ports[port])
        return None

    def avoids(self, request: DeploymentRequest, runtime: RuntimeName) -> bool:
        """Whether a taint asks to prefer another node."""
        by = self.offer(request, runtime)
        return by is not None and avoided(request, self.node, by.driver)

    def take(self, request: DeploymentRequest, runtime: RuntimeName, replica: int) -> None:
        """Put a replica here."""
        by = self.offer(request, runtime)
        cpu, memory, overhead = needs(request, runtime, by.engine if by else None, self.node.get("cpu.arch"))
        before = self.own.pop(replica, None)
        freed = before.memory + before.memory_overhead if before else 0
        self._cpu += (before.cpu if before else 0.0) - cpu
        self._memory += freed - memory - overhead
        if self._available is not None:
            back = freed if before and before.runtime == runtime else 0
            self._available += back - memory - overhead
        if self._neighbours:
            self._neighbours.take(self.node, replica)
        self._put += 1
        self.replicas += 1
