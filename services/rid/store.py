"""The durable store: what rid knows of every node, kept in MongoDB behind the flow of events.

In: which nodes changed and how far each stream was taken in. Out: every few seconds the newest state
of each of them, then the positions, so that a restart loads and takes in what came since. What waits
is a set of names, so it is bounded by the fleet; a MongoDB that is slow, away or wrong is told and
waited for, and nobody who asks notices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import structlog
from bson import encode
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from bus.mongo import mongo_client
from services.rid.known import LAZY, Document, Positions

log = structlog.get_logger("rid")

_LAYOUT: Final = 1
_POSITIONS: Final = "positions"
#: So many documents go in one batch: making it holds up nobody for as much as a millisecond.
_TOGETHER: Final = 100
_ENCODED_AT_ONCE: Final = 8
_INDEXES: Final = ("static.id", "derived.state", "pulse.heard")

#: What is known of a node now, as a document; None where nothing is.
Look = Callable[[str], Document | None]


class Store:
    """A copy of the index in a MongoDB database.

    Args:
        url: of the MongoDB.
        database: its name.
        look: what is known of a node now.
        every: seconds between writes of what changed by more than metrics.
        metrics_every: seconds between writes of everything that changed.

    Attributes:
        failing: why the last write or load failed; empty while all is well.

    Raises:
        InvalidDocument: the URL cannot be one.
    """

    def __init__(
        self, url: str, database: str, look: Look, every: float = 5.0, metrics_every: float = 30.0
    ) -> None:
        self._client = mongo_client(url, "rid")
        self._database = self._client[database]
        self._look = look
        self._every = every
        self._metrics_every = metrics_every
        self._urgent: dict[str, None] = {}
        self._lazy: dict[str, None] = {}
        self._writing: set[str] = set()
        self._whole_at = time.monotonic()
        self._ready = False
        self.written = 0
        self.failing = ""

    @property
    def pending(self) -> int:
        """How many nodes wait to be written, with those of a write that has not succeeded yet."""
        return len(self._writing.union(self._urgent, self._lazy))

    def touch(self, node: str, urgent: bool) -> None:
        """A node changed; ``urgent`` if by more than its metrics."""
        if urgent:
            self._urgent[node] = None
            self._lazy.pop(node, None)
        elif node not in self._urgent:
            self._lazy[node] = None

    async def load(self, take: Callable[[Document], None]) -> Positions:
        """Hand out every document, and return how far the streams are part of them.

        Positions are empty where nothing was kept or not all of it could be read: then the streams must
        be read from their beginnings.
        """
        try:
            found = await self._meta.find_one({"_id": _POSITIONS})
            if found is None:
                return Positions()
            if found.get("layout") != _LAYOUT:
                log.warning("the store is of another version: it is written anew", layout=found.get("layout"))
                return Positions()
            bad = 0
            async for document in self._nodes.find(batch_size=1000):
                try:
                    take(document)
                except (KeyError, TypeError, ValueError) as error:
                    bad += 1
                    log.warning(
                        "a document of the store is unreadable", node=document["_id"], error=str(error)
                    )
        except PyMongoError as error:
            self._failed(error)
            return Positions()
        self._well()
        if bad:
            return Positions()
        return Positions(
            {kind: (made, revision) for kind, (made, revision) in found.get("streams", {}).items()}
        )

    async def keep(self, positions: Callable[[], Positions], ours: Callable[[], bool]) -> None:
        """Write what changes, for ever, while it is ours to write."""
        while True:
            await asyncio.sleep(self._every)
            if ours():
                whole = time.monotonic() - self._whole_at >= self._metrics_every
                await self.flush(positions(), ours, whole=whole)

    async def flush(self, positions: Positions, ours: Callable[[], bool], *, whole: bool = True) -> bool:
        """Write what waits, then the positions; False where that failed, and what waits goes on waiting.

        Args:
            positions: how far each stream has been taken in by now.
            ours: whether we may write; asked again before each batch.
            whole: with what changed by its metrics alone.
        """
        nodes = list(self._urgent) + (list(self._lazy) if whole else [])
        lazily = set(self._lazy)
        self._writing = set(nodes)
        self._urgent = {}
        if whole:
            self._lazy = {}
        left: Iterator[str] = iter(nodes)
        batch: list[str] = []
        try:
            await self._prepare()
            while batch := list(islice(left, _TOGETHER)):
                if not ours():
                    raise _NotOursError  # noqa: TRY301 - what waits goes on waiting, as after any failure
                await self._write(batch)
                self._writing.difference_update(batch)
            await self._say(positions, whole=whole)
        except (PyMongoError, _NotOursError) as error:
            self._wait_again([*batch, *left], lazily)
            if isinstance(error, PyMongoError):
                self._failed(error)
            return False
        finally:
            self._writing = set()
        if whole:
            self._whole_at = time.monotonic()
        self._well()
        return True

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()

    @property
    def _nodes(self) -> AsyncCollection[Document]:
        return self._database["nodes"]

    @property
    def _meta(self) -> AsyncCollection[Document]:
        return self._database["meta"]

    async def _prepare(self) -> None:
        if not self._ready:
            for name in _INDEXES:
                await self._nodes.create_index(name)
            self._ready = True

    async def _write(self, names: Iterable[str]) -> None:
        operations: list[ReplaceOne[Document]] = [
            ReplaceOne({"_id": raw["_id"]}, raw, upsert=True) async for raw in self._encoded(names)
        ]
        if operations:
            await self._nodes.bulk_write(operations, ordered=False)
            self.written += len(operations)

    async def _encoded(self, names: Iterable[str]) -> AsyncIterator[RawBSONDocument]:
        """The nodes' documents as bytes, made a few at a time so that a query gets its turn in between."""
        for at, name in enumerate(names, 1):
            document = self._look(name)
            if document is None:
                continue
            try:
                yield RawBSONDocument(encode(document))
            except (BSONError, ValueError, OverflowError) as error:
                log.warning("a node cannot be stored", node=name, error=str(error))
            if at % _ENCODED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _say(self, positions: Positions, *, whole: bool) -> None:
        """Positions come after the documents: what they speak of is there. A part write moves only some."""
        moved = positions if whole else {kind: at for kind, at in positions.items() if kind not in LAZY}
        await self._meta.update_one(
            {"_id": _POSITIONS},
            {"$set": {"layout": _LAYOUT, **{f"streams.{kind}": list(at) for kind, at in moved.items()}}},
            upsert=True,
        )

    def _wait_again(self, names: Iterable[str], lazily: set[str]) -> None:
        for name in names:
            self.touch(name, name not in lazily)

    def _failed(self, error: Exception) -> None:
        if not self.failing:
            log.warning(
                "MongoDB does not serve: all goes on, and it is written later", error=str(error)[:400]
            )
        self.failing = str(error) or type(error).__name__

    def _well(self) -> None:
        if self.failing:
            log.info("MongoDB serves again", waiting=self.pending)
        self.failing = ""


class _NotOursError(Exception):
    """The lease went while we wrote."""
