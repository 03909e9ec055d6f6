"""What the bus keeps of a journey, read back whole, and what must hold of it whatever was killed on the way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bus.bus import Bus
from bus.streams import Stream, stream_of
from bus.watch import Reader
from schemas.decision import Decision, DeploymentStatus
from schemas.event import EventData, read_event
from schemas.node import Presence
from schemas.resource import ResourceChange
from schemas.workload import DesiredWorkload, ObservedWorkload, WorkerStatus
from tests.journey.requests import instances, started
from tests.journey.site import NODE, Site


async def kept(bus: Bus, subject: str) -> list[tuple[str, bytes]]:
    """Everything that the stream of a subject keeps of it, oldest first."""
    return [item async for item in _read(bus, stream_of(subject), subject)]


async def _read(bus: Bus, stream: Stream, subject: str) -> Any:
    reader = Reader(bus.jetstream, stream, bus.minicloud, [subject], everything=True)
    await reader.start()
    try:
        async for item in reader:
            if item.kind == "SYNC":
                return
            if item.subject:
                yield item.subject, item.payload
    finally:
        await reader.stop()


async def events(bus: Bus, subject: str, kind: type[EventData], since: datetime | None = None) -> list[Any]:
    """The same as typed data, of events after ``since``; what has the same id is the same fact, said once.

    An MQTT client whose acknowledgement was lost with the broker sends again, and no broker knows it as a repeat.
    """
    said = [read_event(payload, kind) for _, payload in await kept(bus, subject)]
    read = list({event.id: event for event in said}.values())
    return [event.data for event in read if since is None or event.time > since]


@dataclass(frozen=True)
class Record:
    """All that the bus says of one deployment on one node.

    Attributes:
        statuses: oldest first.
        decisions: oldest first.
        desired: the level of replica 0; None if it never was.
        observed: likewise.
    """

    deployment: str
    statuses: list[DeploymentStatus]
    decisions: list[Decision]
    desired: DesiredWorkload | None
    observed: ObservedWorkload | None

    @classmethod
    async def of(cls, bus: Bus, deployment: str, node: str = NODE) -> Record:
        s, workload = bus.subjects, f"{deployment}-0"
        desired = await events(bus, s.desired(node, workload), DesiredWorkload)
        observed = await events(bus, s.observed(node, workload), ObservedWorkload)
        return cls(
            deployment,
            await events(bus, s.status(deployment), DeploymentStatus),
            await events(bus, s.decision(deployment), Decision),
            desired[-1] if desired else None,
            observed[-1] if observed else None,
        )

    def story(self) -> str:
        """The statuses and decisions in a line each, for a failure's message."""
        told = [f"{s.sequence} {s.previous} -> {s.state} {s.reason}: {s.message}" for s in self.statuses]
        told += [
            f"decided {d.generation} {d.outcome} {[p.node for p in d.placements]}" for d in self.decisions
        ]
        return "\n".join([self.deployment, *told])

    def must_hold(self, starts: Path, state: str) -> None:
        """One generation, told in order, decided once, started once; desired and observed agree."""
        story = self.story()
        sequences = [status.sequence for status in self.statuses]
        assert sequences == list(range(1, len(sequences) + 1)), f"statuses out of order\n{story}"
        for before, after in zip(self.statuses, self.statuses[1:], strict=False):
            assert after.previous == before.state, f"a step is missing\n{story}"
        generations = [status.generation for status in self.statuses]
        assert generations == sorted(generations), story
        assert generations[-1] == max(generations) == 1, story
        scheduled = [decision for decision in self.decisions if decision.outcome == "scheduled"]
        assert len(scheduled) == 1, f"decided {len(scheduled)} times\n{story}"
        assert {decision.generation for decision in self.decisions} == {1}, story
        assert self.statuses[-1].state == state, story
        assert self.desired is not None, story
        assert self.observed is not None, story
        assert (self.desired.state, self.desired.generation) == ("running", 1), story
        assert (self.observed.state, self.observed.generation) == (state, 1), story
        pids = started(starts, self.deployment)
        assert len(pids) == 1, f"started {len(pids)} times\n{story}"
        alive = instances(starts, self.deployment)
        assert alive == (pids if state == "running" else []), f"{alive} are alive of {pids}\n{story}"


async def node_must_hold(site: Site, bus: Bus) -> None:
    """The node joined once, is there, and nothing was buried."""
    changes = await events(bus, bus.subjects.resource(NODE), ResourceChange)
    kinds = [change.kind for change in changes]
    assert kinds.count("joined") == 1, kinds
    assert kinds[0] == "joined", kinds
    (presence,) = await events(bus, bus.subjects.presence(NODE), Presence)
    (worker,) = await events(bus, bus.subjects.worker(NODE), WorkerStatus)
    assert (presence.state, worker.state) == ("online", "ready")
    buried = [payload[:500] for _, payload in await kept(bus, bus.subjects.dead())]
    assert buried == [], site.logs()
