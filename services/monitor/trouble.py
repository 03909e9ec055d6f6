"""Physical meets virtual (seed 3.3): which node is in trouble, and which deployments suffer with it.

In: the fleet, its windows, the limits, and what was said last of each node. Out: an event for each node whose
troubles, or whose deployments in them, are others than was said. What has begun ends only when it is a tenth
within its limit again, so that a value on the edge makes no stream of events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from schemas.event import now as moment
from schemas.liveness import LEAVING
from schemas.trouble import Ailment, NodeTrouble, Sufferer, Trouble
from services.monitor.fleet import Fleet, Node, unit_of
from services.monitor.windows import Windows

_WITHIN: Final = 0.1
_WINDOW: Final = "5m"


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond what it is trouble.

    Attributes:
        cpu: per cent of busy CPU, mean of five minutes.
        memory: per cent of memory that can be had.
        disk: per cent of disk space that is free.
        hot: degrees Celsius.
    """

    cpu: float = 90.0
    memory: float = 5.0
    disk: float = 10.0
    hot: float = 85.0


class Troubles:
    """What is wrong with each node.

    Args:
        fleet: what is known.
        windows: of its metrics.
        limits: beyond what it is trouble.
    """

    def __init__(self, fleet: Fleet, windows: Windows, limits: Limits) -> None:
        self._fleet = fleet
        self._windows = windows
        self._limits = limits
        self._now: dict[str, dict[Ailment, Trouble]] = {}
        self._said: dict[str, NodeTrouble] = {}

    def recall(self, said: NodeTrouble) -> None:
        """What was published of a node, by us or by another monitor."""
        self._said[said.node] = said
        if said.node not in self._now and said.troubles:
            self._now[said.node] = {one.what: one for one in said.troubles}
            node = self._fleet.node(said.node)
            if node is not None and "lost" in self._now[said.node]:
                node.pulse.state = "lost"  # who was lost comes back by being heard, not by our forgetting

    def of(self, node: str) -> list[Trouble]:
        """What is wrong with a node, as last looked at."""
        return list(self._now.get(node, {}).values())

    def troubled(self) -> list[str]:
        """The nodes in trouble, by name."""
        return sorted(self._now)

    def look(self, at: float, at_once: int = 200) -> Iterator[None]:
        """Look at every node anew, in steps of so many.

        Args:
            at: seconds since the epoch.
            at_once: nodes a step.
        """
        for number, node in enumerate(self._fleet.nodes()):
            before = self._now.get(node.name, {})
            found = {
                what: trouble.model_copy(update={"since": before[what].since}) if what in before else trouble
                for what, trouble in self._ailing(node, at, before)
            }
            if found:
                self._now[node.name] = found
            else:
                self._now.pop(node.name, None)
            if number % at_once == at_once - 1:
                yield

    def due(self) -> Iterator[NodeTrouble]:
        """What is to be said, since it is other than what was."""
        for node in sorted(self._now.keys() | self._said.keys()):
            said = self._said.get(node)
            before = {one.what for one in said.troubles} if said else set()
            troubles = self.of(node)
            what = {one.what for one in troubles}
            sufferers = self._sufferers(node) if troubles else []
            deployments = sorted({one.deployment for one in sufferers})
            if what == before and (not what or (said and said.deployments == deployments)):
                continue
            yield NodeTrouble(
                node=node,
                troubles=troubles,
                over=sorted(before - what),
                deployments=deployments,
                workloads=sufferers,
                observed_at=moment(),
            )

    def _sufferers(self, node: str) -> list[Sufferer]:
        return [
            Sufferer(
                workload=one.workload,
                deployment=one.deployment,
                replica=one.replica,
                runtime=one.runtime,
                state=one.state,
                since=one.started_at,
            )
            for one in sorted(self._fleet.workloads(node), key=lambda one: one.workload)
        ]

    def _ailing(
        self, node: Node, at: float, before: dict[Ailment, Trouble]
    ) -> Iterator[tuple[Ailment, Trouble]]:
        if node.state != "alive" and node.pulse.offline not in LEAVING:
            what: Ailment = "lost" if node.state == "lost" else "stale"
            yield (
                what,
                Trouble(
                    what=what,
                    message=f"not heard for {max(0.0, at - node.pulse.heard):.0f} s"
                    + (f": {node.pulse.offline}" if node.pulse.offline else ""),
                    since=_time(node.pulse.heard),
                ),
            )
        if node.state == "lost" or node.facts is None:
            return  # its last sample says nothing about now
        limits = self._limits
        busy = self._windows.mean(node.name, "cpu.used", _WINDOW, at)
        if _above(busy, limits.cpu, "cpu" in before):
            yield "cpu", _measured("cpu", "CPU busy, mean of 5 minutes", busy, limits.cpu, "%", at)
        memory = _share(node.values.get("memory.available"), node.facts.memory)
        if _below(memory, limits.memory, "memory" in before):
            yield "memory", _measured("memory", "memory that can be had", memory, limits.memory, "%", at)
        disk = _share(node.values.get("disk.free"), node.facts.disk)
        if _below(disk, limits.disk, "disk" in before):
            yield "disk", _measured("disk", "disk space that is free", disk, limits.disk, "%", at)
        heat = node.values.get("temperature")
        if _above(heat, limits.hot, "hot" in before):
            yield "hot", _measured("hot", "temperature", heat, limits.hot, unit_of("temperature"), at)


def _measured(
    what: Ailment, name: str, value: float | None, limit: float, unit: str | None, at: float
) -> Trouble:
    assert value is not None  # noqa: S101 - it is beyond the limit
    told = round(value, 2)
    return Trouble(
        what=what,
        message=f"{name}: {told:g} {unit or ''}, limit {limit:g}",
        value=told,
        limit=limit,
        unit=unit,
        since=_time(at),
    )


def _above(value: float | None, limit: float, already: bool) -> bool:
    return value is not None and value > (limit * (1 - _WITHIN) if already else limit)


def _below(value: float | None, limit: float, already: bool) -> bool:
    return value is not None and value < (limit * (1 + _WITHIN) if already else limit)


def _share(part: float | None, whole: int) -> float | None:
    return None if part is None or not whole else 100 * part / whole


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
