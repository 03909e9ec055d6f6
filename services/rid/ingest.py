"""Events in, attributes into the index: what a node is, how it does, whether it is there.

Each event is a level: the newest decides, a repeat changes nothing, and any order in which they are
replayed ends in the same state. Whoever wants to know hears which node changed, and whether by more
than its metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from schemas.attributes import Value
from schemas.cluster import ClusterNode
from schemas.event import Event
from schemas.flatten import (
    allocatable,
    attributes_of,
    clustered,
    is_derived,
    may_be_metric,
    measured,
    working,
)
from schemas.liveness import LEAVING, State, Thresholds
from schemas.node import Characterization, Measurement, Presence
from schemas.sample import Sample
from schemas.workload import DesiredWorkload, WorkerStatus
from services.rid.fresh import HEARD
from services.rid.index import Index
from services.rid.known import Known

#: How far behind the newest a sample may be and count as late; beyond, the node's clock was set back.
_LATE: Final = 900.0
#: No agent may claim to be so slow that its silence means nothing.
_SLOWEST: Final = 600.0


class Ingest:
    """The one writer of the index.

    Args:
        index: where attributes go.
        thresholds: when silence means something.
        changed: called with a node's name and whether more than metrics changed.
        clock: seconds since the epoch.

    Attributes:
        heard: when anything was last heard from any node; None while nothing was.
    """

    def __init__(
        self,
        index: Index,
        thresholds: Thresholds,
        changed: Callable[[str, bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._thresholds = thresholds
        self._changed = changed
        self._clock = clock
        self._nodes: dict[str, Known] = {}
        self._started = clock()
        self.heard: float | None = None

    def take(self, event: Event[Any], *, live: bool) -> None:
        """Take in one event of a node.

        Args:
            event: of any of the kinds below.
            live: whether it happened now; of a replayed one only its own time tells when.
        """
        now = self._clock()
        at = now if live else min(now, event.time.timestamp())
        match event.data:
            case Measurement(node=node, interval=interval, values=values):
                self._measured(Sample(node, interval, values, event.time), at, now)
            case Characterization():
                self._characterized(event.data, at, now)
            case Presence():
                self._presence(event.data, at, now, live=live)
            case WorkerStatus():
                self._of(event.data.node).worker = event.data
                self._write(event.data.node, now)
            case ClusterNode():
                self._of(event.data.node).cluster = event.data
                self._write(event.data.node, now)
            case DesiredWorkload():
                self._desired(event.data, now)

    def sample(self, sample: Sample, *, live: bool) -> None:
        """Take in a sample that was read by itself; as :meth:`take`."""
        now = self._clock()
        self._measured(sample, now if live else min(now, sample.time.timestamp()), now)

    def recall(self, node: str, state: State) -> None:
        """What was last published about a node, so that a restart does not bring back who was lost."""
        known = self._of(node)
        known.pulse.state = state
        if known.static is not None:
            self._write(node, self._clock())

    def adopt(self, node: str, attributes: Mapping[str, Value], at: float) -> None:
        """Take a node from the change log whose characterization the bus no longer keeps.

        Args:
            node: whose.
            attributes: what the log says last of it.
            at: when that was written, seconds since the epoch.
        """
        known = self._of(node)
        if known.static is not None:
            return
        known.static = {
            name: value
            for name, value in attributes.items()
            if not is_derived(name) and not may_be_metric(name)
        }
        known.static.setdefault("runtimes", [])
        known.metrics = known.metrics or {
            name: value for name, value in attributes.items() if may_be_metric(name)
        }
        known.pulse.heard = known.pulse.heard or at
        self._write(node, self._clock())

    def known(self, node: str) -> Known | None:
        """All that is known of a node."""
        return self._nodes.get(node)

    def restore(self, node: str, known: Known) -> None:
        """What was known of a node when it was last kept; events since then come after it."""
        self._nodes[node] = known
        if known.pulse.heard:
            self.heard = max(self.heard or 0.0, known.pulse.heard)
        self._write(node, self._clock())

    def left(self, node: str) -> bool:
        """Whether the node's agent went in order."""
        return self._of(node).pulse.offline in LEAVING

    def tick(self) -> None:
        """Judge every node's silence anew."""
        for _ in self.ticking():
            pass

    def ticking(self, at_once: int = 200) -> Iterator[None]:
        """The same in steps of so many nodes, so that others get a turn in between."""
        names = list(self._nodes)
        for begin in range(0, len(names), at_once):
            now = self._clock()
            for name in names[begin : begin + at_once]:
                node = self._nodes[name]
                before = node.pulse.state
                if node.static and node.pulse.judge(now, now - self._started, self._thresholds) != before:
                    self._write(name, now)
            yield

    def _state(self, node: Known, now: float) -> State:
        """The verdict on its silence; where its agent went in order, its cluster still speaks for it."""
        state = node.pulse.judge(now, now - self._started, self._thresholds)
        cluster = node.cluster
        if state == "lost" and node.pulse.offline in LEAVING and cluster is not None:
            return "alive" if cluster.state == "ready" and cluster.ready else state
        return state

    def _of(self, name: str) -> Known:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = Known()
        return node

    def _measured(self, sample: Sample, at: float, now: float) -> None:
        name, interval, told, time_of_sample = sample
        sampled = time_of_sample.timestamp()
        node = self._of(name)
        node.pulse.interval = min(interval, _SLOWEST)
        node.pulse.beat(at)
        self.heard = max(self.heard or 0.0, at)
        if 0 < node.sampled - sampled < _LATE:
            return  # a spooled sample, overtaken by a newer one
        node.sampled = sampled
        values = measured(told)
        before, node.metrics = node.metrics, values
        if node.static is None:
            return
        changes: dict[str, Value | None] = {**values, HEARD: node.pulse.heard}
        if before.keys() != values.keys():
            changes.update(dict.fromkeys(before.keys() - values.keys()))
        self._index.update(name, changes)
        if node.pulse.state != "alive":
            self._write(name, now)
        self._changed(name, False)  # noqa: FBT003 - a callback

    def _characterized(self, characterization: Characterization, at: float, now: float) -> None:
        node = self._of(characterization.node)
        node.static = attributes_of(characterization)
        node.pulse.beat(at)
        self.heard = max(self.heard or 0.0, at)
        self._write(characterization.node, now)

    def _presence(self, presence: Presence, at: float, now: float, *, live: bool) -> None:
        pulse = self._of(presence.node).pulse
        if not live:
            pulse.session = ""  # the bus keeps the last word only: the greeting of that run may be gone
        if presence.state == "online":
            pulse.online(presence.session, at)
        else:
            pulse.gone(presence.session, presence.reason, now)
        self.heard = max(self.heard or 0.0, at)
        self._write(presence.node, now)

    def _desired(self, workload: DesiredWorkload, now: float) -> None:
        node = self._of(workload.node)
        if workload.state != "stopped":
            node.desired[workload.workload] = workload
        else:
            node.desired.pop(workload.workload, None)
        self._write(workload.node, now)

    def _write(self, name: str, now: float) -> None:
        """Bring the index to what is known; nothing is indexed before a characterization."""
        node = self._nodes[name]
        if node.static is None:
            return
        facts = dict(node.static)
        facts.update(working(node.worker, facts["runtimes"]))
        facts.update(clustered(node.cluster, facts))
        facts.update(allocatable(facts, node.desired.values()))
        facts["state"] = self._state(node, now)
        if name not in self._index:
            self._index.put(name, {**node.metrics, **facts, HEARD: node.pulse.heard})
        else:
            gone = dict.fromkeys(node.facts.keys() - facts.keys())
            self._index.update(name, {**facts, **gone, HEARD: node.pulse.heard})
        if facts != node.facts:
            node.facts = facts
            self._changed(name, True)  # noqa: FBT003 - a callback
