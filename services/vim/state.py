"""What vim knows: the levels that it reads from the bus, one :class:`Life` a deployment.

Everything here can be rebuilt by reading the streams again; nothing is kept anywhere else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bus.watch import WatchItem
from schemas.deployment import Cancellation, Decision, DeploymentRequest, DeploymentStatus, Placement
from schemas.errors import InvalidDocument
from schemas.names import name_in
from schemas.node import Presence
from schemas.workload import DesiredWorkload, ObservedWorkload, WorkerStatus, workload_name


@dataclass
class Desired:
    """A desired workload with the revision that holds it."""

    workload: DesiredWorkload
    revision: int


@dataclass
class Life:
    """One deployment: what was asked, decided, told, desired and observed.

    Attributes:
        deployment: its id.
        request: the last request, None if it cannot be read (then ``refused`` says why).
        request_digest: identity of what was last asked, readable or not.
        desired: by (node, replica).
        observed: by (node, replica).
    """

    deployment: str
    request: DeploymentRequest | None = None
    request_revision: int = 0
    request_digest: str = ""
    refused: InvalidDocument | None = None
    cancel_revision: int = 0
    cancel_reason: str = ""
    decision: Decision | None = None
    decision_revision: int = 0
    status: DeploymentStatus | None = None
    desired: dict[tuple[str, int], Desired] = field(default_factory=dict)
    observed: dict[tuple[str, int], ObservedWorkload] = field(default_factory=dict)

    @property
    def cancelled(self) -> bool:
        """Whether the last wish is that it ends."""
        return self.cancel_revision > self.request_revision

    @property
    def asked_again(self) -> bool:
        """Whether it was cancelled since the last decision and then requested again."""
        return self.decision_revision < self.cancel_revision < self.request_revision

    @property
    def placements(self) -> list[Placement]:
        """Where it should run, by the last decision."""
        return self.decision.placements if self.decision else []

    def running_desired(self) -> list[Desired]:
        """What some node is told to run."""
        return [desired for desired in self.desired.values() if desired.workload.state == "running"]

    def seen(self, placement: Placement, generation: int) -> ObservedWorkload | None:
        """What was observed of a placement in this generation and in its runtime."""
        observed = self.observed.get((placement.node, placement.replica))
        if observed and (observed.generation, observed.runtime) == (generation, placement.runtime):
            return observed
        return None


@dataclass
class Node:
    """A node as far as vim must know: whether it is there, and since when it is not."""

    online: bool = True
    gone_since: datetime | None = None
    worker: bool = False


class State:
    """All lives and nodes."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self.nodes: dict[str, Node] = {}

    def life(self, deployment: str) -> Life:
        """The life of a deployment, made when it is first heard of."""
        return self.lives.setdefault(deployment, Life(deployment))

    def take_deployment(self, item: WatchItem[object]) -> str:
        """A request, cancellation, decision or status; returns the deployment."""
        life = self.life(name_in(item.subject))
        aspect = item.subject.rsplit(".", 1)[1]
        data = item.event.data if item.event else None
        if aspect == "request":
            life.request_revision = item.revision
            life.refused = item.error
            if isinstance(data, DeploymentRequest):
                life.request = data
                life.request_digest = data.spec_hash()
            else:
                life.request = None
                life.request_digest = hashlib.sha256(item.payload).hexdigest()[:32]
        elif aspect == "cancel":
            # A cancellation that cannot be read still is the wish that it ends.
            life.cancel_revision = item.revision
            life.cancel_reason = data.reason if isinstance(data, Cancellation) else ""
        elif isinstance(data, Decision):
            life.decision, life.decision_revision = data, item.revision
        elif isinstance(data, DeploymentStatus) and (
            life.status is None or data.sequence >= life.status.sequence
        ):
            life.status = data
        return life.deployment

    def take_workload(self, item: WatchItem[object]) -> str | None:
        """A desired or observed workload; returns the deployment."""
        data = item.event.data if item.event else None
        node = name_in(item.subject)
        if not isinstance(data, (DesiredWorkload, ObservedWorkload)):
            return None
        if data.node != node or data.workload != name_in(item.subject, 5):
            return None  # a worker speaks for its own node only
        if data.workload != workload_name(data.deployment, data.replica):
            return None
        life = self.life(data.deployment)
        key = (node, data.replica)
        if isinstance(data, DesiredWorkload):
            life.desired[key] = Desired(data, item.revision)
        else:
            life.observed[key] = data
        return data.deployment

    def take_presence(self, item: WatchItem[object]) -> list[str]:
        """Presence of a node or its worker; returns the deployments that this may concern."""
        data = item.event.data if item.event else None
        name = name_in(item.subject)
        node = self.nodes.setdefault(name, Node())
        if isinstance(data, Presence):
            was = node.online
            node.online = data.state == "online"
            if node.online:
                node.gone_since = None
            elif was or node.gone_since is None:
                # A will carries the time of its connect, so the loss is dated by when we heard of it.
                node.gone_since = datetime.now(UTC)
        elif isinstance(data, WorkerStatus):
            node.worker = data.state == "ready"
        return [
            life.deployment
            for life in self.lives.values()
            if (life.status and life.status.state == "unschedulable")
            or any(placement.node == name for placement in life.placements)
        ]
