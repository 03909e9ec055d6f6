"""The lifecycle: from what was decided and what is observed to the one state that users see.

Pure functions; the contract's states, in the order of how bad they are.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Final, NamedTuple, cast

from schemas.decision import Attempt, Decision, DeploymentState, Placement, ReplicaStatus
from services.vim.state import Life, State, over

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
#: Reasons for which a cluster does not start it now but may later: another place is better, if there is one.
STUCK: Final = frozenset(
    {"Unschedulable", "QuotaExceeded", "Refused", "OwnedByOthers", "ImagePullFailed", "VolumeNotFound"}
)
#: Reasons for which a running machine did not reach a node of its cluster; it runs on where it was.
STAYED: Final = frozenset({"NotMigratable", "MigrationFailed", "MigrationStuck"})
#: How long a worker may take to say anything about what it was told to run.
SILENT_AFTER: Final = timedelta(seconds=30)
_WORST_FIRST: Final[tuple[DeploymentState, ...]] = (
    "lost",
    "failed",
    "unknown",
    "degraded",
    "creating",
    "starting",
    "migrating",
    "stopping",
    "stopped",
    "paused",
    "running",
    "completed",
)


class Verdict(NamedTuple):
    """What the next status says."""

    state: DeploymentState
    reason: str
    message: str
    replicas: list[ReplicaStatus]


def judge(life: Life, decision: Decision, state: State, now: datetime) -> Verdict:
    """The state of a deployment that was decided."""
    asked = decision.request.replicas
    if not asked:
        waiting = _waiting(life, state)
        if waiting:
            return Verdict("stopping", "ScaledToZero", f"waiting for {waiting}", [])
        return Verdict("stopped", "ScaledToZero", "no replicas are asked for", [])
    if not decision.placements:
        return _unplaced(life, decision)
    replicas = [_replica(life, decision, placement, state, now) for placement in decision.placements]
    paused = decision.request.paused
    worst = min(replicas, key=lambda replica: _badness(replica.state, paused=paused))
    verdict, reason, message = cast("DeploymentState", worst.state), worst.reason, worst.message
    missing = asked - len(replicas)
    if asked > 1:
        count = sum(replica.state == worst.state for replica in replicas)
        message = f"{count} of {asked} replicas {worst.state}" + (f": {message}" if message else "")
    if missing:
        message += f"; {missing} of {asked} cannot be placed: {_why(decision)}"
        if verdict in ("running", "completed"):
            verdict, reason = "degraded", "ReplicasMissing"
        if who := preempted(decision):
            reason, message = "Preempted", f"{who}; {message}"
    if decision.unmoved and verdict in ("running", "paused"):
        reason = "CannotMigrate"
        stays = (f"replica {one.replica}: {one.message}" for one in decision.unmoved[:3])
        message = "; ".join([*([message] if message else []), *stays])
    return Verdict(verdict, reason, message, replicas)


def judge_stopping(life: Life, state: State) -> Verdict:
    """The state of a deployment whose end is wished for."""
    waiting = _waiting(life, state)
    if waiting:
        return Verdict("stopping", "Cancelled", f"waiting for {waiting}", [])
    message = life.cancel_reason or "stopped as asked"
    lost = sorted({node for node, _ in life.desired if state.lost(node) and not _all_ended(life, node)})
    if lost:
        message += f"; {', '.join(lost)} lost: what may still run there ends when the node returns"
    return Verdict("stopped", "Cancelled", message, [])


def exhausted(decision: Decision) -> bool:
    """Whether every node that matches was tried in vain, so that only another node can help."""
    return bool(decision.attempts) and all(
        group.reason.startswith(("was tried there", "offers no"))
        for group in decision.rejected
        if group.runtime
    )


def _unplaceable(decision: Decision) -> Verdict:
    if exhausted(decision):
        tried = "; ".join(dict.fromkeys(map(_tried, decision.attempts[-3:])))
        return Verdict("failed", decision.attempts[-1].reason, f"no other node to try: {tried}", [])
    if who := preempted(decision):
        return Verdict("unschedulable", "Preempted", f"{who}; it waits for room: {_why(decision)}", [])
    return Verdict("unschedulable", "NoNodeFits", _why(decision), [])


def preempted(decision: Decision) -> str:
    """Who took the room of replicas that have no other place yet, in a sentence; empty where nobody did."""
    placed = {placement.replica for placement in decision.placements}
    who = dict.fromkeys(
        f"{one.deployment} (priority {one.priority})"
        for one in decision.preempted
        if one.replica not in placed
    )
    return f"preempted by {', '.join(who)}" if who else ""


def hopeless(life: Life, decision: Decision) -> list[Attempt]:
    """Attempts that are over: the worker says that it can never start it there."""
    return [
        Attempt(
            replica=placement.replica,
            node=placement.node,
            runtime=placement.runtime,
            # The cluster's scheduler had the choice of all that could run it; a migration had not.
            cluster=None if observed.reason in STAYED else placement.cluster,
            reason=observed.reason,
            message=observed.message,
        )
        for placement in decision.placements
        if (observed := life.seen(placement, decision.generation))
        and observed.state == "failed"
        and observed.reason in HOPELESS | STAYED
    ]


def moved(life: Life, decision: Decision) -> dict[int, str]:
    """The nodes where a cluster's scheduler put replicas, by replica, where they are not the chosen ones."""
    return {
        placement.replica: observed.moved_to
        for placement in decision.placements
        if placement.cluster
        and (observed := life.seen(placement, decision.generation))
        and observed.moved_to not in (None, placement.node)
    }


