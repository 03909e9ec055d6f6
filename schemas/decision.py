"""What becomes of a deployment request: the states of its life, the decision about it and its statuses.

vim publishes both (contract, Deployment lifecycle). A decision tells every candidate's score and every
rejection's reason; a status is one step of the life, counted by its sequence.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from schemas.deployment import DeploymentRequest
from schemas.event import Document, EventData
from schemas.names import Token
from schemas.node import Acceleration, Driver, RuntimeName, _Part

DeploymentState = Literal[
    "requested",
    "accepted",
    "rejected",
    "scheduled",
    "unschedulable",
    "creating",
    "starting",
    "running",
    "degraded",
    "migrating",
    "paused",
    "stopping",
    "stopped",
    "completed",
    "failed",
    "lost",
    "unknown",
]
#: States after which nothing happens by itself.
FINAL_STATES: frozenset[str] = frozenset({"rejected", "stopped", "completed", "failed"})
#: States that answer "did it come up?".
SETTLED_STATES: frozenset[str] = FINAL_STATES | {"running", "paused", "unschedulable"}


class Candidate(_Part):
    """A node that could run it: the runtime it would use, by what, and the score that ranked it."""

    node: Token
    runtime: RuntimeName
    driver: Driver = "host"
    cluster: Token | None = None
    engine: str | None = None
    score: float
    scores: dict[str, float] = {}


class Further(_Part):
    """Nodes that could run it, too, beyond the best: their names and scores, best first."""

    runtime: RuntimeName
    nodes: list[str]
    scores: list[float]


class Rejection(_Part):
    """Nodes that could not, and why: the attribute, what was wanted and what they had.

    ``nodes`` is cut where there are very many; ``count`` says how many they are.
    """

    reason: str
    runtime: RuntimeName | None = None
    attribute: str | None = None
    wanted: Any = None
    had: Any = None
    nodes: list[str]
    count: int = 0


class Attempt(_Part):
    """A node and runtime that were tried and could not start it.

    With ``cluster`` it was the whole cluster that could not: its scheduler had the choice of its nodes.
    """

    replica: int
    node: Token
    runtime: RuntimeName
    cluster: Token | None = None
    reason: str
    message: str = ""


class Preempted(_Part):
    """A replica that makes room, and since when.

    In the decision of whoever takes the room ``deployment`` is whose replica it is; in the decision of whoever
    gives it, who took it.
    """

    deployment: Token
    replica: int
    node: Token
    priority: int = 0
    since: datetime


class Enforcement(_Part):
    """What holds a field of the request to its word."""

    field: str
    by: str


class Placement(_Part):
    """Where one replica runs, by what, and what is reserved for it (cores, bytes, overhead included).

    ``driver`` is who makes it so: the node's worker or that of its ``cluster``; ``engine`` is what runs it
    there, as the node offers it; ``moved_from`` is the node that it leaves because somebody wished so.
    """

    replica: int
    node: Token
    runtime: RuntimeName
    driver: Driver = "host"
    cluster: Token | None = None
    engine: str | None = None
    acceleration: Acceleration | None = None
    cpu: float = 0.0
    memory: int = 0
    memory_overhead: int = 0
    reason: str = ""
    moved_from: Token | None = None


class Decision(EventData):
    """Where a deployment runs and why: every candidate's score, every rejection's reason.

    Of very many candidates the best say what their score is made of, those in ``further`` the score alone.
    ``migrations`` is the revision of the last wish to migrate that it answers; ``unmoved`` are the replicas
    that could not be moved as was wished, and why. ``preempts`` are replicas of others that make room for it,
    until they have; ``preempted`` its own that made room, whether or not they found another place.
    """

    event_type: ClassVar[str] = "minicloud.deployment.decided.v1"

    deployment: Token
    generation: int = Field(ge=1)
    spec: str
    outcome: Literal["scheduled", "unschedulable"]
    message: str = ""
    request: DeploymentRequest
    query: dict[str, Any] = {}
    enforced: list[Enforcement] = []
    candidates: list[Candidate] = []
    further: Further | None = None
    rejected: list[Rejection] = []
    placements: list[Placement] = []
    attempts: list[Attempt] = []
    preempts: list[Preempted] = []
    preempted: list[Preempted] = []
    migrations: int = 0
    unmoved: list[Attempt] = []
    coverage: list[dict[str, Any]] = []
    considered: int = 0
    decided_at: datetime


class ReplicaStatus(_Part):
    """One replica as last observed."""

    replica: int
    node: str
    runtime: RuntimeName
    cluster: Token | None = None
    engine: str | None = None
    state: str
    reason: str = ""
    message: str = ""
    restarts: int = 0
    reference: str | None = None
    endpoints: list[dict[str, Any]] = []


class DeploymentStatus(EventData):
    """One step of a deployment's life. ``sequence`` counts the steps of this deployment."""

    model_config = Document.model_config | {"extra": "allow", "serialize_by_alias": True}
    event_type: ClassVar[str] = "minicloud.deployment.status.v1"

    deployment: Token
    generation: int = Field(ge=0)
    sequence: int = Field(ge=1)
    previous: DeploymentState | None = Field(default=None, alias="from")
    state: DeploymentState = Field(alias="to")
    reason: str
    message: str = ""
    spec: str | None = None
    node: str | None = None
    runtime: RuntimeName | None = None
    problems: list[dict[str, Any]] = []
    replicas: list[ReplicaStatus] = []
    observed_at: datetime
