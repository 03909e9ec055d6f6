"""What the typed API answers: sane names, base units, and a word of why where something is not there."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from schemas.attributes import WINDOWS
from schemas.node import Characterization, RuntimeName
from schemas.trouble import Trouble
from schemas.workload import WorkloadState

Window = Literal["5m", "10m", "15m"]
assert set(Window.__args__) == set(WINDOWS)  # type: ignore[attr-defined]  # noqa: S101 - one word, one meaning


class Metric(BaseModel):
    """A number with its unit; None for a number without, or of a metric that nobody foresaw."""

    value: float
    unit: str | None = None


class NodeView(BaseModel):
    """A node: what it is, how it does, whether it is there.

    Attributes:
        name: on the bus.
        id: its agent's.
        state: alive, stale or lost.
        heard: when it was last heard.
        sampled: when its metrics were taken.
        metrics: its last sample, by attribute name; empty where there is none or the node is lost.
        characterization: what it is.
    """

    name: str
    id: str
    state: Literal["alive", "stale", "lost"]
    heard: datetime | None
    sampled: datetime | None
    metrics: dict[str, Metric]
    characterization: Characterization


class Nodes(BaseModel):
    """Nodes by name; ``next`` is where the next page begins (``after``), None where this was the last."""

    nodes: list[NodeView]
    next: str | None = None


class Past(BaseModel):
    """What a node was."""

    event: str
    at: datetime
    characterization: Characterization


class PastOfNode(BaseModel):
    """What a node was, the newest first.

    Attributes:
        node: its name.
        id: its agent's.
        source: where that is kept.
        characterizations: the newest first.
        next: ask ``before`` it for older ones; None where there are none.
    """

    node: str
    id: str
    source: Literal["mongodb", "bus"]
    characterizations: list[Past]
    next: datetime | None = None


class MetricWindow(BaseModel):
    """One metric over a window; ``rate`` in its unit a second, None where there was one sample only."""

    unit: str | None
    mean: float
    maximum: float
    rate: float | None
    samples: int


class NodeWindow(BaseModel):
    """All metrics of a node over a window."""

    node: str
    window: Window
    metrics: dict[str, MetricWindow]


class NodeWindows(BaseModel):
    """The windows of nodes, by name; ``next`` as in :class:`Nodes`."""

    nodes: list[NodeWindow]
    next: str | None = None


class WorkloadView(BaseModel):
    """A workload or pod.

    Attributes:
        name: of the workload or pod.
        namespace: of the pod; workloads of the minicloud itself are in the one called as it is.
        source: who knows it: the minicloud's own workers, or a Kubernetes cluster by Prometheus.
        node: where it runs.
        addresses: where it is reached.
        state: what it does, in the words of its source.
        deployment: what it is part of; None for pods.
        runtime: what runs it; None for pods.
        restarts: how often it was started again; None where that is not known.
        started: when; None where that is not known.
        cpu: cores, mean of five minutes; None where that is not known.
        memory: bytes; None where that is not known.
    """

    name: str
    namespace: str
    source: Literal["worker", "prometheus"]
    node: str
    addresses: list[str]
    state: WorkloadState | Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    deployment: str | None = None
    runtime: RuntimeName | None = None
    restarts: int | None = None
    started: datetime | None = None
    cpu: float | None = None
    memory: float | None = None


class Workloads(BaseModel):
    """Workloads by namespace and name; ``silent`` says why a figure is not there, by its name."""

    workloads: list[WorkloadView]
    next: str | None = None
    silent: dict[str, str] = {}


class NamespaceView(BaseModel):
    """What a namespace takes: ``cpu`` in cores, ``memory`` in bytes; None where that is not known."""

    name: str
    workloads: int
    cpu: float | None = None
    memory: float | None = None


class Namespaces(BaseModel):
    """Namespaces by name; ``silent`` as in :class:`Workloads`."""

    namespaces: list[NamespaceView]
    silent: dict[str, str] = {}


class ImpactView(BaseModel):
    """A node and what depends on it: what is wrong with it, and which deployments suffer."""

    node: str
    state: Literal["alive", "stale", "lost"]
    troubles: list[Trouble]
    deployments: list[str]
    workloads: list[WorkloadView]


class Impacts(BaseModel):
    """The nodes in trouble, by name; ``next`` as in :class:`Nodes`."""

    impacts: list[ImpactView]
    next: str | None = None


class ReplicaView(BaseModel):
    """A replica and what its node is doing."""

    workload: WorkloadView
    node_state: Literal["alive", "stale", "lost"] | None = Field(description="None for an unknown node")
    troubles: list[Trouble]
    metrics: dict[str, Metric]
    windows: list[NodeWindow]


class DeploymentView(BaseModel):
    """A deployment, and what the nodes of its replicas are doing."""

    deployment: str
    replicas: list[ReplicaView]


class Targets(BaseModel):
    """What Prometheus scrapes together with its labels: one entry of an HTTP service discovery."""

    targets: list[str]
    labels: dict[str, str]
