"""The lifecycle: from what was decided and what is observed to the one state that users see.

Pure functions; the contract's states, in the order of how bad they are.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple, cast

from schemas.deployment import Decision, DeploymentState, Placement, ReplicaStatus
from schemas.workload import ObservedWorkload
from services.vim.state import Life, Node

#: Reasons for which another node or runtime is tried: this one can never start it.
HOPELESS: Final = frozenset(
    {
        "ImageNotFound",
        "ImageInvalid",
        "NeedsRoot",
        "RuntimeMissing",
        "RuntimeUnavailable",
        "CommandNotFound",
        "CommandNotExecutable",
        "PortInUse",
        "InvalidWorkload",
    }
)
_SILENT_AFTER: Final = 30.0
_WORST_FIRST: Final[tuple[DeploymentState, ...]] = (
    "lost",
    "failed",
    "unknown",
    "degraded",
    "creating",
    "starting",
    "stopping",
    "stopped",
    "running",
    "completed",
)


class Verdict(NamedTuple):
    """What the next status says."""

    state: DeploymentState
    reason: str
    message: str
    replicas: list[ReplicaStatus]


def judge(life: Life, decision: Decision, nodes: dict[str, Node], now: datetime) -> Verdict:
    """The state of a deployment that has placements."""
    if not decision.placements:
        return Verdict("stopped", "ScaledToZero", "no replicas are asked for", [])
    replicas = [_replica(life, decision, placement, nodes, now) for placement in decision.placements]
    state = min((replica.state for replica in replicas), key=_badness)
    worst = next(replica for replica in replicas if replica.state == state)
    if len(replicas) == 1:
        message = worst.message
    else:
        count = sum(replica.state == state for replica in replicas)
        message = f"{count} of {len(replicas)} replicas {state}" + (
            f": {worst.message}" if worst.message else ""
        )
    return Verdict(cast("DeploymentState", state), worst.reason, message, replicas)


def judge_stopping(life: Life) -> Verdict:
    """The state of a deployment whose end is wished for."""
    waiting = [
        key
        for key, desired in life.desired.items()
        if _still_there(life.observed.get(key), desired.workload.generation)
    ]
    if waiting:
        names = ", ".join(sorted({node for node, _ in waiting}))
        return Verdict("stopping", "Cancelled", f"waiting for {names}", [])
    return Verdict("stopped", "Cancelled", life.cancel_reason or "stopped as asked", [])


def _still_there(observed: ObservedWorkload | None, generation: int) -> bool:
    return observed is not None and (
        observed.generation < generation or observed.state not in ("stopped", "completed", "failed")
    )


def _replica(
    life: Life, decision: Decision, placement: Placement, nodes: dict[str, Node], now: datetime
) -> ReplicaStatus:
    observed = life.seen(placement, decision.generation)
    node = nodes.get(placement.node)
    state, reason, message = "creating", "Placed", f"{placement.node} is told to run it"
    if node and not node.online:
        state, reason, message = "lost", "NodeLost", f"{placement.node} is away"
    elif observed:
        state, reason, message = observed.state, observed.reason, observed.message
    elif (now - decision.decided_at).total_seconds() > _SILENT_AFTER:
        seconds = int((now - decision.decided_at).total_seconds())
        state, reason = "unknown", "WorkerSilent"
        message = f"the worker of {placement.node} has not answered for {seconds // 30 * 30} s"
    return ReplicaStatus(
        replica=placement.replica,
        node=placement.node,
        runtime=placement.runtime,
        state=state,
        reason=reason,
        message=message,
        restarts=observed.restarts if observed else 0,
        reference=observed.reference if observed else None,
        endpoints=[endpoint.model_dump() for endpoint in observed.endpoints] if observed else [],
    )


def _badness(state: str) -> int:
    return _WORST_FIRST.index(state) if state in _WORST_FIRST else 0
