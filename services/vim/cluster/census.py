"""The cluster's nodes onto the bus: their levels, and for those without an agent what an agent would say.

In: nodes from the API, agents from the bus. Out: each level once it says something new, and signs of life as
often as there is time for.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

import structlog

from bus.bus import Bus
from bus.permissions import consumer_name
from schemas.cluster import ClusterNode
from schemas.errors import MinicloudError
from schemas.event import EventData
from schemas.node import Characterization, Measurement
from services.vim.cluster.api import Object
from services.vim.cluster.inventory import Inventory, absence
from services.vim.cluster.names import name_of
from services.vim.cluster.telling import Telling

log = structlog.get_logger("cluster")
_NODES_A_SECOND: Final = 50
_RETRY: Final = 1.0


class Census:
    """Says what the nodes are.

    Args:
        bus: where to.
        cluster: whose nodes.
        inventory: the nodes.
        telling: publishes levels.
        beat: seconds between two signs of life of a node, at least.
    """

    def __init__(self, bus: Bus, cluster: str, inventory: Inventory, telling: Telling, beat: float) -> None:
        self._bus = bus
        self._cluster = cluster
        self._inventory = inventory
        self._telling = telling
        self._beat = beat
        self._told: dict[str, dict[str, Any]] = {}
        self._names: dict[str, tuple[str, str]] = {}
        self._open = False
        self._state = "ready"
        self._reason = ""

    # -- in --------------------------------------------------------------------------------------

    async def agents(self, synced: asyncio.Event) -> None:
        """Hear of agents for ever."""
        subject = self._bus.subjects.characterization()
        consumer = consumer_name("cluster", self._cluster)
        while True:
            try:
                async with self._bus.watch({subject: Characterization}, consumer=consumer) as items:
                    async for item in items:
                        if item.kind == "SYNC":
                            synced.set()
                        elif item.event is not None and item.event.source != self._bus.source:
                            it: Characterization = item.event.data
                            renamed = self._inventory.take_agent(it.node, it.id)
                            if renamed is not None:
                                self._renamed(renamed)
            except MinicloudError as error:  # a site that is still being set up has no stream yet
                log.info("agents cannot be read yet", error=str(error))
                await asyncio.sleep(_RETRY)

    async def recall(self) -> None:
        """What was said of our nodes before: those that are gone by now must be told so."""
        consumer = consumer_name("cluster", self._cluster)
        async with self._bus.watch({self._bus.subjects.cluster(): ClusterNode}, consumer=consumer) as items:
            async for item in items:
                if item.kind == "SYNC":
                    return
                if item.event is not None and item.event.data.cluster == self._cluster:
                    level: ClusterNode = item.event.data
                    if level.state != "gone":
                        self._names[level.kubernetes] = (level.node, "")
                        self._told[level.node] = _facts(level)

    def take(self, before: Object | None, after: Object | None) -> None:
        """A node came, changed, or went."""
        if after is not None:
            self._inventory.take(after)
            self._say(name_of(after))
        elif before is not None:
            self._gone(name_of(before))

    # -- out -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From here on what is known is said: all was read."""
        self._open = True
        present = set(self._inventory)
        for name in self._names.keys() - present:
            self._gone(name)
        self.say_all()

    def say_all(self, state: str = "ready", reason: str = "") -> None:
        """Say of each node what is new; ``state`` is that of the cluster's worker."""
        self._state, self._reason = state, reason
        for name in self._inventory:
            self._say(name)

    async def beats(self) -> None:
        """Signs of life of nodes without an agent, for ever; those that are away give none."""
        while True:
            every = max(self._beat, len(self._inventory) / _NODES_A_SECOND)
            names = [name for name in self._inventory if not self._inventory.has_agent(name)]
            begun = asyncio.get_running_loop().time()
            for number, name in enumerate(names):
                machine = self._inventory.by_kubernetes(name)
                if machine is not None and machine.ready and not self._inventory.has_agent(name):
                    sign = Measurement(node=machine.node, interval=every, values={})
                    try:
                        await self._bus.emit(
                            self._bus.subjects.metrics(machine.node), sign, about=machine.node
                        )
                    except MinicloudError as error:
                        log.info("a sign of life is lost", error=str(error))
                due = begun + every * (number + 1) / len(names)
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            if not names:
                await asyncio.sleep(every * random.uniform(0.9, 1.0))  # noqa: S311 - no secret

    def _say(self, name: str) -> None:
        if not self._open:
            return
        s = self._bus.subjects
        level = self._inventory.level(name, state=self._state, reason=self._reason)
        node = level.node
        before = self._names.get(name)
        if before is not None and before[0] != node:
            self._left(name, *before)
        document = self._inventory.document(name)
        self._names[name] = (node, str(document["metadata"]["uid"]))
        if not self._inventory.has_agent(name):
            self._publish(s.characterization(node), self._inventory.characterization(name), node)
            self._publish(s.presence(node), self._inventory.presence(name), node)
        self._publish(s.cluster(node), level, node)

    def _publish(self, subject: str, data: EventData, node: str) -> None:
        facts = _facts(data)
        key = node if isinstance(data, ClusterNode) else subject
        if self._told.get(key) == facts:
            return
        self._told[key] = facts
        self._telling.publish(subject, data, node)

    def _renamed(self, name: str) -> None:
        document = self._inventory.document(name)
        self._inventory.take(document)
        log.info("a node and an agent are one", kubernetes=name, node=self._inventory.name_of(document))
        self._say(name)

    def _gone(self, name: str) -> None:
        self._inventory.drop(name)
        if self._open and (before := self._names.pop(name, None)):
            self._left(name, *before)

    def _left(self, name: str, node: str, session: str) -> None:
        """A node is no longer there under this name."""
        s = self._bus.subjects
        self._telling.publish(s.cluster(node), self._inventory.gone(name, node), node)
        self._told.pop(node, None)
        if self._told.pop(s.presence(node), None) is not None:
            self._told.pop(s.characterization(node), None)
            self._telling.publish(s.presence(node), absence(node, session), node)


def _facts(data: EventData) -> dict[str, Any]:
    return data.model_dump(mode="json", exclude={"observed_at", "probed_at", "version", "since"})
