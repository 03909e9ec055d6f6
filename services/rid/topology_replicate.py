"""Replicate: a copy of each other minicloud's nodes, kept here, answers without a message (seed 2.3, Figure 4).

A heartbeat that tells of changes makes us ask for the nodes that changed since we last asked. So a copy is
a heartbeat behind, a link that was down costs one catch-up, and a slow one gets newest states only. Each
copy is an index of its own, and an answer from it is merged as if its owner had given it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import structlog

from bus.bus import Bus
from schemas.attributes import Value
from schemas.errors import MinicloudError, Unavailable
from schemas.federation import Changes, ChangesAsked
from schemas.flatten import may_be_metric
from schemas.query import Coverage, Query
from services.rid.answer import Answers
from services.rid.fresh import HEARD
from services.rid.index import Index
from services.rid.topology import MINICLOUD, Mapped, Part
from services.rid.topology_peers import Peer, Peers

log = structlog.get_logger("rid")

_TIMEOUT: Final = 5.0
_PAUSE: Final = 0.5
#: Nodes written between two turns of others in the loop.
_TOGETHER: Final = 16

_is_metric = cache(may_be_metric)


class Copy:
    """A copy of one minicloud's nodes.

    Args:
        minicloud: whose.
        index: where they go.

    Attributes:
        epoch: the life of its rid that ``sequence`` belongs to.
        sequence: the block up to which we have all.
        confirmed: when it was last known to lack nothing, by the clock; None before it was whole.
        heard: when anything was last heard from its nodes, seconds since the epoch by our clock.
        index: the nodes.
    """

    def __init__(self, minicloud: str, index: Index) -> None:
        self.minicloud = minicloud
        self.index = index
        self.epoch = ""
        self.sequence = 0
        self.confirmed: float | None = None
        self.heard: float | None = None
        self.answers = Answers(index, minicloud, lambda: self.heard, lambda: 0)
        self._names: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._same: dict[frozenset[str], frozenset[str]] = {}

    def put(self, node: str, document: dict[str, Any], ahead: float) -> None:
        """A whole node; ``ahead`` is how far our clock is ahead of its minicloud's."""
        attributes = self._ours(document, ahead)
        attributes[MINICLOUD] = self.minicloud
        names = frozenset(attributes)
        metrics = frozenset(name for name in names if _is_metric(name))
        if node in self.index:
            before, measured = self._names[node]
            self.index.update(node, {**attributes, **dict.fromkeys((before | measured) - names)})
        else:
            self.index.put(node, attributes)
        self._names[node] = (self._kept(names - metrics), self._kept(metrics))

    def measure(self, node: str, document: dict[str, Any], ahead: float) -> None:
        """All metrics of a node; what else it has stays."""
        if node not in self.index:
            return
        values = self._ours(document, ahead)
        whole, before = self._names[node]
        names = frozenset(name for name in values if name != HEARD)
        self.index.update(node, {**values, **dict.fromkeys(before - names)})
        self._names[node] = (whole, self._kept(names))

    def remove(self, node: str) -> None:
        """A node that is no more."""
        self.index.remove(node)
        self._names.pop(node, None)

    def _ours(self, document: dict[str, Any], ahead: float) -> dict[str, Value]:
        attributes: dict[str, Value] = dict(document)
        heard = attributes.get(HEARD)
        if isinstance(heard, (int, float)):
            attributes[HEARD] = heard + ahead
        return attributes

    def _kept(self, names: frozenset[str]) -> frozenset[str]:
        """One set for all nodes with the same names: there are few such sets and many nodes."""
        return self._same.setdefault(names, names)


