"""Physical meets virtual: a node in trouble, and the deployments that suffer with it (seed 3.3)."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.event import EventData
from schemas.names import Token
from schemas.node import RuntimeName
from schemas.workload import WorkloadState

#: What is wrong: it is not heard, or its CPU, memory, disk or temperature are beyond their limits.
Ailment = Literal["lost", "stale", "cpu", "memory", "disk", "hot"]


class Trouble(BaseModel):
    """One thing that is wrong with a node.

    Attributes:
        what: a word.
        message: a sentence.
        value: what was measured, where it is a measure.
        limit: beyond what it is trouble.
        unit: of both.
        since: when it began.
    """

    model_config = ConfigDict(extra="allow")

    what: Ailment
    message: str
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    since: datetime


class Sufferer(BaseModel):
    """A workload on a node in trouble."""

    model_config = ConfigDict(extra="allow")

    workload: str
    deployment: Token
    replica: int
    runtime: RuntimeName
    state: WorkloadState
    since: datetime | None = Field(default=None, description="when it was started")


class NodeTrouble(EventData):
    """What is wrong with a node, and which deployments suffer; a level: with no trouble it is over."""

    event_type: ClassVar[str] = "minicloud.node.trouble.v1"

    node: Token
    troubles: list[Trouble] = []
    over: list[Ailment] = Field(default=[], description="what was wrong before and is no longer")
    deployments: list[Token] = []
    workloads: list[Sufferer] = []
    observed_at: datetime
