"""The port between the cluster's worker and one kind of workload: containers, virtual machines, unikernels.

A kind says what objects the levels of a deployment come to, and what those that lie in the cluster mean. It
does no I/O of its own for that: :mod:`services.vim.cluster.keeper` writes the objects, and asks again whenever
a level or an object changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.cluster import ClusterRuntime
from schemas.node import RuntimeName
from schemas.workload import DesiredWorkload, Exit, WorkloadState
from services.vim.cluster.api import Api, ApiError, Object, Resource
from services.vim.cluster.names import Key, Ours
from services.vim.cluster.refusal import Refusal
from services.vim.cluster.settings import ClusterSettings


@dataclass(frozen=True, slots=True)
class Want:
    """One level that says "running", and when it was written."""

    level: DesiredWorkload
    revision: int


@dataclass(frozen=True, slots=True)
class Group:
    """What should run of one deployment in one runtime.

    Attributes:
        key: which.
        wants: for each replica that should run the level that was written last, by replica.
        superseded: earlier levels of these replicas at other nodes, which vim has not taken back yet.
        ending: levels that say "stopped".
    """

    key: Key
    wants: dict[int, Want]
    superseded: list[Want]
    ending: list[Want]

    @property
    def newest(self) -> DesiredWorkload:
        """The level that speaks for all: of the highest generation, there the one that was written last."""
        return max(self.wants.values(), key=lambda want: (want.level.generation, want.revision)).level


@dataclass(frozen=True, slots=True)
class Machine:
    """A node of the cluster, as kinds must know it.

    Attributes:
        node: its name on the bus.
        kubernetes: its name in Kubernetes.
        hostname: the value of its label ``kubernetes.io/hostname``; None where it has none.
        address: where its ports are reached.
        ready: whether Kubernetes holds it for ready.
        fenced: whether somebody said that nothing runs there any more (Kubernetes' out-of-service taint).
        labels: as they are in Kubernetes.
    """

    node: str
    kubernetes: str
    hostname: str | None = None
    address: str | None = None
    ready: bool = True
    fenced: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


class Machines(Protocol):
    """The nodes of the cluster, by either name."""

    def by_node(self, node: str) -> Machine | None:
        """By its name on the bus."""

    def by_kubernetes(self, name: str) -> Machine | None:
        """By its name in Kubernetes."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What lies in the cluster of one group.

    Attributes:
        objects: of each resource, those that are ours and the group's.
        machines: the cluster's nodes.
        told: what was last told of each place, by (node, replica).
        now: seconds since the epoch.
    """

    objects: Mapping[Resource, Sequence[Object]]
    machines: Machines
    told: Mapping[tuple[str, int], Observation]
    now: float

    def of(self, resource: Resource) -> Sequence[Object]:
        """The group's objects of one resource."""
        return self.objects.get(resource, ())


@dataclass(frozen=True, slots=True)
class Observation:
    """What is told of one replica at one node; see :class:`schemas.workload.ObservedWorkload`.

    ``trouble`` is whether it stands for as long as nothing changes, so that it is worth a reason of the cluster's
    own (its events); ``retry_after`` asks to be looked at again in so many seconds.
    """

    state: WorkloadState
    reason: str
    message: str = ""
    reference: str | None = None
    endpoints: tuple[Mapping[str, Any], ...] = ()
    limits: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 0
    exit: Exit | None = None
    started_at: str | None = None
    moved_to: str | None = None
    engine: str | None = None
    acceleration: str | None = None
    generation: int | None = None  # of a level told by an earlier worker
    trouble: bool = field(default=False, compare=False)
    retry_after: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object that should lie in the cluster.

    Attributes:
        resource: its kind.
        document: all that we want to have said, and nothing else: what is left out is anybody's.
        keep: whether it is left as it lies, whatever that is: then the document says its name only.
    """

    resource: Resource
    document: Object
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Offering:
    """What a node offers by one kind: its engines, the better first, and why not the others."""

    runtimes: list[ClusterRuntime] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cluster as a whole can do.

    Attributes:
        version: of its API server.
        groups: the API groups that it serves.
        runtime_classes: the handler of each RuntimeClass, by name.
    """

    version: str = ""
    groups: frozenset[str] = frozenset()
    runtime_classes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Around:
    """What a kind is made with."""

    settings: ClusterSettings
    ours: Ours


class Kind(Protocol):
    """One kind of workload."""

    runtime: RuntimeName
    #: What of the cluster it must see, where it is served: all of ours in these is kept or collected.
    resources: tuple[Resource, ...]

    def offer(self, node: Object, facts: Facts) -> Offering:
        """What a node (as Kubernetes describes it) offers by this kind."""

    def wanted(self, group: Group, seen: Seen) -> list[Wanted]:
        """The objects that the levels come to, in the order in which they are made.

        Whatever of ours is not among them is ended. Called again for as long as anything changes, so it must
        give the same for the same.

        Raises:
            CannotRun: no object can be made of what is desired; the reason is told.
        """

    async def act(self, group: Group, seen: Seen, api: Api) -> None:
        """Whatever is not an object to be wanted, such as a live migration; done again and again, it must not hurt."""

    def observe(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """What is told of each place that is wanted, by (node, replica)."""

    def refusal(self, error: ApiError) -> Refusal:
        """What it means that the server refused one of the kind's objects, in the words of the request."""

    def ending(self, group: Group, seen: Seen) -> dict[tuple[str, int], Observation]:
        """What is told of places that should end and have not, where there is more to say than that."""

    def remaining(self, group: Group, seen: Seen) -> Iterable[tuple[str | None, str]]:
        """What still runs of what should not: (its node in Kubernetes' words, its reference in observations)."""
