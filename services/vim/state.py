"""What vim knows: the levels that it reads from the bus, one :class:`Life` a deployment.

Everything here can be rebuilt by reading the streams again; nothing is kept anywhere else. What
cannot be read, or speaks for another, changes nothing but the revision that comes next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bus.watch import WatchItem
from schemas.decision import Decision, DeploymentStatus, Placement
from schemas.deployment import Cancellation, DeploymentRequest, Migration
from schemas.errors import InvalidDocument
from schemas.flatten import may_be_metric
from schemas.names import name_in
from schemas.resource import ResourceChange
from schemas.workload import DesiredWorkload, ObservedWorkload, workload_name

#: (node, replica)
Place = tuple[str, int]
#: Told of a node, its attributes and the revision of the change log that says so.
Follower = Callable[[str, Mapping[str, Any], int], None]
_ENDED = frozenset({"stopped", "completed", "failed"})


@dataclass
class Life:
    """One deployment: what was asked, decided, told, desired and observed.

    Attributes:
        deployment: its id.
        request: the last request, None if it cannot be read (then ``refused`` says why).
        request_digest: identity of what was last asked, readable or not.
        migrations: wishes to migrate by revision, those that no decision answered as far as we know.
        migration_revision: the last revision of its wishes to migrate, whatever it holds.
        decision_revision: the last revision of its decisions, whatever it holds.
        decided_revision: the revision of ``decision``.
        status_spoiled: something else lies where our last status should.
        desired: by (node, replica).
        desired_revision: the last revision of each, whatever it holds.
        spoiled: where something else lies in place of our desired level.
        observed: by (node, replica).
    """

    deployment: str
    request: DeploymentRequest | None = None
    request_revision: int = 0
    request_digest: str = ""
    refused: InvalidDocument | None = None
    cancel_revision: int = 0
    cancel_reason: str = ""
    migrations: dict[int, Migration] = field(default_factory=dict)
    migration_revision: int = 0
    decision: Decision | None = None
    decision_revision: int = 0
    decided_revision: int = 0
    status: DeploymentStatus | None = None
    status_spoiled: bool = False
    desired: dict[Place, DesiredWorkload] = field(default_factory=dict)
    desired_revision: dict[Place, int] = field(default_factory=dict)
    spoiled: set[Place] = field(default_factory=set)
    observed: dict[Place, ObservedWorkload] = field(default_factory=dict)
    observed_revision: dict[Place, int] = field(default_factory=dict)

    @property
    def cancelled(self) -> bool:
        """Whether the last wish is that it ends."""
        return self.cancel_revision > self.request_revision

    @property
    def asked_again(self) -> bool:
        """Whether it was cancelled since the last decision and then requested again."""
        return self.decided_revision < self.cancel_revision < self.request_revision

    @property
    def generation(self) -> int:
        """The highest that was ever decided, as far as anything that is kept tells."""
        told = self.status.generation if self.status else 0
        decided = self.decision.generation if self.decision else 0
        return max(told, decided, *(level.generation for level in self.desired.values()), 0)

    @property
    def priority(self) -> int:
        """Which comes first of those that wait."""
        asked = self.request or (self.decision.request if self.decision else None)
        return asked.priority if asked else 0

    @property
    def placements(self) -> list[Placement]:
        """Where it should run, by the last decision."""
        return self.decision.placements if self.decision else []

    @property
    def waiting(self) -> bool:
        """Whether it would run, or run better, if there were room or another node."""
        if self.cancelled or self.decision is None:
            return False
        if self.decision.outcome == "unschedulable" or bool(self.status and self.status.state == "lost"):
            return True
        # Room is being made for it.
        return bool(self.decision.preempts) and not (self.status and self.status.state == "running")

    def open_migrations(self, decision: Decision) -> dict[int, Migration]:
        """The wishes to migrate that are still to be answered, by revision."""
        answered = max(decision.migrations, self.cancel_revision)
        return {revision: wish for revision, wish in self.migrations.items() if revision > answered}

    def running_desired(self) -> list[Place]:
        """Where some node is told to run it, be it paused."""
        return [place for place, desired in self.desired.items() if desired.state != "stopped"]

    def seen(self, placement: Placement, generation: int) -> ObservedWorkload | None:
        """What was observed of a placement in this generation and in its runtime."""
        place = (placement.node, placement.replica)
        observed = self.observed.get(place)
        if observed is None or (observed.generation, observed.runtime) != (generation, placement.runtime):
            return None
        if observed.state == "stopped" and self.observed_revision[place] < self.desired_revision.get(
            place, 0
        ):
            return None  # it was stopped before it was wanted here (again)
        return observed

    def ended(self, place: Place) -> bool:
        """Whether the worker says that nothing of what it was last told runs any more."""
        desired, observed = self.desired.get(place), self.observed.get(place)
        if observed is None or observed.state not in _ENDED:
            return False
        if desired is None or desired.state == "stopped":
            return desired is None or observed.generation >= desired.generation
        return observed.generation >= desired.generation and over(observed, desired.restart)


def over(observed: ObservedWorkload, restart: str) -> bool:
    """Whether it has run to its end, so that nothing starts it again."""
    if observed.state == "completed":
        return True
    return observed.state == "failed" and restart != "always" and observed.exit is not None


@dataclass
class Node:
    """A node as far as vim must know: since when it is lost, None while it is there, and what it is."""

    lost_since: datetime | None = None
    left: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)


class State:
    """All lives and nodes."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self.nodes: dict[str, Node] = {}
        self._followers: list[Follower] = []

    def follow(self, follower: Follower) -> None:
        """Tell somebody of every change of a node, with its revision."""
        self._followers.append(follower)

    def life(self, deployment: str) -> Life:
        """The life of a deployment, made when it is first heard of."""
        return self.lives.setdefault(deployment, Life(deployment))

    def lost(self, node: str) -> bool:
        """Whether the resource index holds a node for lost."""
        known = self.nodes.get(node)
        return known is not None and known.lost_since is not None

    def attribute(self, node: str, name: str) -> Any:
        """An attribute of a node as the change log told it last; None where it has none."""
        known = self.nodes.get(node)
        return None if known is None else known.attributes.get(name)

    def take_deployment(self, item: WatchItem[object]) -> list[str]:
        """A request, cancellation, wish to migrate, decision or status; returns the deployment."""
        life = self.life(name_in(item.subject))
        aspect = item.subject.rsplit(".", 1)[1]
        data = item.event.data if item.event else None
        match aspect:
            case "request":
                life.request_revision = item.revision
                life.refused = item.error
                life.request = data if isinstance(data, DeploymentRequest) else None
                life.request_digest = (
                    data.spec_hash()
                    if isinstance(data, DeploymentRequest)
                    else hashlib.sha256(item.payload).hexdigest()[:32]
                )
            case "cancel":
                # A cancellation that cannot be read still is the wish that it ends.
                life.cancel_revision = item.revision
                life.cancel_reason = data.reason if isinstance(data, Cancellation) else ""
            case "migrate":
                life.migration_revision = item.revision
                if isinstance(data, Migration):
                    life.migrations[item.revision] = data
            case "decision":
                life.decision_revision = item.revision
                if isinstance(data, Decision) and data.deployment == life.deployment:
                    life.decision, life.decided_revision = data, item.revision
                    life.migrations = life.open_migrations(data)
            case "status":
                ours = isinstance(data, DeploymentStatus) and data.deployment == life.deployment
                last = life.status.sequence if life.status else 0
                life.status_spoiled = not ours
                if isinstance(data, DeploymentStatus) and ours and data.sequence >= last:
                    life.status = data
        return [life.deployment]

    def take_workload(self, item: WatchItem[object]) -> list[str]:
        """A desired or observed workload; returns the deployment."""
        data = item.event.data if item.event else None
        node, aspect, workload = (name_in(item.subject, at) for at in (3, 4, 5))
        deployment, _, number = workload.rpartition("-")
        if not deployment or not number.isdecimal() or workload_name(deployment, int(number)) != workload:
            return []
        life, place = self.life(deployment), (node, int(number))
        ours = (
            isinstance(data, (DesiredWorkload, ObservedWorkload))
            # A worker speaks for its own node only.
            and (data.node, data.deployment, data.replica) == (node, deployment, int(number))
        )
        if aspect == "desired":
            life.desired_revision[place] = item.revision
            if ours and isinstance(data, DesiredWorkload):
                life.desired[place] = data
                life.spoiled.discard(place)
            else:
                life.spoiled.add(place)
        elif ours and isinstance(data, ObservedWorkload):
            life.observed[place] = data
            life.observed_revision[place] = item.revision
        return [deployment]

    def take_resource(self, item: WatchItem[object]) -> list[str]:
        """What the resource index says of a node; returns the deployments that this may concern."""
        data = item.event.data if item.event else None
        name = name_in(item.subject)
        if not isinstance(data, ResourceChange) or data.node != name:
            return []
        node = self.nodes.setdefault(name, Node())
        lost = data.attributes.get("state") == "lost"
        turned = lost != (node.lost_since is not None)
        if turned:
            node.lost_since = data.observed_at if lost else None
        node.attributes = data.attributes
        for follower in self._followers:
            follower(name, data.attributes, item.revision)
        node.left = lost and data.kind == "left"
        if not turned and data.kind == "changed" and all(map(_passing, data.changed)):
            return []
        return [
            life.deployment
            for life in self.lives.values()
            if (life.waiting and not lost)
            or (turned and any(place[0] == name for place in life.desired))
            or (turned and any(placement.node == name for placement in life.placements))
        ]


def _passing(attribute: str) -> bool:
    """Whether a change of it makes no node fit that did not: metrics, and what vim itself reserved."""
    return attribute.startswith("allocatable.") or may_be_metric(attribute)
