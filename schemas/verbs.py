"""What services are asked by request/reply and what they answer, beside the query of ``schemas/query.py``.

Read strictly: a typo in a question must not pass. What went wrong is answered as an
:class:`ErrorDocument`.
"""

from __future__ import annotations

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
        decision: where it runs and why; None before there is one.
        status: its last status.
    """

    decision: Decision | None
    status: DeploymentStatus


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
