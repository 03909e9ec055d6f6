"""The cluster's nodes as resources of the minicloud: each is said what it is, and which are one with an agent's.

In: nodes as Kubernetes describes them, and the characterizations of agents. Out: the level of each node, and for
those without an agent a characterization, presence and signs of life as an agent would send them. A node and an
agent's are one where both come from the same machine, by its machine id.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from schemas.cluster import Allocatable, ClusterNode, Taint
from schemas.event import now
from schemas.node import Address, Agent, Characterization, Cpu, Memory, OperatingSystem, Presence
from services.vim.cluster.api import Object
from services.vim.cluster.kind import Facts, Kind, Machine
from services.vim.cluster.match import condition
from services.vim.cluster.names import RACKS, digest, labels_of, name_of

_QUANTITY: Final = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?")
_FACTORS: Final[dict[str, float]] = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    **{unit: 1000.0**power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)},
}
#: Whoever puts this taint on a node says that nothing runs there any more; Kubernetes then frees what it held.
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l", "386": "i686"}
_LONGEST: Final = 64


class Inventory:
    """The cluster's nodes.

    Args:
        minicloud: ours.
        cluster: its name.
        kinds: what they may offer.
        version: ours.
        allow_root: whether pods may be root.
    """

    def __init__(
        self, minicloud: str, cluster: str, kinds: Iterable[Kind], *, version: str, allow_root: bool
    ) -> None:
        self._minicloud = minicloud
        self._cluster = cluster
        self._kinds = list(kinds)
        self._version = version
        self._allow_root = allow_root
        self._agents: dict[str, str] = {}  # by machine
        self._nodes: dict[str, Object] = {}
        self._machines: dict[str, Machine] = {}
        self._by_node: dict[str, str] = {}
        self.facts = Facts()

    # -- in --------------------------------------------------------------------------------------

    def take_agent(self, node: str, machine: str) -> str | None:
        """An agent speaks for a machine; returns the Kubernetes node whose name changes by that."""
        if self._agents.get(machine) == node:
            return None
        self._agents[machine] = node
        return next((name for name, document in self._nodes.items() if machine_of(document) == machine), None)

    def take(self, document: Object) -> None:
        """A node is there, or changed."""
        name = name_of(document)
        before = self._machines.get(name)
        self._nodes[name] = document
        machine = Machine(
            node=self.name_of(document),
            kubernetes=name,
            hostname=labels_of(document).get("kubernetes.io/hostname"),
            address=_address(document),
            ready=condition(document, "Ready").get("status") == "True",
            fenced=any(
                taint["key"] == OUT_OF_SERVICE for taint in document.get("spec", {}).get("taints") or ()
            ),
            labels=labels_of(document),
        )
        if before is not None and before.node != machine.node:
            self._by_node.pop(before.node, None)
        self._machines[name] = machine
        self._by_node[machine.node] = name

    def drop(self, name: str) -> None:
        """The cluster has no such node any more."""
        self._nodes.pop(name, None)
        machine = self._machines.pop(name, None)
        if machine is not None:
            self._by_node.pop(machine.node, None)

    # -- out -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._nodes))

    def __len__(self) -> int:
        return len(self._nodes)

    def document(self, name: str) -> Object:
        """A node as Kubernetes describes it."""
        return self._nodes[name]

    def by_node(self, node: str) -> Machine | None:
        """A node by its name on the bus."""
        return self._machines.get(self._by_node.get(node, ""))

    def by_kubernetes(self, name: str) -> Machine | None:
        """A node by its name in Kubernetes."""
        return self._machines.get(name)

    def name_of(self, document: Object) -> str:
        """A node's name on the bus: its agent's, else one that no other cluster has."""
        agent = self._agents.get(machine_of(document))
        if agent is None or self._is_copied(document):
            return bus_name(self._cluster, name_of(document))
        return agent

    def has_agent(self, name: str) -> bool:
        """Whether an agent speaks for a node."""
        return self._machines[name].node in self._agents.values()

    def _is_copied(self, document: Object) -> bool:
        """Whether another node claims the same machine, as copies of one disk do: then neither can be told by it."""
        machine, name = machine_of(document), name_of(document)
        return any(name_of(other) != name and machine_of(other) == machine for other in self._nodes.values())

    def level(self, name: str, *, state: Any = "ready", reason: str = "") -> ClusterNode:
        """What is said of a node."""
        document = self._nodes[name]
        machine = self._machines[name]
        offers = [kind.offer(document, self.facts) for kind in self._kinds]
        spec, status = document.get("spec", {}), document.get("status", {})
        allocatable = status.get("allocatable") or {}
        ready = condition(document, "Ready")
        return ClusterNode(
            node=machine.node,
            cluster=self._cluster,
            kubernetes=name,
            state=state,
            ready=machine.ready,
            schedulable=not spec.get("unschedulable", False),
            reason=reason or ("" if machine.ready else _why(ready)),
            address=machine.address,
            taints=[
                Taint(key=taint["key"], value=taint.get("value") or "", effect=taint["effect"])
                for taint in spec.get("taints") or ()
                if not taint["key"].startswith("node.kubernetes.io/")  # what readiness says already
            ],
            labels=labels_of(document),
            allocatable=Allocatable(
                cpu=quantity(allocatable.get("cpu", 0)),
                memory=int(quantity(allocatable.get("memory", 0))),
                pods=int(quantity(allocatable.get("pods", 0))),
            ),
            runtimes=[runtime for offer in offers for runtime in offer.runtimes],
            silent={engine: why for offer in offers for engine, why in offer.silent.items()},
            allow_root=self._allow_root,
            version=self._version,
            observed_at=now(),
        )

    def gone(self, name: str, node: str) -> ClusterNode:
        """What is said of a node that is no longer there, or no longer called so."""
        return ClusterNode(
            node=node,
            cluster=self._cluster,
            kubernetes=name,
            state="gone",
            ready=False,
            version=self._version,
            observed_at=now(),
        )

    def characterization(self, name: str) -> Characterization:
        """What a node is, as an agent on it would say."""
        document = self._nodes[name]
        labels = labels_of(document)
        status = document.get("status", {})
        info, capacity = status.get("nodeInfo") or {}, status.get("capacity") or {}
        allocatable = status.get("allocatable") or {}
        arch = str(info.get("architecture") or "unknown")
        zone, region = (labels.get(f"topology.kubernetes.io/{part}") for part in ("zone", "region"))
        return Characterization(
            node=self._machines[name].node,
            id=machine_of(document),
            minicloud=self._minicloud,
            agent=Agent(version=self._version),
            addresses=[
                Address(
                    interface="kubernetes",
                    family="ipv6" if ":" in str(one["address"]) else "ipv4",
                    address=str(one["address"]),
                )
                for one in status.get("addresses") or ()
                if one.get("type") in ("InternalIP", "ExternalIP")
            ],
            cpu=Cpu(
                arch=_ARCHITECTURES.get(arch, arch),
                bits=32 if arch in ("arm", "386") else 64,
                cores=max(1, math.floor(quantity(capacity.get("cpu", 1)))),
            ),
            memory=Memory(total=int(quantity(allocatable.get("memory", 0)))),
            os=OperatingSystem(
                name=str(info.get("osImage") or info.get("operatingSystem") or "unknown"),
                kernel=info.get("kernelVersion") or None,
            ),
            region={key: value for key, value in (("zone", zone), ("region", region)) if value is not None},
            rack=next((labels[key] for key in RACKS if key in labels), None),
            labels=labels,
            software=_software(info),
            silent={"metrics": "no agent runs there"},
            probed_at=_created(document),
        )

    def presence(self, name: str) -> Presence:
        """That a node is there, or not; its session is its life in the cluster."""
        document = self._nodes[name]
        ready = condition(document, "Ready")
        is_there = self._machines[name].ready
        return Presence(
            node=self._machines[name].node,
            state="online" if is_there else "offline",
            reason="ready" if is_there else _why(ready),
            session=str(document["metadata"]["uid"]),
            since=_time(ready.get("lastTransitionTime")) or _created(document),
        )


def absence(node: str, session: str) -> Presence:
    """That a node went in order: it was taken out of the cluster, or has another name by now."""
    return Presence(node=node, state="offline", reason="stopping", session=session, since=now())


def bus_name(cluster: str, name: str) -> str:
    """The name on the bus of a node without an agent: two clusters may both have a ``node-1``."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", f"{cluster}-{name}")
    if plain == f"{cluster}-{name}" and len(plain) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 9]}-{digest(name)[:8]}"


