"""Desired and observed state of a node's workloads: levels, not commands.

vim writes what should run on a node, the node's worker makes it so and writes what does run; either
may be killed at any time and carries on from both.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from schemas.deployment import File, Health, OnLoss, Port, Restart, Spread, Toleration
from schemas.event import EventData
from schemas.names import Token
from schemas.node import Acceleration, Driver, RuntimeName, _Part

WorkloadState = Literal[
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
    "unknown",
]
LimitsBy = Literal["cgroup-v1", "cgroup-v2", "none"]


def workload_name(deployment: str, replica: int) -> str:
    """The token of one replica of a deployment, unique in its minicloud."""
    return f"{deployment}-{replica}"


class DesiredWorkload(EventData):
    """What should run on a node. ``(deployment, generation)`` decides, never arrival.

    ``cpu`` in cores and ``memory`` in bytes are the limits that the kernel enforces;
    ``memory_overhead`` is what the runtime itself takes on top and is reserved with it. What is `paused`
    is there and stands still. A later generation that is the same but for its state goes on with the same run.

    ``driver`` says whose it is: that of the node's own worker, or of the worker of ``cluster``. Whoever else
    reads the level runs nothing. For a cluster, ``candidates`` are the other nodes of it that its scheduler
    may choose, best first, and ``constraint`` stands for the conditions that they all met;
    no two replicas may share a value of an attribute in ``apart``; ``tolerations`` are taints that do not keep it
    away, as Kubernetes writes them.
    """

    event_type: ClassVar[str] = "minicloud.workload.desired.v1"

    workload: str
    deployment: Token
    generation: int = Field(ge=1)
    replica: int = Field(ge=0)
    node: Token
    state: Literal["running", "paused", "stopped"]
    runtime: RuntimeName
    driver: Driver = "host"
    cluster: Token | None = None
    engine: str | None = None
    candidates: list[Token] = []
    constraint: str = ""
    acceleration: Acceleration | None = None
    image: dict[str, Any]
    cpu: float | None = None
    memory: int | None = None
    memory_overhead: int = 0
    ports: list[Port] = []
    env: dict[str, str] = {}
    files: list[File] = []
    health: Health | None = None
    restart: Restart = "always"
    user: str | None = None
    on_loss: OnLoss = OnLoss()
    spread: Spread | None = None
    apart: list[str] = []
    tolerations: list[Toleration] = []
    priority: int = 0


class Endpoint(_Part):
    """Where a port of a running workload is reached."""

    name: str
    address: str
    port: int
    url: str | None = None


class Exit(_Part):
    """How a workload ended."""

    code: int | None = None
    signal: int | None = None
    oom: bool = False


class ObservedWorkload(EventData):
    """What does run on a node, as its worker or its cluster's sees it.

    ``moved_to`` is where the cluster's scheduler put it, where that is another node than was chosen.
    """

    event_type: ClassVar[str] = "minicloud.workload.observed.v1"

    workload: str
    deployment: Token
    generation: int
    replica: int
    node: Token
    moved_to: Token | None = None
    state: WorkloadState
    reason: str
    message: str = ""
    runtime: RuntimeName
    engine: str | None = None
    acceleration: Acceleration | None = None
    reference: str | None = None
    endpoints: list[Endpoint] = []
    limits: dict[str, str] = {}
    restarts: int = 0
    cluster: Token | None = None
    exit: Exit | None = None
    started_at: datetime | None = None
    observed_at: datetime


class WorkerStatus(EventData):
    """That a node's worker is ready, and what it can run as whom."""

    event_type: ClassVar[str] = "minicloud.node.worker.v1"

    node: Token
    state: Literal["ready", "stopped"]
    runtimes: list[RuntimeName] = []
    limits: LimitsBy = "none"
    allow_root: bool = False
    version: str
    observed_at: datetime
