"""The typed answers: what is known in, pages of views out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from bus.bus import Bus
from schemas.attributes import WINDOWS
from schemas.errors import InvalidQuery, NotFound
from services.monitor.figures import totals
from services.monitor.fleet import Fleet, Node, unit_of
from services.monitor.past import past_on_bus
from services.monitor.tosca import check, document
from services.monitor.trouble import Troubles
from services.monitor.views import (
    DeploymentView,
    Impacts,
    ImpactView,
    Metric,
    MetricWindow,
    Namespaces,
    NamespaceView,
    Nodes,
    NodeView,
    NodeWindow,
    NodeWindows,
    Past,
    PastOfNode,
    ReplicaView,
    Targets,
    Window,
    Workloads,
)
from services.monitor.virtual import Runs, Virtual
from services.monitor.windows import Windows

if TYPE_CHECKING:
    from services.monitor.archive import Archive

#: The label of a node that says on which port its exporter for Prometheus listens.
EXPORTER_LABEL: Final = "exporter.port"
_AT_ONCE: Final = 100


class Answers:
    """Answers about one minicloud.

    Args:
        bus: where the past is kept, unless there is an archive.
        fleet: what is known.
        windows: of its metrics.
        virtual: what runs.
        troubles: what is wrong.
        archive: where the past is kept; None for the bus.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        bus: Bus,
        fleet: Fleet,
        windows: Windows,
        virtual: Virtual,
        troubles: Troubles,
        archive: Archive | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self.fleet = fleet
        self._windows = windows
        self.virtual = virtual
        self._troubles = troubles
        self._archive = archive
        self.clock = clock
        self._checked = ""

    @property
    def minicloud(self) -> str:
        """Whose answers these are."""
        return self._bus.minicloud

    async def nodes(self, after: str, limit: int) -> Nodes:
        """A page of nodes."""
        found, following = _page(self.fleet.nodes(after), limit)
        told = []
        for at, node in enumerate(found):
            told.append(_view(node))
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return Nodes(nodes=told, next=following)

    def node(self, which: str) -> NodeView:
        """A node by its name or its agent's id.

        Raises:
            NotFound: there is none.
        """
        return _view(self._known(which))

    async def past(self, which: str, limit: int, before: datetime | None) -> PastOfNode:
        """What a node was.

        Raises:
            NotFound: there is no such node.
            Unavailable: where the past is kept does not answer.
        """
        node = self._known(which)
        agent = node.facts.id if node.facts else ""
        found: list[Past]
        if self._archive is not None:
            found = await self._archive.past(agent, limit + 1, before)
        else:
            found = await past_on_bus(self._bus, node.name, limit + 1, before)
        return PastOfNode(
            node=node.name,
            id=agent,
            source="bus" if self._archive is None else "mongodb",
            characterizations=found[:limit],
            next=found[limit - 1].at if len(found) > limit else None,
        )

    async def windows(self, window: Window, after: str, limit: int) -> NodeWindows:
        """A page of nodes' windows."""
        found, following = _page(self.fleet.nodes(after), limit)
        told = []
        for at, node in enumerate(found):
            told.append(self._window(node.name, window))
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return NodeWindows(nodes=told, next=following)

    def windows_of(self, which: str, window: Window) -> NodeWindow:
        """A node's window.

        Raises:
            NotFound: there is no such node.
        """
        return self._window(self._known(which).name, window)

    async def workloads(self, namespace: str | None, after: str, limit: int) -> Workloads:
        """A page of what runs; ``after`` is ``namespace/name``."""
        found = await self.virtual.layer(namespace)
        keyed = [(f"{one.namespace}/{one.name}", one) for one in found.runs]
        left = sorted((pair for pair in keyed if pair[0] > after), key=lambda pair: pair[0])
        told = [one.view() for _, one in left[:limit]]
        following = left[limit - 1][0] if len(left) > limit else None
        return Workloads(workloads=told, next=following, silent=found.silent)

    async def namespaces(self) -> Namespaces:
        """What every namespace takes."""
        found = await self.virtual.layer()
        cpu, memory = totals(found.runs, "cpu"), totals(found.runs, "memory")
        return Namespaces(
            namespaces=[
                NamespaceView(
                    name=name,
                    workloads=sum(one.namespace == name for one in found.runs),
                    cpu=cpu[name],
                    memory=memory[name],
                )
                for name in sorted(cpu)
            ],
            silent=found.silent,
        )

    def impact(self, which: str) -> ImpactView:
        """What depends on a node, and what is wrong with it.

        Raises:
            NotFound: there is no such node.
        """
        node = self._known(which)
        runs = self.virtual.own(node.name)
        return ImpactView(
            node=node.name,
            state=node.state,
            troubles=self._troubles.of(node.name),
            deployments=sorted({one.deployment for one in runs if one.deployment}),
            workloads=[one.view() for one in runs],
        )

    def impacts(self, after: str, limit: int) -> Impacts:
        """A page of the nodes in trouble."""
        names = [name for name in self._troubles.troubled() if name > after and self.fleet.node(name)]
        return Impacts(
            impacts=[self.impact(name) for name in names[:limit]],
            next=names[limit - 1] if len(names) > limit else None,
        )

    def deployment(self, name: str) -> DeploymentView:
        """What the nodes of a deployment are doing.

        Raises:
            NotFound: nothing of it runs.
        """
        runs = self.virtual.own(deployment=name)
        if not runs:
            raise NotFound(f"nothing runs of a deployment {name[:80]!r}", field="deployment")
        return DeploymentView(deployment=name, replicas=[self._replica(one) for one in runs])

    async def tosca(self) -> str:
        """The fleet as a TOSCA document that ``tosca-parser`` takes.

        Raises:
            Unavailable: it could not be checked in time.
        """
        devices = []
        for at, node in enumerate(self.fleet.nodes()):
            devices.append(node.characterization())
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)
        text = document(self.minicloud, devices)
        if text != self._checked:
            await check(text)
            self._checked = text
        return text

    def targets(self, port: int | None) -> list[Targets]:
        """Where Prometheus finds the nodes' exporters.

        Args:
            port: of those whose label says none; None leaves them out.
        """
        told = []
        for node in self.fleet.nodes():
            if node.state == "lost" or node.facts is None or not node.facts.address:
                continue
            said = node.facts.labels.get(EXPORTER_LABEL, "")
            at = said if said.isascii() and said.isdigit() else port
            if at:
                host = node.facts.address
                told.append(
                    Targets(
                        targets=[f"[{host}]:{at}" if ":" in host else f"{host}:{at}"],
                        labels={"node": node.name, "minicloud": self.minicloud},
                    )
                )
        return told

    def _known(self, which: str) -> Node:
        node = self.fleet.node(which)
        if node is None or not node.said:
            raise NotFound(f"no node is called {which[:80]!r} or has that id", field="node")
        return node

    def _window(self, node: str, window: Window) -> NodeWindow:
        return NodeWindow(
            node=node,
            window=window,
            metrics={
                metric: MetricWindow(
                    unit=unit_of(metric),
                    mean=found.mean,
                    maximum=found.maximum,
                    rate=found.rate,
                    samples=found.samples,
                )
                for metric, found in self._windows.of(node, window, self.clock())
            },
        )

    def _replica(self, one: Runs) -> ReplicaView:
        node = self.fleet.node(one.node)
        return ReplicaView(
            workload=one.view(),
            node_state=node.state if node else None,
            troubles=self._troubles.of(one.node),
            metrics=_metrics(node) if node else {},
            windows=[self._window(one.node, window) for window in _EVERY_WINDOW] if node else [],
        )


_EVERY_WINDOW: Final[tuple[Window, ...]] = ("5m", "10m", "15m")


def window_named(text: str) -> Window:
    """The window that ``text`` names.

    Raises:
        InvalidQuery: there is none.
    """
    for window in _EVERY_WINDOW:
        if window == text:
            return window
    raise InvalidQuery(f"{text[:40]!r} is no window", field="window", expected=", ".join(WINDOWS))


def _page(left: list[Node], limit: int) -> tuple[list[Node], str | None]:
    return left[:limit], left[limit - 1].name if len(left) > limit else None


def _view(node: Node) -> NodeView:
    return NodeView(
        name=node.name,
        id=node.facts.id if node.facts else "",
        state=node.state,
        heard=_time(node.pulse.heard),
        sampled=_time(node.sampled),
        metrics=_metrics(node),
        characterization=node.characterization(),
    )


def _metrics(node: Node) -> dict[str, Metric]:
    return {name: Metric(value=value, unit=unit_of(name)) for name, value in sorted(node.values.items())}


def _time(at: float) -> datetime | None:
    return datetime.fromtimestamp(at, UTC) if at else None
