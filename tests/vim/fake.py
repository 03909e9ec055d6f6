"""Fake nodes: agent and worker of machines that cannot run here, speaking the contract over the real bus.

They stand in for fleets only; where a workload must really run, a test starts a real worker.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bus.bus import Bus, gather_published
from schemas.event import now
from schemas.workload import DesiredWorkload, ObservedWorkload
from tests.rid import nodes

Step = tuple[str, str]
#: What a fake worker says after another when it is told to run something.
UP: list[Step] = [("creating", "Preparing"), ("starting", "Started"), ("running", "Started")]
DONE: list[Step] = [*UP, ("completed", "Completed")]


def failing(reason: str) -> list[Step]:
    return [("creating", "Preparing"), ("failed", reason)]


def _content(level: DesiredWorkload) -> dict[str, Any]:
    """What makes another run of it; not which generation says so, nor whether it stands still."""
    return level.model_dump(exclude={"generation", "state", "candidates"})


def _up(_: DesiredWorkload) -> list[Step]:
    return UP


@dataclass
class FakeNodes:
    """Many fake machines on one connection.

    Attributes:
        behave: what a worker says when told to run something; an empty list is silence.
        starts: how often each (node, workload, generation) was begun.
        running: what runs now, by (node, workload).
        most_at_once: the most of each replica that was ever begun beside itself on nodes that are heard.
        away: nodes that are cut off.
        more: what workers add to every message.
    """

    bus: Bus
    group: str
    behave: Callable[[DesiredWorkload], list[Step]] = _up
    starts: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    running: dict[tuple[str, str], DesiredWorkload] = field(default_factory=dict)
    most_at_once: Counter[str] = field(default_factory=Counter)
    away: set[str] = field(default_factory=set)
    more: str = ""
    names: list[str] = field(default_factory=list)
    levels: dict[tuple[str, str], DesiredWorkload] = field(default_factory=dict)
    said: dict[tuple[str, str], ObservedWorkload] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def join(self, *names: str, runtimes: Iterable[str] = ("process",), **changes: Any) -> None:
        """New nodes, each with 4 cores and 8 GiB unless changed; returns when the bus has stored it."""
        if self._task is None:
            ready = asyncio.Event()
            self._task = asyncio.create_task(self._work(ready))
            await ready.wait()
        self.names += [name for name in names if name not in self.names]
        self.away -= set(names)
        labels = {"group": self.group, **changes.pop("labels", {})}
        publishing = []
        s = self.bus.subjects
        offered = [{"name": name} for name in runtimes]
        for name in names:
            described = nodes.characterization(
                name, self.bus.minicloud, labels=labels, runtimes=offered, **changes
            )
            ready_now = nodes.worker(name, *runtimes).model_copy(update={"allow_root": False})
            publishing += [
                self.bus.publish(s.characterization(name), described, about=name),
                self.bus.publish(s.presence(name), nodes.presence(name), about=name),
                self.bus.publish(s.worker(name), ready_now, about=name),
            ]
        await gather_published(publishing)

    async def lose(self, *names: str) -> None:
        """Cut nodes off: their wills are published, and their workers hear nothing more."""
        self.away |= set(names)
        for name in names:
            gone = nodes.presence(name, online=False, reason="connection lost")
            await self.bus.publish(self.bus.subjects.presence(name), gone, about=name)

    async def come_back(self, *names: str) -> None:
        """They are heard again, still running what they ran, and read what is desired now."""
        self.away -= set(names)
        for name in names:
            await self.bus.publish(self.bus.subjects.presence(name), nodes.presence(name), about=name)
        for (node, _), level in list(self.levels.items()):
            if node in names:
                self._take(level)

    async def end(self) -> None:
        """Without a farewell."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, *self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """With a farewell of each node, as others share the minicloud."""
        await self.end()
        publishing = []
        for name in self.names:
            gone = nodes.presence(name, online=False, reason="stopping")
            publishing.append(self.bus.publish(self.bus.subjects.presence(name), gone, about=name))
        await gather_published(publishing)

    async def _work(self, ready: asyncio.Event) -> None:
        async with self.bus.watch({self.bus.subjects.desired(): DesiredWorkload}) as items:
            async for item in items:
                if item.kind == "SYNC":
                    ready.set()
                elif item.event and item.event.data.node in self.names:
                    level = item.event.data
                    self.levels[level.node, level.workload] = level
                    if level.node not in self.away:
                        self._take(level)

    def _take(self, level: DesiredWorkload) -> None:
        key = (level.node, level.workload)
        if level.driver != "host":
            self.running.pop(key, None)  # the worker of its cluster speaks for it
            return
        before = self.running.get(key)
        same = before is not None and _content(before) == _content(level)
        if level.state == "stopped":
            self.running.pop(key, None)
            self._spawn(self._say(level, [("stopped", "Stopped")]))
        elif self._over(level):
            self._spawn(self.say(self.said[key]))
        elif not same:
            steps = self.behave(level)
            if not steps:
                return
            self.starts[level.node, level.workload, level.generation] += 1
            if level.state == "paused":
                steps = [*steps, ("paused", "Paused")]
            if steps[-1][0] in ("running", "degraded", "paused"):
                self.running[key] = level
                count = sum(w == level.workload and n not in self.away for n, w in self.running)
                self.most_at_once[level.workload] = max(self.most_at_once[level.workload], count)
            self._spawn(self._say(level, steps))
        else:
            # Another generation of what runs, or the same again: the run goes on, or stands still.
            self.running[key] = level
            still = level.state == "paused"
            self._spawn(self._say(level, [("paused", "Paused")] if still else self.behave(level)[-1:]))

    def _over(self, level: DesiredWorkload) -> bool:
        """Whether it has run to its end in this generation, which a worker remembers."""
        last = self.said.get((level.node, level.workload))
        if last is None or last.generation != level.generation:
            return False
        return last.state == "completed" or (last.state == "failed" and last.runtime == level.runtime)

    async def _say(self, level: DesiredWorkload, steps: list[Step]) -> None:
        for state, reason in steps:
            if self.levels.get((level.node, level.workload), level) is not level:
                return
            ended = state in ("failed", "completed")
            observed = ObservedWorkload(
                workload=level.workload,
                deployment=level.deployment,
                generation=level.generation,
                replica=level.replica,
                node=level.node,
                state=state,  # type: ignore[arg-type]
                reason=reason,
                message=f"{reason} on {level.node}{self.more}",
                runtime=level.runtime,
                exit={"code": int(state == "failed")} if ended else None,  # type: ignore[arg-type]
                observed_at=now(),
            )
            await self.say(observed)

    async def say(self, observed: ObservedWorkload) -> None:
        """What a worker tells."""
        self.said[observed.node, observed.workload] = observed
        subject = self.bus.subjects.observed(observed.node, observed.workload)
        await self.bus.publish(subject, observed, about=observed.node)

    async def turn(self, node: str, workload: str, state: str, reason: str = "Changed", **more: Any) -> None:
        """A workload that runs changes by itself."""
        last = self.said[node, workload]
        update = {"state": state, "reason": reason, "observed_at": datetime.now(UTC), **more}
        if state in ("failed", "completed", "stopped"):
            self.running.pop((node, workload), None)
        await self.say(last.model_copy(update=update))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