def machine_of(document: Object) -> str:
    """A node's machine, under the id that an agent on it would have; else one of the node's own."""
    info = document.get("status", {}).get("nodeInfo") or {}
    raw = str(info.get("machineID") or "") or str(document["metadata"]["uid"])
    return machine_id(raw)


def machine_id(raw: str) -> str:
    """The keyed hash of a machine id, as agents make it: the id itself is confidential."""
    return hashlib.blake2b(b"minicloud node", key=raw.encode()[:64], digest_size=16).hexdigest()


def quantity(text: Any) -> float:
    """A quantity of Kubernetes as a number: ``250m``, ``64Mi``, ``1e3``; what is none is 0."""
    found = _QUANTITY.fullmatch(str(text))
    return float(found[1]) * _FACTORS[found[2] or ""] if found else 0.0


def _address(document: Object) -> str | None:
    known: Mapping[str, str] = {
        one["type"]: one["address"] for one in document.get("status", {}).get("addresses") or ()
    }
    return known.get("InternalIP") or known.get("ExternalIP")


def _software(info: Object) -> dict[str, str]:
    runtime, _, version = str(info.get("containerRuntimeVersion") or "").partition("://")
    found = {"kubelet": str(info.get("kubeletVersion") or "").removeprefix("v"), runtime: version}
    return {name: value for name, value in found.items() if name and value}


def _why(ready: Object) -> str:
    reason, message = ready.get("reason") or "NotReady", ready.get("message") or ""
    return f"{reason}: {message}"[:400] if message else str(reason)


def _created(document: Object) -> datetime:
    return _time(document["metadata"].get("creationTimestamp")) or now()


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