class Replicate:
    """The topology manager that answers from copies.

    Args:
        link: our connection to the links.
        peers: who is there.
        new_index: makes an index.
        within: seconds that a copy may be behind in mode ``auto``.
        useless: seconds after which a copy says nothing any more.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        link: Bus,
        peers: Peers,
        new_index: Callable[[], Index],
        within: float,
        useless: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._peers = peers
        self._new_index = new_index
        self._within = within
        self._useless = useless
        self._clock = clock
        self._news: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.copies: dict[str, Copy] = {}
        self.pulled = 0

    def news(self, peer: Peer) -> None:
        """A heartbeat came."""
        name = peer.beat.minicloud
        copy = self.copies.get(name)
        if copy and copy.epoch == peer.beat.epoch and copy.sequence >= peer.beat.sequence:
            self._confirm(copy, peer)
            return
        self._news.setdefault(name, asyncio.Event()).set()
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._follow(name))

    async def stop(self) -> None:
        """Follow nobody any more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def covers(self, minicloud: str, query: Query) -> bool:
        """Whether the copy is fresh enough: behind by no more than the setting, nor than ``maxAge``."""
        behind = self.behind(minicloud)
        if behind is None:
            return False
        return behind <= min(self._within, query.scope.max_age or self._within)

    def behind(self, minicloud: str) -> float | None:
        """Seconds since the copy was known to lack nothing; None where there is no whole copy."""
        copy = self.copies.get(minicloud)
        if copy is None or copy.confirmed is None:
            return None
        return self._clock() - copy.confirmed

    async def execute(self, mapped: Mapped, miniclouds: Sequence[str]) -> list[Part]:
        """A part each, from the copies."""
        return [self._answer(mapped, name) for name in miniclouds]

    def _answer(self, mapped: Mapped, name: str) -> Part:
        behind = self.behind(name)
        if behind is None:
            return _missing(name, "there is no whole copy of its nodes yet")
        if behind > self._useless:
            return _missing(name, f"the copy of its nodes is {behind:.0f} s behind")
        answer = self.copies[name].answers.query(mapped.document, mapped.seen)
        own = answer.coverage[0]
        told = Coverage(
            minicloud=name, age=own.age, nodes=own.nodes, via="copy", behind=max(0.0, round(behind, 3))
        )
        return Part(told, answer)

    # -- following ---------------------------------------------------------------------------------

    async def _follow(self, name: str) -> None:
        """Catch up at each news; a link that is down is tried again at the next heartbeat."""
        while True:
            await self._news[name].wait()
            self._news[name].clear()
            try:
                await self._catch_up(name)
            except MinicloudError as error:
                log.info("a copy could not catch up yet", minicloud=name, error=str(error))
                await asyncio.sleep(_PAUSE)
            except Exception:
                log.exception("a copy could not be kept", minicloud=name)
                self.copies.pop(name, None)
                await asyncio.sleep(_TIMEOUT)

    async def _catch_up(self, name: str) -> None:
        peer = self._peers[name]
        copy = self.copies.get(name)
        if copy is None or copy.epoch != peer.beat.epoch:
            # Another life of its rid: read it whole, while the old copy goes on answering.
            copy = Copy(name, self._new_index())
            copy.epoch = peer.beat.epoch
        while copy.sequence < peer.beat.sequence:
            await self._pull(copy, peer)
            if self._peers[name].beat.epoch != copy.epoch:
                return  # the next heartbeat begins anew
        self.copies[name] = copy
        self._confirm(copy, peer)

    async def _pull(self, copy: Copy, peer: Peer) -> None:
        """One page, part by part."""
        page, part, parts, reached = "", 0, 1, copy.sequence
        while part < parts:
            said = await self._link.request(
                "rid",
                "changes",
                ChangesAsked(since=copy.sequence, page=page, part=part),
                instance=copy.epoch,
                minicloud=copy.minicloud,
                timeout=_TIMEOUT,
            )
            changes = Changes.model_validate(said)
            self.pulled += 1
            page, parts, reached = changes.page, changes.parts, changes.reached
            await self._write(copy, changes, peer.ahead)
            part = changes.part + 1
        if reached <= copy.sequence:
            raise Unavailable("its changes do not go on", field=copy.minicloud)
        copy.sequence = reached

    async def _write(self, copy: Copy, changes: Changes, ahead: float) -> None:
        for node in changes.gone:
            copy.remove(node)
        written = 0
        for write, documents in ((copy.put, changes.nodes), (copy.measure, changes.metrics)):
            for node, document in documents.items():
                write(node, document, ahead)
                written += 1
                if written % _TOGETHER == 0:
                    await asyncio.sleep(0)

    def _confirm(self, copy: Copy, peer: Peer) -> None:
        copy.confirmed = peer.at
        if peer.beat.heard is not None:
            copy.heard = time.time() - (self._clock() - peer.at) - peer.beat.heard


def _missing(name: str, reason: str) -> Part:
    return Part(Coverage(minicloud=name, asked=False, answered=False, reason=reason))
