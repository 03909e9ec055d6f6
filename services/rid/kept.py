"""Kept queries: each answer retained on MQTT for devices that cannot ask (``schemas/kept.py``).

Every rid knows them by the bus; the one that writes the change log publishes their answers, each when it
differs from what was published last, and no more than once a tick.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from bus.bus import Bus
from schemas.errors import Conflict, InvalidQuery, MinicloudError, NotFound
from schemas.kept import MOST_NAMES, Forgetting, Keeping, KeptAnswer, KeptQuery
from schemas.kept import KeptQueries as Listed
from schemas.names import topic
from schemas.predicate import Predicate
from schemas.query import Query, parse_query
from schemas.verbs import Done, Nothing
from services.rid.fresh import rewritten, rewritten_order
from services.rid.sieve import Interest
from services.rid.standing import Standing, asks_for_age

if TYPE_CHECKING:
    from bus.mqtt import MqttBus

log = structlog.get_logger("rid")
#: How many queries are kept at most.
MOST: Final = 256
_TICK: Final = 0.25


@dataclass(slots=True)
class _Kept:
    """One kept query, and what was published of it last."""

    name: str
    document: dict[str, Any]
    query: Query
    predicate: Predicate
    interest: Interest
    told: bytes | None = None
    looked: float = 0.0


class KeptQueries:
    """The queries that are kept.

    Args:
        bus: our connection.
        standing: what marks that something changed.
        whole: the predicate of a query with what goes without saying.
        connect: makes the MQTT connection, once there is something to publish.
        publishing: whether it is ours to publish.
    """

    def __init__(
        self,
        bus: Bus,
        standing: Standing,
        whole: Callable[[Query], Predicate],
        connect: Callable[[], Awaitable[MqttBus]],
        publishing: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._standing = standing
        self._whole = whole
        self._connect = connect
        self._publishing = publishing
        self._kept: dict[str, _Kept] = {}
        self._mqtt: MqttBus | None = None
        self._ours = False
        self._learned = asyncio.Event()
        self._revisions: dict[str, int] = {}

    async def start(self, spawn: Callable[[Awaitable[Any]], asyncio.Task[Any]]) -> None:
        """Learn which queries are kept, then serve the verbs and publish the answers.

        Args:
            spawn: runs what goes on beside the service.
        """
        following, learned = spawn(self._follow()), asyncio.ensure_future(self._learned.wait())
        await asyncio.wait({following, learned}, return_when=asyncio.FIRST_COMPLETED)
        learned.cancel()
        spawn(self._run())
        await self._bus.serve("rid", "keep", Keeping, self._keep)
        await self._bus.serve("rid", "forget", Forgetting, self._forget)
        await self._bus.serve("rid", "kept", Nothing, self._list)

    async def _follow(self) -> None:
        async with self._bus.watch({self._bus.subjects.question(): KeptQuery}) as items:
            async for item in items:
                if item.kind == "SYNC":
                    self._learned.set()
                elif item.event is not None:
                    await self._learn(item.event.data, item.revision)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if not self._publishing():
                self._ours = False
                continue
            if not self._ours:  # another rid may have published since
                self._ours = True
                for kept in self._kept.values():
                    kept.told = None
            for kept in list(self._kept.values()):
                try:
                    await self._tell(kept)
                except MinicloudError as error:
                    log.warning("a kept query is not answered yet", query=kept.name, error=str(error))

    async def close(self) -> None:
        """End the MQTT connection."""
        if self._mqtt is not None:
            await self._mqtt.close()

    async def _keep(self, wish: Keeping) -> KeptAnswer:
        self._parsed(wish.query)
        if wish.name not in self._kept and len(self._kept) >= MOST:
            raise Conflict("too many queries are kept", field="name", expected=f"at most {MOST}")
        await self._write(KeptQuery(name=wish.name, query=wish.query))
        return self._told(wish.name, wish.query)

    async def _forget(self, wish: Forgetting) -> Done:
        if wish.name not in self._kept:
            raise NotFound(f"no query is kept as {wish.name}", field="name")
        await self._write(KeptQuery(name=wish.name))
        return Done()

    async def _list(self, _: Nothing) -> Listed:
        return Listed(
            queries=[self._told(kept.name, kept.document) for _, kept in sorted(self._kept.items())]
        )

    def _told(self, name: str, query: dict[str, Any]) -> KeptAnswer:
        return KeptAnswer(name=name, topic=topic(self._bus.subjects.answer(name)), query=query)

    async def _write(self, kept: KeptQuery) -> None:
        revision = await self._bus.publish(self._bus.subjects.question(kept.name), kept, about=kept.name)
        await self._learn(kept, revision)

    def _parsed(self, document: dict[str, Any]) -> Query:
        query = parse_query(document, self._standing.index.names())
        for part in ("fields", "explain", "at"):
            if part in query.model_fields_set:
                raise InvalidQuery(
                    "a kept query answers with names", field=part, expected="where, sort, limit and scope"
                )
        if (query.limit or 1) > MOST_NAMES:
            raise InvalidQuery(
                f"{query.limit} names are too many for a device",
                field="limit",
                expected=f"at most {MOST_NAMES}",
            )
        return query

    async def _learn(self, told: KeptQuery, revision: int) -> None:
        if revision <= self._revisions.get(told.name, 0):
            return
        self._revisions[told.name] = revision
        before = self._kept.pop(told.name, None)
        if before is not None:
            self._standing.sieve.drop(before.interest)
        if told.query is None:
            if before is not None and self._publishing():
                await self._publish(told.name, b"")
            return
        try:
            query = self._parsed(told.query)
        except InvalidQuery as error:
            log.warning("a kept query is not understood", query=told.name, error=str(error))
            return
        predicate = self._whole(query)
        # One mark says enough: the whole answer is asked for anew.
        sorted_by = frozenset(name for name, _ in query.order)
        interest = self._standing.sieve.add(rewritten(predicate, self._standing.now()), sorted_by, 1)
        interest.begin()
        self._kept[told.name] = _Kept(told.name, told.query, query, predicate, interest)

    async def _tell(self, kept: _Kept) -> None:
        now = self._standing.now()
        aging = asks_for_age(kept.predicate, kept.query.order) and now - kept.looked >= 1.0
        if kept.told is not None and not kept.interest.waiting and not aging:
            return
        kept.looked = now
        predicate = rewritten(kept.predicate, now)
        kept.interest.begin()
        found = self._standing.index.select(
            predicate, order=rewritten_order(kept.query.order), limit=kept.query.limit or 1, fields=()
        )
        answer = json.dumps([node["name"] for node in found.nodes], separators=(",", ":")).encode()
        if answer != kept.told:
            await self._publish(kept.name, answer)
            kept.told = answer

    async def _publish(self, name: str, payload: bytes) -> None:
        if self._mqtt is None:
            self._mqtt = await self._connect()
        await self._mqtt.publish_bytes(self._bus.subjects.answer(name), payload, retain=True, timeout=5.0)
