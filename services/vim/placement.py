"""Placement: which node and runtime each replica gets, and why every other node did not.

A pure function of the request, the nodes that the resource index answered with, and the ledger.
The first runtime that fits somewhere wins; among the nodes that can run it the score decides, and
equal scores fall to the name, so that the same facts always give the same decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from schemas.deployment import Attempt, Candidate, DeploymentRequest, Placement, Rejection
from schemas.node import RuntimeName
from schemas.quantities import format_bytes, format_cores
from services.vim.ledger import Reserved

_MIB: Final = 1024 * 1024
#: Memory that a runtime itself takes on top of the workload's, bytes (measured: QEMU's RSS beyond its guest).
OVERHEAD: Final[dict[str, int]] = {
    "process": 0,
    "container": 8 * _MIB,
    "unikernel": 64 * _MIB,
    "vm": 64 * _MIB,
}
#: Memory of a guest whose request does not say: a kernel must be given some.
GUEST_MEMORY: Final[dict[str, int]] = {"unikernel": 64 * _MIB, "vm": 256 * _MIB}
#: What is asked of the index about each node.
FIELDS: Final = [
    "name",
    "runtimes",
    "acceleration",
    "cpu.cores",
    "memory.total",
    "memory.available",
    "load.1m",
    "worker.allow_root",
]


@dataclass
class Choice:
    """A placement of every replica, or of none.

    Attributes:
        placements: one a replica; empty when something did not fit.
        candidates: who could run it in the winning runtime, best first.
        rejected: who could not, and why.
        message: why nothing was placed, in a sentence.
    """

    placements: list[Placement] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    message: str = ""


def question(request: DeploymentRequest) -> dict[str, Any]:
    """The query that gives the nodes to choose from: alive, with a worker, as the request says."""
    required: list[dict[str, Any]] = [
        {"worker": True},
        {"state": "alive"},
        {"runtimes": {"$in": list(request.runtimes)}},
    ]
    if request.user == "root":
        required.append({"worker.allow_root": True})
    if request.where:
        required.insert(0, request.where)
    extra = [name for preference in request.prefer for name in preference]
    if request.spread:
        extra.append(request.spread.over)
    return {
        "where": {"$and": required},
        "fields": list(dict.fromkeys([*FIELDS, *extra])),
        "limit": 1000,
        "explain": True,
        "scope": {"mode": "local"},  # only nodes of our own minicloud take workloads from us
    }


def place(
    request: DeploymentRequest,
    nodes: list[dict[str, Any]],
    reserved: dict[str, Reserved],
    *,
    current: list[Placement],
    attempts: list[Attempt],
    replicas: list[int] | None = None,
) -> Choice:
    """Choose for every replica, keeping the ``current`` placements that still fit.

    Args:
        request: a request that was accepted.
        nodes: answers of the index to :func:`question`.
        reserved: what others hold on each node.
        current: placements to keep where they fit: nothing healthy is moved.
        attempts: what was tried and failed; not tried again.
        replicas: which replicas; all by default.
    """
    wanted = list(range(request.replicas)) if replicas is None else replicas
    rejected: list[Rejection] = []
    last_candidates: list[Candidate] = []
    for runtime in request.runtimes:
        room = {node["name"]: _Room(node, reserved.get(node["name"]) or Reserved()) for node in nodes}
        chosen = _place_in(request, runtime, room, wanted, current, attempts)
        rejected += chosen.rejected
        if len(chosen.placements) == len(wanted):
            chosen.rejected = rejected
            return chosen
        last_candidates = chosen.candidates or last_candidates
    if not nodes:
        message = "no node matches"
    else:
        names = ", ".join(request.runtimes)
        message = f"of {len(nodes)} matching nodes none has room for {len(wanted)} x {names}"
    return Choice(candidates=last_candidates, rejected=rejected, message=message)


@dataclass
class _Room:
    """A node while replicas are being put on it."""

    node: dict[str, Any]
    reserved: Reserved
    cpu: float = 0.0
    memory: int = 0
    replicas: int = 0

    def refusal(self, request: DeploymentRequest, runtime: RuntimeName) -> tuple[str, str, Any, Any] | None:
        """(reason, attribute, wanted, had) where this node cannot take one more replica."""
        node = self.node
        if runtime not in (node.get("runtimes") or ()):
            return f"offers no {runtime}", "runtimes", runtime, node.get("runtimes")
        cpu, memory, overhead = needs(request, runtime)
        free = float(node.get("cpu.cores") or 0) - self.reserved.cpu - self.cpu
        if cpu > free + 1e-9:
            return (
                f"cpu {format_cores(max(0.0, round(free, 3)))} unreserved < {format_cores(cpu)}",
                "allocatable.cpu",
                cpu,
                round(free, 3),
            )
        unreserved = int(node.get("memory.total") or 0) - self.reserved.memory - self.memory
        if memory + overhead > unreserved:
            return (
                f"memory {format_bytes(max(0, unreserved))} unreserved < {format_bytes(memory + overhead)}",
                "allocatable.memory",
                memory + overhead,
                unreserved,
            )
        available = node.get("memory.available")
        if available is not None and memory + overhead > available:
            return (
                f"memory {format_bytes(available)} available < {format_bytes(memory + overhead)}",
                "memory.available",
                memory + overhead,
                available,
            )
        pinned = [port.host_port for port in request.ports if port.host_port]
        if pinned and self.replicas:
            return f"host port {pinned[0]} is taken by another replica", "ports", pinned[0], None
        for port in pinned:
            if port in self.reserved.ports:
                holder = self.reserved.ports[port]
                return f"host port {port} is taken by deployment {holder}", "ports", port, holder
        return None

    def take(self, request: DeploymentRequest, runtime: RuntimeName) -> None:
        """Put one replica here."""
        cpu, memory, overhead = needs(request, runtime)
        self.cpu += cpu
        self.memory += memory + overhead
        self.replicas += 1


def needs(request: DeploymentRequest, runtime: RuntimeName) -> tuple[float, int, int]:
    """Cores, bytes and bytes of overhead that one replica is charged in ``runtime``."""
    memory = request.resources.memory or GUEST_MEMORY.get(runtime, 0)
    return request.resources.cpu or 0.0, memory, OVERHEAD[runtime]


def _place_in(
    request: DeploymentRequest,
    runtime: RuntimeName,
    room: dict[str, _Room],
    wanted: list[int],
    current: list[Placement],
    attempts: list[Attempt],
) -> Choice:
    failed = {(a.node, a.runtime): a for a in attempts}
    kept = {p.replica: p for p in current}
    reasons: dict[tuple[str, str | None, Any, Any], list[str]] = {}
    candidates: list[str] = []
    for name in sorted(room):
        attempt = failed.get((name, runtime))
        if attempt:
            refusal: tuple[str, str | None, Any, Any] | None = (
                f"was tried there: {attempt.reason}",
                None,
                None,
                attempt.message,
            )
        else:
            refusal = room[name].refusal(request, runtime)
        if refusal is None:
            candidates.append(name)
        else:
            key = (refusal[0], refusal[1], str(refusal[2]), str(refusal[3]))
            reasons.setdefault(key, []).append(name)
    scores = _scores(request, [room[name] for name in candidates])
    choice = Choice(
        rejected=[
            Rejection(reason=reason, runtime=runtime, attribute=attribute, wanted=want, had=had, nodes=names)
            for (reason, attribute, want, had), names in reasons.items()
        ],
        candidates=sorted(
            (
                Candidate(node=name, runtime=runtime, score=round(sum(parts.values()), 4), scores=parts)
                for name, parts in scores.items()
            ),
            key=lambda candidate: (-candidate.score, candidate.node),
        ),
    )
    total = {candidate.node: candidate.score for candidate in choice.candidates}
    open_replicas = []
    for replica in wanted:  # what runs well stays where it is
        before = kept.get(replica)
        if (
            before
            and before.runtime == runtime
            and before.node in total
            and room[before.node].refusal(request, runtime) is None
        ):
            room[before.node].take(request, runtime)
            choice.placements.append(_placement(request, runtime, replica, room[before.node], "kept"))
        else:
            open_replicas.append(replica)
    for replica in open_replicas:
        fitting = [name for name in total if room[name].refusal(request, runtime) is None]
        if not fitting:
            return Choice(candidates=choice.candidates, rejected=choice.rejected)
        best = min(fitting, key=lambda name: (*_crowding(request, room, name), -total[name], name))
        room[best].take(request, runtime)
        choice.placements.append(_placement(request, runtime, replica, room[best], f"score {total[best]:g}"))
    choice.placements.sort(key=lambda placement: placement.replica)
    return choice


def _placement(
    request: DeploymentRequest, runtime: RuntimeName, replica: int, room: _Room, reason: str
) -> Placement:
    cpu, memory, overhead = needs(request, runtime)
    boots = runtime in ("vm", "unikernel")
    return Placement(
        replica=replica,
        node=room.node["name"],
        runtime=runtime,
        acceleration=room.node.get("acceleration") if boots else None,
        cpu=cpu,
        memory=memory,
        memory_overhead=overhead,
        reason=reason,
    )


def _crowding(request: DeploymentRequest, room: dict[str, _Room], name: str) -> tuple[int, int]:
    """(replicas with the same value of what is spread over, replicas on the node); fewer is better."""
    if request.pack:
        return 0, 0
    over = request.spread.over if request.spread else "name"
    value = room[name].node.get(over)
    same = sum(other.replicas for other in room.values() if other.node.get(over) == value)
    return same, room[name].replicas


def _scores(request: DeploymentRequest, rooms: list[_Room]) -> dict[str, dict[str, float]]:
    """Each candidate's score by part, each part from 0 to its weight; the first preference weighs most."""
    scores: dict[str, dict[str, float]] = {room.node["name"]: {} for room in rooms}
    weight = 1.0
    for preference in request.prefer:
        ((attribute, direction),) = preference.items()
        values = {room.node["name"]: room.node.get(attribute) for room in rooms}
        for name, part in _ranked(values, ascending=direction == "asc").items():
            scores[name][attribute] = round(weight * part, 4)
        weight /= 2
    for room in rooms:
        total = float(room.node.get("memory.total") or 1)
        free = max(0.0, total - room.reserved.memory) / total
        part = 1 - free if request.pack else free
        scores[room.node["name"]]["pack" if request.pack else "room"] = round(weight * part * 0.5, 4)
        load = float(room.node.get("load.1m") or 0.0) / max(1.0, float(room.node.get("cpu.cores") or 1))
        scores[room.node["name"]]["idle"] = round(weight * 0.5 / (1.0 + load), 4)
    return scores


def _ranked(values: dict[str, Any], *, ascending: bool) -> dict[str, float]:
    """1 for the best value, 0 for the worst and for none; equal values are equal."""
    known = sorted({value for value in values.values() if value is not None}, reverse=not ascending)
    if len(known) <= 1:
        return {name: float(value is not None) for name, value in values.items()}
    parts = {value: 1 - index / (len(known) - 1) for index, value in enumerate(known)}
    return {name: parts.get(value, 0.0) if value is not None else 0.0 for name, value in values.items()}