def adrift(life: Life, decision: Decision, state: State, now: datetime) -> list[Attempt]:
    """Placements to be tried elsewhere, if that can be: the node is lost for too long, or its worker silent.

    A singleton is never replaced while its old self may still run behind a broken cable.
    """
    if decision.request.on_loss.singleton:
        return []
    patience = timedelta(seconds=decision.request.on_loss.replace_after)
    found = []
    for placement in decision.placements:
        observed = life.seen(placement, decision.generation)
        if observed and over(observed, decision.request.restart):
            continue
        node = state.nodes.get(placement.node)
        if node and node.lost_since:
            # A machine of KubeVirt is started elsewhere by its cluster, and only after fencing.
            if placement.engine != "kubevirt" and now - node.lost_since > patience:
                found.append(_attempt(placement, "NodeLost", f"{placement.node} is lost"))
        elif observed is None and now - decision.decided_at > max(patience, SILENT_AFTER):
            found.append(
                _attempt(placement, "WorkerSilent", f"the worker of {placement.node} did not answer")
            )
        elif observed and observed.state == "stopped" and now - observed.observed_at > patience:
            found.append(_attempt(placement, "WorkerStopped", f"the worker of {placement.node} went"))
        elif observed and observed.reason in STUCK and now - observed.observed_at > patience:
            stuck = _attempt(placement, observed.reason, observed.message)
            found.append(stuck.model_copy(update={"cluster": placement.cluster}))
    return found


def _attempt(placement: Placement, reason: str, message: str) -> Attempt:
    return Attempt(
        replica=placement.replica,
        node=placement.node,
        runtime=placement.runtime,
        reason=reason,
        message=message,
    )


def _unplaced(life: Life, decision: Decision) -> Verdict:
    verdict = _unplaceable(decision)
    before = sorted({life.desired[place].generation for place in life.running_desired()})
    if before and before[-1] < decision.generation:
        return verdict._replace(message=f"{verdict.message}; generation {before[-1]} runs on")
    return verdict


def _why(decision: Decision) -> str:
    # The near misses first: nodes that match and only lack room.
    groups = sorted(
        decision.rejected, key=lambda group: (group.runtime is None, -(group.count or len(group.nodes)))
    )[:3]
    why = "; ".join(f"{group.count or len(group.nodes)} x {group.reason}" for group in groups)
    return f"{decision.message}{': ' if why else ''}{why}"


def _tried(attempt: Attempt) -> str:
    return f"{attempt.node} ({attempt.runtime}): {attempt.message or attempt.reason}"


def _waiting(life: Life, state: State) -> str:
    """The nodes that have not yet said that it ended; those that are lost cannot."""
    nodes = Counter(node for node, replica in life.desired if not life.ended((node, replica)))
    return ", ".join(sorted(node for node in nodes if not state.lost(node)))


def _all_ended(life: Life, node: str) -> bool:
    return all(life.ended(place) for place in life.desired if place[0] == node)


def _replica(
    life: Life, decision: Decision, placement: Placement, state: State, now: datetime
) -> ReplicaStatus:
    observed = life.seen(placement, decision.generation)
    node = placement.node
    told, reason, message = "creating", "Placed", f"{node} is told to run it"
    if observed and over(observed, decision.request.restart):
        told, reason, message = observed.state, observed.reason, observed.message
    elif state.lost(node):
        how = "its agent was stopped" if state.nodes[node].left else "it is no longer heard"
        told, reason, message = "lost", "NodeLost", f"{node} is away: {how}"
    elif observed and observed.state == "stopped":
        told, reason, message = "unknown", "WorkerStopped", f"the worker of {node} stopped it and went"
    elif observed:
        told, reason, message = observed.state, observed.reason, observed.message
    elif now - decision.decided_at > SILENT_AFTER:
        since = decision.decided_at.isoformat(timespec="seconds")
        told, reason = "unknown", "WorkerSilent"
        message = f"the worker of {node} has not answered since {since}"
    if told in ("creating", "starting") and _leaving(life, placement, state):
        message = f"from {placement.moved_from} to {node}: {message}"
        told, reason = "migrating", "Migrating"
    return ReplicaStatus(
        replica=placement.replica,
        node=node,
        runtime=placement.runtime,
        cluster=placement.cluster,
        engine=placement.engine,
        state=told,
        reason=reason,
        message=message,
        restarts=observed.restarts if observed else 0,
        reference=observed.reference if observed else None,
        endpoints=[endpoint.model_dump() for endpoint in observed.endpoints] if observed else [],
    )


def _leaving(life: Life, placement: Placement, state: State) -> bool:
    """Whether it is on its way by somebody's wish: where it was, it has not ended yet."""
    origin = placement.moved_from
    if origin is None or state.lost(origin):
        return False
    place = (origin, placement.replica)
    return place in life.desired and not life.ended(place)


def _badness(state: str, *, paused: bool) -> int:
    # Of what is to stand still, it is those that run which are not yet as they should be.
    if paused and state in ("running", "paused"):
        state = "paused" if state == "running" else "running"
    return _WORST_FIRST.index(state) if state in _WORST_FIRST else 0
