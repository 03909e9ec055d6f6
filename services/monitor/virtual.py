"""The virtual layer: the minicloud's own workloads from the bus, pods of a cluster from its Prometheus.

Each comes with what its source knows of it; what none knows is None, and why is said beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, get_args

from schemas.errors import Unavailable
from schemas.node import RuntimeName
from schemas.workload import ObservedWorkload, WorkloadState
from services.monitor.fleet import Fleet, place
from services.monitor.prometheus import Prometheus, Sample
from services.monitor.views import WorkloadView

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
_PHASES: Final[dict[str, Phase]] = {
    phase.lower(): phase for phase in ("Pending", "Running", "Succeeded", "Failed", "Unknown")
}
_OF_STATE: Final[dict[WorkloadState, Phase]] = {
    "creating": "Pending",
    "starting": "Pending",
    "running": "Running",
    "degraded": "Running",
    "migrating": "Running",
    "paused": "Running",
    "stopping": "Running",
    "stopped": "Succeeded",
    "completed": "Succeeded",
    "failed": "Failed",
    "unknown": "Unknown",
}
NO_PROMETHEUS: Final = "no Prometheus is configured (setting prometheus_url)"
assert set(_OF_STATE) == set(get_args(WorkloadState))  # noqa: S101 - every state has its phase
_NOT_MEASURED: Final = "the minicloud's own workers do not measure what a workload takes"


@dataclass(slots=True)
class Runs:
    """A workload or pod, as much as is known of it.

    Attributes:
        name: of it.
        namespace: it is in.
        node: it runs on.
        phase: in Kubernetes' words.
        state: in the words of the minicloud; None for a pod.
        made_by: the kind of what made it.
        instance: who told of it, as Prometheus labels it; empty for the monitor itself.
    """

    name: str
    namespace: str
    node: str = ""
    phase: Phase = "Unknown"
    state: WorkloadState | None = None
    made_by: str = ""
    instance: str = ""
    addresses: list[str] = field(default_factory=list)
    host_address: str = ""
    deployment: str | None = None
    runtime: RuntimeName | None = None
    restarts: int | None = None
    started: datetime | None = None
    cpu: float | None = None
    memory: float | None = None

    def view(self) -> WorkloadView:
        """It as the typed API tells it."""
        return WorkloadView(
            name=self.name,
            namespace=self.namespace,
            source="worker" if self.state else "prometheus",
            node=self.node,
            addresses=self.addresses,
            state=self.state or self.phase,
            deployment=self.deployment,
            runtime=self.runtime,
            restarts=self.restarts,
            started=self.started,
            cpu=self.cpu,
            memory=self.memory,
        )


@dataclass(slots=True)
class Layer:
    """What runs, and why some of its figures are missing.

    Attributes:
        runs: by namespace and name.
        silent: why a figure is missing, by its name.
    """

    runs: list[Runs] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


class Virtual:
    """The virtual layer.

    Args:
        minicloud: whose; its own workloads are in a namespace of that name.
        fleet: what the bus knows.
        prometheus: whom to ask for pods; None for nobody.
    """

    def __init__(self, minicloud: str, fleet: Fleet, prometheus: Prometheus | None) -> None:
        self._minicloud = minicloud
        self._fleet = fleet
        self._prometheus = prometheus

    def own(self, node: str | None = None, deployment: str | None = None) -> list[Runs]:
        """The minicloud's own workloads, of one node or deployment or all, by name."""
        return sorted(
            (
                self._own(one)
                for one in self._fleet.workloads(node)
                if deployment is None or one.deployment == deployment
            ),
            key=lambda one: one.name,
        )

    async def layer(self, namespace: str | None = None) -> Layer:
        """Everything that runs in one namespace, or in all."""
        told = Layer()
        if namespace in (None, self._minicloud):
            told.runs = self.own()
        if self._prometheus is None:
            told.silent = dict.fromkeys(("pods", "cpu", "memory"), NO_PROMETHEUS)
        else:
            try:
                told.runs += await self._pods(self._prometheus, namespace)
            except Unavailable as error:
                told.silent = dict.fromkeys(("pods", "cpu", "memory"), str(error))
        for figure in ("cpu", "memory"):
            if figure not in told.silent and any(getattr(one, figure) is None for one in told.runs):
                told.silent[figure] = f"None: {_NOT_MEASURED}, nor does Prometheus have it of every pod"
        told.runs.sort(key=lambda one: (one.namespace, one.name))
        return told

    def _own(self, it: ObservedWorkload) -> Runs:
        node = self._fleet.node(place(it))
        host = node.facts.address if node and node.facts else ""
        return Runs(
            it.workload,
            self._minicloud,
            place(it),
            _OF_STATE[it.state],
            it.state,
            "Deployment",
            addresses=list(dict.fromkeys(one.address for one in it.endpoints)) or ([host] if host else []),
            host_address=host,
            deployment=it.deployment,
            runtime=it.runtime,
            restarts=it.restarts,
            started=it.started_at,
        )

    async def _pods(self, prometheus: Prometheus, namespace: str | None) -> list[Runs]:
        pods: dict[tuple[str, str], Runs] = {}

        def of(sample: Sample) -> Runs:
            key = (sample.labels.get("namespace", ""), sample.labels.get("pod", ""))
            found = pods.get(key)
            if found is None:
                found = pods[key] = Runs(key[1], key[0])
            return found

        def informed(pod: Runs, sample: Sample) -> None:
            labels = sample.labels
            pod.node = labels.get("node", "")
            pod.made_by = labels.get("created_by_kind", "")
            pod.host_address = labels.get("host_ip", "")
            pod.addresses = [labels["pod_ip"]] if labels.get("pod_ip") else []

        def in_phase(pod: Runs, sample: Sample) -> None:
            pod.phase = _PHASES.get(sample.labels.get("phase", "").lower(), "Unknown")
            pod.instance = sample.labels.get("instance", "")

        def restarted(pod: Runs, sample: Sample) -> None:
            pod.restarts = round(sample.value)

        def working(pod: Runs, sample: Sample) -> None:
            pod.node = pod.node or sample.node
            pod.cpu = (pod.cpu or 0.0) + sample.value

        def holding(pod: Runs, sample: Sample) -> None:
            pod.node = pod.node or sample.node
            pod.memory = (pod.memory or 0.0) + sample.value

        asked: Iterable[tuple[str, Callable[[Runs, Sample], None]]] = (
            (prometheus.pod_info(namespace), informed),
            (prometheus.pod_phase(namespace), in_phase),
            (prometheus.pod_restarts(namespace), restarted),
            (prometheus.pod_cpu(namespace), working),
            (prometheus.pod_memory(namespace), holding),
        )
        for query, note in asked:
            for sample in await prometheus.vector(query):
                if sample.labels.get("pod"):
                    note(of(sample), sample)
        return list(pods.values())
