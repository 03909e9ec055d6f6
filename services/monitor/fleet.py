"""What is known of every node and workload: events in, the present state out.

Each event is a level: the newest decides, a repeat changes nothing, and any order in which they are replayed
ends in the same state. A characterization is kept as the bytes that it came as, and read when somebody asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from schemas.attributes import ATTRIBUTES, METRICS
from schemas.event import Event
from schemas.flatten import measured
from schemas.liveness import Pulse, State, Thresholds
from schemas.node import Characterization, Measurement, Presence
from schemas.workload import ObservedWorkload, WorkerStatus
from services.monitor.windows import Windows

log = structlog.get_logger("monitor")

#: How far behind the newest a sample may be and count as late; beyond, the node's clock was set back.
_LATE: Final = 900.0
#: No agent may claim to be so slow that its silence means nothing.
_SLOWEST: Final = 600.0
_FORESEEN: Final = frozenset(METRICS)
#: What a workload is that is no longer there.
GONE: Final = "stopped"


@dataclass(slots=True)
class Facts:
    """What of a characterization is needed without reading it anew.

    Attributes:
        id: the agent's.
        address: the first one, IPv4 before IPv6; empty where there is none.
        cores: of the CPU.
        memory: bytes.
        disk: bytes of all local disks.
        labels: of the node.
        at: when it was said, seconds since the epoch.
    """

    id: str
    address: str
    cores: int
    memory: int
    disk: int
    labels: dict[str, str]
    at: float


@dataclass(slots=True)
class Node:
    """What is known of a node.

    Attributes:
        name: its name on the bus.
        pulse: its signs of life.
        said: its last characterization, as JSON; empty before the first.
        facts: the parts of it that are needed often.
        values: its last sample; emptied when the node is no longer alive or stale.
        sampled: when that was taken, seconds since the epoch.
        worker: its worker's last word.
    """

    name: str
    pulse: Pulse = field(default_factory=Pulse)
    said: bytes = b""
    facts: Facts | None = None
    values: dict[str, float] = field(default_factory=dict)
    sampled: float = 0.0
    worker: WorkerStatus | None = None

    @property
    def state(self) -> State:
        """Whether it is alive, stale or lost."""
        return self.pulse.state or "alive"

    def characterization(self) -> Characterization:
        """What it said that it is; only where :attr:`said` is not empty."""
        return Characterization.model_validate_json(self.said)


class Fleet:
    """All nodes and workloads.

    Args:
        thresholds: when silence means something.
        windows: what takes in every sample.
        most: how many metrics that nobody foresaw are held.
        clock: seconds since the epoch.

    Attributes:
        layout: changes when a node comes, goes, or has other metrics than before.
        refused: values that were left out because there were too many metrics already.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        windows: Windows,
        most: int = 512,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._thresholds = thresholds
        self._windows = windows
        self._most = most
        self._clock = clock
        self._started = clock()
        self._unforeseen: set[str] = set()
        self._nodes: dict[str, Node] = {}
        self._by_id: dict[str, str] = {}
        self._workloads: dict[str, dict[tuple[str, str], ObservedWorkload]] = {}
        self._places: dict[tuple[str, str], str] = {}
        self.layout = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def take(self, event: Event[Any], *, live: bool) -> None:
        """Take in one event.

        Args:
            event: of any of the kinds below.
            live: whether it happened now; of a replayed one only its own time tells when.
        """
        now = self._clock()
        at = now if live else min(now, event.time.timestamp())
        match event.data:
            case Measurement():
                self._measured(event.data, min(now, event.time.timestamp()), at)
            case Characterization():
                self.characterized(event.data, event.time.timestamp(), at)
            case Presence():
                self._presence(event.data, at, live=live)
            case WorkerStatus():
                self._of(event.data.node).worker = event.data
            case ObservedWorkload():
                self._observed(event.data)

    def characterized(self, it: Characterization, said: float, heard: float) -> None:
        """Take in what a node is, said at one moment and heard at another."""
        node = self._of(it.node)
        if node.facts is not None and node.facts.at > said:
            return
        if node.facts is not None and node.facts.id != it.id:
            self._by_id.pop(node.facts.id, None)
        addresses = sorted(it.addresses, key=lambda one: one.family)
        node.said = it.model_dump_json().encode()
        node.facts = Facts(
            it.id,
            addresses[0].address if addresses else "",
            it.cpu.cores,
            it.memory.total,
            sum(disk.total for disk in it.disks if disk.kind != "network"),
            it.labels,
            said,
        )
        self._by_id[it.id] = it.node
        node.pulse.beat(heard)
        self.layout += 1

    def node(self, which: str) -> Node | None:
        """A node by its name or its agent's id."""
        return self._nodes.get(which) or self._nodes.get(self._by_id.get(which, ""))

    def nodes(self, after: str = "") -> list[Node]:
        """Every node that has said what it is, by name, those that come after ``after``."""
        return [self._nodes[name] for name in sorted(self._nodes) if name > after and self._nodes[name].said]

    def workloads(self, node: str | None = None) -> Iterator[ObservedWorkload]:
        """What is there of workloads, on one node or on all, in no order."""
        if node is not None:
            yield from self._workloads.get(node, {}).values()
            return
        for held in self._workloads.values():
            yield from held.values()

    def judging(self, at_once: int = 500) -> Iterator[None]:
        """Judge every node's silence anew, in steps of so many, so that others get a turn in between."""
        nodes = list(self._nodes.values())
        for begin in range(0, len(nodes), at_once):
            now = self._clock()
            for node in nodes[begin : begin + at_once]:
                self._judge(node, now)
            yield

    def _of(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = Node(name)
        return node

    def _judge(self, node: Node, now: float) -> None:
        before = node.pulse.state
        if node.pulse.judge(now, now - self._started, self._thresholds) == before:
            return
        if node.pulse.state == "lost":
            node.values.clear()  # the last sample of a node that is away says nothing about now
        self.layout += 1

    def _measured(self, measurement: Measurement, sampled: float, at: float) -> None:
        node = self._of(measurement.node)
        node.pulse.interval = min(measurement.interval, _SLOWEST)
        node.pulse.beat(at)
        values = self._bounded(measured(measurement.values))
        self._windows.add(node.name, sampled, values)
        if 0 < node.sampled - sampled < _LATE:
            return  # a spooled sample, overtaken by a newer one
        node.sampled = sampled
        if node.values.keys() != values.keys():
            self.layout += 1
            node.values.clear()
        node.values.update(values)
        if node.pulse.state != "alive":
            self._judge(node, self._clock())

    def _bounded(self, values: dict[str, Any]) -> dict[str, float]:
        kept: dict[str, float] = {}
        for name, value in values.items():
            if name not in _FORESEEN and name not in self._unforeseen:
                if len(self._unforeseen) >= self._most:
                    if not self.refused:
                        log.warning("metric refused: too many", metric=name, most=self._most)
                    self.refused += 1
                    continue
                self._unforeseen.add(name)
            kept[name] = value
        return kept

    def _presence(self, presence: Presence, at: float, *, live: bool) -> None:
        node = self._of(presence.node)
        if not live:
            node.pulse.session = ""  # the bus keeps the last word only: the greeting of that run may be gone
        if presence.state == "online":
            node.pulse.online(presence.session, at)
        else:
            node.pulse.gone(presence.session, presence.reason, self._clock())
        self._judge(node, self._clock())

    def _observed(self, workload: ObservedWorkload) -> None:
        key = (workload.node, workload.workload)
        before = self._places.pop(key, None)
        if before is not None:
            del self._workloads[before][key]
            if not self._workloads[before]:
                del self._workloads[before]
        if workload.state != GONE:
            self._places[key] = place(workload)
            self._workloads.setdefault(place(workload), {})[key] = workload


def place(workload: ObservedWorkload) -> str:
    """The node where a workload is: a cluster's scheduler may have put it on another than was chosen."""
    return workload.moved_to or workload.node


def unit_of(metric: str) -> str | None:
    """The base unit of a metric; None where it has none or nobody foresaw it."""
    known = ATTRIBUTES.get(metric)
    return known.unit if known else None
