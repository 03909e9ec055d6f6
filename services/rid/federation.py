"""Queries over all miniclouds: whom to ask and how, in one call (seed 2.3, Figures 3 and 4).

In: a query document. Out: one answer that says who was asked, who answered and how old that is. Without
links to others it is the answer of our own index, at no cost.

How another minicloud is asked, by the scope's ``mode``: ``local`` asks nobody; ``replicate`` reads the copy
of its nodes, up to ``lost_after`` seconds behind; ``scatter`` asks its rid and waits for ``deadline``;
``auto`` reads the copy where that is behind by no more than ``copy_within`` and ``maxAge``, else asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bus.bus import Bus
from bus.frame import Frame
from bus.port import Message
from schemas.errors import Unavailable
from schemas.names import ANY, Subjects
from schemas.predicate import Every
from schemas.query import Answer, Coverage, Query, parse_query
from services.rid.answer import Answers
from services.rid.index import Index
from services.rid.settings import RidSettings
from services.rid.topology import Mapped, Part, QueryMapper, TopologyManager
from services.rid.topology_merge import merged
from services.rid.topology_peers import Peers
from services.rid.topology_replicate import Replicate
from services.rid.topology_scatter import Scatter
from services.rid.topology_serve import Serving


class Federation:
    """Our place among the miniclouds.

    Args:
        frame: whose rid we are part of.
        index: our own nodes.
        answers: who answers from them.
        revision: of our change log.

    Attributes:
        peers: the other miniclouds that are known.
        replicate: the copies of their nodes; None where none are kept.
        scatter: the way to ask them.
    """

    def __init__(
        self, frame: Frame[RidSettings], index: Index, answers: Answers, revision: Callable[[], int]
    ) -> None:
        self._frame = frame
        self._settings = frame.settings
        self._index = index
        self._answers = answers
        self._revision = revision
        self._mapper = QueryMapper()
        self._link: Bus | None = None
        self._serving: Serving | None = None
        self.peers = Peers(frame.settings.minicloud)
        self.replicate: Replicate | None = None
        self.scatter: Scatter | None = None

    async def start(self, new_index: Callable[[], Index], publishing: Callable[[], bool]) -> None:
        """Join the links, if the settings say that there are any; called once the index is whole.

        Args:
            new_index: makes an index for a copy.
            publishing: whether it is this rid's to speak for the minicloud.

        Raises:
            Forbidden: the broker refuses the credential.
            Unavailable: no broker answers.
        """
        s = self._settings
        endpoint = s.link
        if endpoint is None:
            return
        self._link = link = await Bus.connect(endpoint, s.minicloud, "rid", discoverable=False)
        self.scatter = Scatter(link, self.peers)
        if s.copies:
            self.replicate = Replicate(link, self.peers, new_index, s.copy_within, s.lost_after)
        self._serving = Serving(
            link, self._index, self._answers, self._revision, publishing, s.heartbeat_every
        )
        for name in [node["name"] for node in self._index.select(Every(), fields=["name"]).nodes]:
            self._serving.journal.note(name, whole=True)
        await self._serving.start()
        await link.wire.subscribe(Subjects(ANY).heartbeat(), self._on_heartbeat)
        self._frame.spawn(self._serving.beat())
        self._frame.spawn(self._watch_link(link))
        known = self._frame.gauge("rid_miniclouds", "Other miniclouds that are known")
        known.set_function(lambda: float(len(self.peers.known)))

    async def stop(self) -> None:
        """Leave the links."""
        if self.replicate:
            await self.replicate.stop()
        if self._link:
            await self._link.close()

    def changed(self, node: str, urgent: bool) -> None:
        """A node of ours changed; ``urgent`` if by more than its metrics."""
        if self._serving is not None:
            self._serving.journal.note(node, urgent)

    async def query(self, document: Any) -> Answer:
        """Answer a query document from all miniclouds in its scope.

        Raises:
            InvalidQuery: names what is wrong with it.
        """
        if self._link is None:
            return self._answers.query(document)
        begun = time.perf_counter()
        query = parse_query(document, {*self._index.names(), *self.peers.names})
        mapped = self._mapper.map(query, document)
        others, parts = self._others(mapped)
        if query.scope.mode == "local" and not parts:
            return self._answers.query(document, mapped.seen)
        # Sent before we look into our own index: the others work meanwhile.
        asked = [
            asyncio.create_task(manager.execute(mapped, names))
            for manager, names in self._ways(query, others)
        ]
        await asyncio.sleep(0)
        if mapped.named is None or self._settings.minicloud in mapped.named:
            own = self._answers.query(mapped.document, mapped.seen)
            parts.append(Part(own.coverage[0], own))
        for part in await asyncio.gather(*asked):
            parts += part
        parts.sort(
            key=lambda part: (part.coverage.minicloud != self._settings.minicloud, part.coverage.minicloud)
        )
        return merged(query, parts, revision=self._revision(), took=round(time.perf_counter() - begun, 6))

    def _others(self, mapped: Mapped) -> tuple[list[str], list[Part]]:
        """The other miniclouds to ask, and parts for those that are named and not asked."""
        own, known = self._settings.minicloud, self.peers.known
        if mapped.query.scope.mode == "local":
            named = [name for name in mapped.named or () if name != own]
            return [], [_unasked(name, "mode local asks nobody else") for name in named]
        if mapped.named is None:
            return known, []
        named = [name for name in mapped.named if name != own]
        there = ", ".join([own, *known])
        return [name for name in named if name in self.peers], [
            _unasked(name, f"no minicloud of this name is known, only {there}")
            for name in named
            if name not in self.peers
        ]

    def _ways(self, query: Query, others: list[str]) -> list[tuple[TopologyManager, list[str]]]:
        """Which of the others is asked in which way; see the top of this module."""
        if self.scatter is None:
            return []
        if self.replicate is None or query.scope.mode == "scatter":
            return [(self.scatter, others)]
        if query.scope.mode == "replicate":
            return [(self.replicate, others)]
        copied = [name for name in others if self.replicate.covers(name, query)]
        return [(self.replicate, copied), (self.scatter, [name for name in others if name not in copied])]

    async def _on_heartbeat(self, message: Message) -> None:
        peer = self.peers.take(message.subject, message.data)
        if peer is not None and self.replicate is not None:
            self.replicate.news(peer)

    async def _watch_link(self, link: Bus) -> None:
        await link.wire.ended.wait()
        if not self._frame.stopping.is_set():
            raise Unavailable("the broker ended the connection to the links", expected="to be started again")


def _unasked(name: str, reason: str) -> Part:
    return Part(Coverage(minicloud=name, asked=False, answered=False, reason=reason))
