"""A node of a Kubernetes cluster as the cluster's worker sees it: whether it can run something, and what.

One level a node. Where an agent speaks for the same machine, the level lies under the agent's name: one
node, not two. Sizes are bytes, CPU is in cores.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal, get_args

from pydantic import Field

from schemas.deployment import TaintEffect
from schemas.event import EventData
from schemas.names import Token
from schemas.node import Acceleration, RuntimeName, _Part

#: What runs a workload in a cluster.
ClusterEngine = Literal["k3s", "kubevirt", "urunc", "qemu-pod", "kernel-boot"]
#: Of several engines for one runtime, which is taken first.
ENGINES: tuple[ClusterEngine, ...] = ("k3s", "kubevirt", "urunc", "qemu-pod", "kernel-boot")


#: What a taint does to those that do not tolerate it, as Kubernetes has it.
EFFECTS: tuple[str, ...] = get_args(TaintEffect)


class Taint(_Part):
    """What keeps pods away from a node that do not tolerate it."""

    key: str
    value: str = ""
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"

    @classmethod
    def read(cls, text: str) -> Taint:
        """The taint that such a text stands for."""
        rest, _, effect = text.rpartition(":")
        key, _, value = rest.partition("=")
        return cls(key=key, value=value, effect=effect)


class ClusterRuntime(_Part):
    """A runtime that a node offers by its cluster, and what runs it there."""

    name: RuntimeName
    engine: ClusterEngine
    acceleration: Acceleration | None = None


class Allocatable(_Part):
    """What the cluster gives to pods of that node: cores, bytes and how many pods."""

    cpu: float = 0.0
    memory: int = 0
    pods: int = 0


class ClusterNode(EventData):
    """What a cluster says of one of its nodes.

    Attributes:
        node: its name on the bus; the agent's where one speaks for this machine.
        cluster: the cluster's name.
        kubernetes: its name in Kubernetes.
        state: of the cluster's worker: whether it acts for this node; ``gone`` once the cluster has no such node.
        ready: whether Kubernetes holds it for ready.
        schedulable: whether it takes new pods (not cordoned).
        reason: why it is not ready, in Kubernetes' own words.
        address: where its ports are reached.
        taints: what keeps pods away.
        labels: as they are in Kubernetes.
        allocatable: what pods may take in all.
        runtimes: what it offers by the cluster; an engine that is better comes first.
        silent: for each engine that it does not offer, why.
        allow_root: whether its pods may be root.
    """

    event_type: ClassVar[str] = "minicloud.node.clustered.v1"

    node: Token
    cluster: Token
    kubernetes: str
    state: Literal["ready", "stopped", "gone"] = "ready"
    ready: bool
    schedulable: bool = True
    reason: str = ""
    address: str | None = None
    taints: list[Taint] = []
    labels: dict[str, str] = {}
    allocatable: Allocatable = Allocatable()
    runtimes: list[ClusterRuntime] = []
    silent: dict[str, str] = {}
    allow_root: bool = False
    version: str = Field(default="", description="of the cluster's worker")
    observed_at: datetime
