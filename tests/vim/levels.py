"""Requests, decisions and observed levels for tests of the pure parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.decision import Decision, Placement
from schemas.deployment import DeploymentRequest
from schemas.workload import DesiredWorkload, ObservedWorkload, workload_name
from services.vim.state import Life, Node, State

MIB = 1024 * 1024
NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGES: dict[str, Any] = {
    "process": {"command": ["/bin/true"]},
    "container": {"image": "registry.local/x:1"},
    "unikernel": {"kernel": "./x.elf"},
    "vm": {"kernel": "./vmlinuz"},
}


def request(**fields: Any) -> DeploymentRequest:
    runtimes = fields.pop("runtimes", ["process"])
    images = {runtime: IMAGES[runtime] for runtime in runtimes}
    return DeploymentRequest.model_validate({"runtimes": runtimes, "images": images, **fields})


def node(name: str, cores: float = 4, memory: int = 1024 * MIB, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "runtimes": ["process"],
        "cpu.cores": cores,
        "memory.total": memory,
        "load.1m": 0.0,
        **more,
    }


def decision(*nodes: str, outcome: Any = "scheduled", generation: int = 1, **fields: Any) -> Decision:
    asked = fields.pop("request", None) or request(replicas=fields.pop("replicas", len(nodes)))
    return Decision(
        deployment="d",
        generation=generation,
        spec="s",
        outcome=outcome,
        request=asked,
        placements=[
            Placement(replica=number, node=name, runtime="process") for number, name in enumerate(nodes)
        ],
        **{"decided_at": NOW, **fields},
    )


def observed(where: str, state: Any, replica: int = 0, **more: Any) -> ObservedWorkload:
    fields: dict[str, Any] = {
        "workload": workload_name("d", replica),
        "deployment": "d",
        "generation": 1,
        "replica": replica,
        "node": where,
        "state": state,
        "reason": f"Was{state.capitalize()}",
        "runtime": "process",
        "observed_at": NOW,
        **more,
    }
    return ObservedWorkload.model_validate(fields)


def desired(where: str, replica: int = 0, state: Any = "running", **more: Any) -> DesiredWorkload:
    fields: dict[str, Any] = {
        "workload": workload_name("d", replica),
        "deployment": "d",
        "generation": 1,
        "replica": replica,
        "node": where,
        "state": state,
        "runtime": "process",
        "image": IMAGES["process"],
        **more,
    }
    return DesiredWorkload.model_validate(fields)


def life(decided: Decision | None, *levels: ObservedWorkload | DesiredWorkload) -> Life:
    """A life with these levels, in the order in which they came."""
    made = Life("d", decision=decided)
    for revision, level in enumerate(levels, 1):
        place = (level.node, level.replica)
        if isinstance(level, ObservedWorkload):
            made.observed[place], made.observed_revision[place] = level, revision
        else:
            made.desired[place], made.desired_revision[place] = level, revision
    return made


def state(*lost: str, since: timedelta = timedelta(0)) -> State:
    """What is known of nodes: which are lost, and for how long."""
    made = State()
    made.nodes = {name: Node(lost_since=NOW - since) for name in lost}
    return made
