"""What a node is, how it does, and that it is there (seed 2.2 and 3.4, Figures 9 and 12, Table 1).

Sizes are bytes, rates bytes a second, times UTC. The agent makes these documents without pydantic;
the tests hold what it sends against the models here.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.event import EventData
from schemas.names import Token

RuntimeName = Literal["process", "container", "vm", "unikernel"]
Acceleration = Literal["kvm", "tcg"]
#: Who makes a placement so: the node's own worker, or the worker of the Kubernetes cluster that it is part of.
Driver = Literal["host", "kubernetes"]


class _Part(BaseModel):
    """A part of an event: a newer agent's extra fields are kept."""

    model_config = ConfigDict(extra="allow")


class Agent(_Part):
    """The agent that speaks."""

    version: str


class Address(_Part):
    """One address of a network interface."""

    interface: str
    family: Literal["ipv4", "ipv6"]
    address: str


class Cpu(_Part):
    """The processor: ``cores`` are logical ones that the agent may use."""

    arch: str
    bits: int
    cores: int = Field(ge=1)
    model: str | None = None


class Memory(_Part):
    """Installed memory, bytes."""

    total: int = Field(ge=0)


class Disk(_Part):
    """A mounted disk; bind mounts and pseudo file systems are left out by the agent."""

    device: str
    mount: str
    filesystem: str
    total: int = Field(ge=0)
    kind: Literal["ssd", "hdd", "nvme", "sd", "network", "unknown"] = "unknown"
    read_only: bool = False


class Gpu(_Part):
    """A graphics processor; ``memory`` in bytes where known."""

    name: str
    vendor: str | None = None
    memory: int | None = None


class Battery(_Part):
    """A battery; ``charge`` in per cent."""

    charge: float | None = None
    plugged: bool | None = None


class OperatingSystem(_Part):
    """The operating system."""

    name: str
    version: str | None = None
    kernel: str | None = None


class K3s(_Part):
    """The node's part in a K3s cluster."""

    role: Literal["server", "agent"]


class Runtime(_Part):
    """A runtime that the node offers; ``acceleration`` for those that boot a kernel."""

    name: RuntimeName
    engine: str | None = None
    acceleration: Acceleration | None = None


class Characterization(EventData):
    """What a node is. ``silent`` says, for each probe without an answer, why."""

    event_type: ClassVar[str] = "minicloud.node.characterized.v1"

    node: Token
    id: str
    minicloud: Token
    agent: Agent
    addresses: list[Address] = []
    cpu: Cpu
    memory: Memory
    disks: list[Disk] = []
    gpus: list[Gpu] = []
    battery: Battery | None = None
    os: OperatingSystem
    k3s: K3s | None = None
    region: dict[str, str] = {}
    rack: str | None = None
    labels: dict[str, str] = {}
    software: dict[str, str] = {}
    runtimes: list[Runtime] = []
    silent: dict[str, str] = {}
    probed_at: datetime


class Measurement(EventData):
    """How a node does: flat ``values`` under attribute names, in their base units.

    A value that cannot be had is absent; a name that nobody foresaw becomes an attribute.
    """

    event_type: ClassVar[str] = "minicloud.node.measured.v1"

    node: Token
    interval: float = Field(gt=0)
    values: dict[str, float]


class Presence(EventData):
    """That a node is there, or no longer. ``session`` is one run of the agent."""

    event_type: ClassVar[str] = "minicloud.node.presence.v1"

    node: Token
    state: Literal["online", "offline"]
    reason: str
    session: str
    since: datetime
