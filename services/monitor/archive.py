"""The archive of what every node was, in MongoDB: characterizations in, the present one and the past ones out.

``characterizations`` holds the present one of each agent under the agent's id, ``characterization_history``
every one under its event's id, so that a repeat changes nothing. Each is kept as the very document that came,
beside its attributes for whoever asks MongoDB itself (their dots as colons, since a dot is a path there).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from bus.mongo import mongo_client
from schemas.errors import Unavailable
from schemas.event import Event
from schemas.flatten import attributes_of
from schemas.node import Characterization
from services.monitor.views import Past

log = structlog.get_logger("monitor")

_PAUSE: Final = 1.0
_DAY: Final = 24 * 60 * 60
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNREADABLE: Final = "a document of the archive is unreadable"
Stored = dict[str, Any]


class Archive:
    """The archive of one minicloud.

    Args:
        url: of the MongoDB.
        database: its name.
        days: how long the past is kept.

    Attributes:
        failing: why the last write failed; empty while all is well.

    Raises:
        InvalidDocument: the URL cannot be one.
    """

    def __init__(self, url: str, database: str, days: int) -> None:
        self._client = mongo_client(url, "monitor")
        self._database = self._client[database]
        self._days = days
        self._ready = False
        self.failing = ""

    async def keep(self, event: Event[Characterization], stopping: asyncio.Event) -> None:
        """Keep a characterization; waits for a MongoDB that is away.

        Raises:
            Unavailable: we were asked to stop before it was kept.
        """
        while True:
            try:
                await self._write(event)
            except PyMongoError as error:
                if not self.failing:
                    log.warning("MongoDB does not take the archive: it waits", error=str(error)[:300])
                self.failing = str(error) or type(error).__name__
            else:
                if self.failing:
                    log.info("MongoDB takes the archive again")
                self.failing = ""
                return
            try:
                async with asyncio.timeout(_PAUSE):
                    await stopping.wait()
            except TimeoutError:
                continue
            raise Unavailable("stopped before the archive took it", expected="to be handed out again")

    async def present(self) -> AsyncIterator[tuple[Characterization, datetime]]:
        """What each agent's node is, as last kept, and when that was said.

        Raises:
            Unavailable: MongoDB does not answer.
        """
        try:
            async for stored in self._present.find(batch_size=1000):
                try:
                    yield Characterization.model_validate_json(stored["document"]), _time(stored["moment"])
                except (KeyError, ValueError) as error:
                    log.warning(_UNREADABLE, agent=stored["_id"], error=str(error)[:300])
        except PyMongoError as error:
            raise Unavailable(f"MongoDB does not answer: {error}", field="setting mongodb_url") from None

    async def past(self, agent: str, limit: int, before: datetime | None) -> list[Past]:
        """What a node was, the newest first.

        Args:
            agent: its agent's id.
            limit: so many at most.
            before: only what was said before this moment.

        Raises:
            Unavailable: MongoDB does not answer.
        """
        asked: Stored = {"agent": agent, **({"moment": {"$lt": _moment(before)}} if before else {})}
        try:
            found = await self._past.find(asked).sort("moment", DESCENDING).limit(limit).to_list()
        except PyMongoError as error:
            raise Unavailable(f"MongoDB does not answer: {error}", field="setting mongodb_url") from None
        told = []
        for stored in found:
            try:
                it = Characterization.model_validate_json(stored["document"])
                told.append(Past(event=stored["_id"], at=_time(stored["moment"]), characterization=it))
            except (KeyError, ValueError) as error:
                log.warning(_UNREADABLE, event=stored["_id"], error=str(error)[:300])
        return told

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()

    @property
    def _present(self) -> AsyncCollection[Stored]:
        return self._database["characterizations"]

    @property
    def _past(self) -> AsyncCollection[Stored]:
        return self._database["characterization_history"]

    async def _write(self, event: Event[Characterization]) -> None:
        if not self._ready:
            await self._past.create_index([("agent", 1), ("moment", DESCENDING)])
            await self._past.create_index("at", expireAfterSeconds=self._days * _DAY)
            self._ready = True
        it, at = event.data, event.time.astimezone(UTC)
        kept: Stored = {
            "node": it.node,
            "minicloud": it.minicloud,
            "at": at,
            "moment": _moment(at),
            "attributes": {name.replace(".", ":"): value for name, value in attributes_of(it).items()},
            "document": it.model_dump_json(),
        }
        held = await self._present.find_one({"_id": it.id}, {"moment": 1})
        if held is None or held["moment"] <= kept["moment"]:
            await self._present.replace_one({"_id": it.id}, kept, upsert=True)
        await self._past.replace_one({"_id": event.id}, {**kept, "agent": it.id}, upsert=True)


def _moment(at: datetime) -> int:
    """Microseconds since the epoch: MongoDB's own times count in milliseconds."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def _time(moment: int) -> datetime:
    return _EPOCH + timedelta(microseconds=moment)
