"""What services are asked by request/reply and what they answer, beside the query of ``schemas/query.py``.

Read strictly: a typo in a question must not pass. What went wrong is answered as an
:class:`ErrorDocument`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from schemas.decision import Decision, DeploymentState, DeploymentStatus, ReplicaStatus
from schemas.event import Document
from schemas.names import Token


class Nothing(Document):
    """A verb that needs no parameters."""


class Done(BaseModel):
    """The answer of a verb that has nothing to tell but that it was done."""


class QueryParts(RootModel[dict[str, str]]):
    """A query as the parameters of a URL spell it: ``{"where": "gpu", "sort": "load.5m:asc"}``."""


class WhichNode(Document):
    """One node.

    Attributes:
        node: its name or its id.
    """

    node: str = Field(min_length=1, max_length=256)


class WhichDeployment(Document):
    """One deployment.

    Attributes:
        deployment: its id.
    """

    deployment: Token


class ScaleDeployment(Document):
    """Another number of replicas; everything else of the request stays as whoever wrote it last wished.

    Attributes:
        deployment: its id.
        replicas: how many of it are to run.
    """

    deployment: Token
    replicas: int = Field(ge=0, le=1000)


class MigrateDeployment(Document):
    """Have replicas run elsewhere.

    Attributes:
        deployment: its id.
        replica: which one; all of them unless given.
        origin: only what is there by now; wherever it is unless given.
        to: the node to which; any other that fits unless given.
        reason: why, for whoever reads it.
    """

    deployment: Token
    replica: int | None = Field(default=None, ge=0)
    origin: Token | None = Field(default=None, alias="from")
    to: Token | None = None
    reason: str = Field(default="", max_length=4096)


class Wished(BaseModel):
    """That a wish is stored; what becomes of it, the deployment's events tell.

    Attributes:
        deployment: whose.
        changed: whether anything was published; not where it was wished so already.
        revision: of the last wish of this kind on the bus.
    """

    deployment: str
    changed: bool
    revision: int


class ListDeployments(Document):
    """List deployments by name.

    Attributes:
        after: begin after this name; what an answer calls ``next``.
        limit: so many at most.
    """

    after: str = Field(default="", max_length=64)
    limit: int | None = Field(default=None, ge=1)


class LogsRequest(Document):
    """Ask for what a workload printed.

    Attributes:
        workload: which one, ``<deployment>-<replica>``.
        tail: how many lines, counted from the last.
        after: a ``position`` that was answered before: what came since.
    """

    workload: str = Field(max_length=80)
    tail: int = Field(default=100, ge=1, le=10_000)
    after: str | None = Field(default=None, max_length=64)


class Logs(BaseModel):
    """What a workload printed.

    Attributes:
        workload: which one.
        lines: the oldest first.
        truncated: whether older lines were left out because the answer would have been too long.
        position: ask ``after`` it for what comes next.
        more: whether something came since already.
    """

    workload: str
    lines: list[str]
    truncated: bool
    position: str
    more: bool


class DeploymentSummary(BaseModel):
    """A deployment in a line.

    Attributes:
        deployment: its id.
        state: its state.
        reason: a CamelCase word.
        message: a sentence.
        generation: of its request.
        replicas: each replica as last observed.
        updated: when its state was last observed.
    """

    deployment: str
    state: DeploymentState
    reason: str
    message: str
    generation: int
    replicas: list[ReplicaStatus]
    updated: str


class Deployments(BaseModel):
    """Deployments by id, as many as one message holds.

    Attributes:
        deployments: in the order of their ids.
        next: ask ``after`` it for the others; None where these were the last.
    """

    deployments: list[DeploymentSummary]
    next: str | None = None


class DeploymentDetail(DeploymentSummary):
    """A deployment with its last decision and status.

    Attributes:
        revision: of its last request; 0 where none is kept.
        decision: where it runs and why; None before there is one.
        status: its last status.
    """

    revision: int
    decision: Decision | None
    status: DeploymentStatus


class DeploymentEvent(BaseModel):
    """One event of a deployment's life, as it was published.

    Attributes:
        revision: where it stands in the log; read on after it.
        kind: what it is.
        time: when it was published, in RFC 3339; None for what was published without an envelope.
        data: what it says: a `DeploymentStatus`, a `Decision`, or what a user wished.
    """

    revision: int
    kind: Literal["request", "cancel", "migrate", "decision", "status"]
    time: str | None
    data: dict[str, Any]


class DeploymentEvents(BaseModel):
    """The life of a deployment as it was told, the oldest event first.

    Attributes:
        events: as many as were asked for.
        next: ask `since` it for the others.
        more: whether there were others already.
    """

    events: list[DeploymentEvent]
    next: int
    more: bool


class PrintedLines(BaseModel):
    """The last lines of one replica.

    Attributes:
        workload: which one.
        lines: the oldest first.
    """

    workload: str
    lines: list[str]


class LogLine(BaseModel):
    """A line that a replica printed.

    Attributes:
        workload: which one.
        line: what it printed.
    """

    workload: str
    line: str


class Problem(BaseModel):
    """One thing that is wrong with a document.

    Attributes:
        field: where, dotted.
        message: what was wrong.
        expected: what would be right.
    """

    field: str | None
    message: str
    expected: str | None


class ErrorDocument(BaseModel):
    """An error as it travels: the same over request/reply, over HTTP and in the command's output.

    Attributes:
        code: one CamelCase word of the error tree.
        message: what was wrong.
        field: where, dotted.
        expected: what would be right.
        problems: everything that is wrong with a document, the first twenty.
    """

    code: str
    message: str
    field: str | None = None
    expected: str | None = None
    problems: list[Problem] = []
