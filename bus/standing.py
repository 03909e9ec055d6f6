"""The reader's side of a standing query: ask once, then hear what comes, changes and goes.

Whatever happens in between (a lost message, another rid, a broker that was away), the items that come out,
applied in order, give the query's answer: the reader resumes, or is told RESYNC and begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from bus.bus import Bus
from bus.port import Message, Subscription
from schemas.errors import MinicloudError, NotFound, TooOld, Unavailable
from schemas.standing import Acknowledgement, Delivery, StandingItem, Watched

_PAUSE: Final = 0.2
#: Heartbeats that may fail to come before the other side counts as gone.
_PATIENCE: Final = 3


@asynccontextmanager
async def standing(
    bus: Bus, query: dict[str, Any], *, since: int | None = None, every: float = 0.0
) -> AsyncIterator[AsyncIterator[StandingItem]]:
    """A standing query to rid: ``ITEM… SYNC (ENTER|UPDATE|LEAVE|BOOKMARK)…``, with ``RESYNC`` where need be.

    ::

        held = {}
        async with standing(bus, {"where": "gpu,load.5m<1"}) as items:
            async for item in items:
                item.apply(held)

    Args:
        bus: the connection.
        query: ``where``, ``fields``, ``scope``.
        since: resume after this revision instead of beginning with all that match.
        every: seconds between deliveries at least; of a node that changes more often only the newest comes.

    Raises:
        InvalidQuery: names what is wrong with the query.
        TooOld: ``since`` is no longer kept.
        Unavailable: no rid answers.
    """
    reader = _Reader(bus, query, since, every)
    await reader.start()
    try:
        yield reader.items()
    finally:
        await reader.stop()


class _Reader:
    def __init__(self, bus: Bus, query: dict[str, Any], since: int | None, every: float) -> None:
        self._bus = bus
        self._query = query
        self._since = since
        self._every = every
        self._inbox = bus.wire.inbox()
        self._subscription: Subscription | None = None
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self._watched: Watched | None = None
        self._sequence = 0
        self._begun = since is not None

    async def start(self) -> None:
        self._subscription = await self._bus.wire.subscribe(self._inbox, self._on_message)
        await self._register()

    async def stop(self) -> None:
        with contextlib.suppress(MinicloudError):
            await self._acknowledge(done=True)
        if self._subscription is not None:
            with contextlib.suppress(Exception):
                await self._subscription.unsubscribe()

    async def items(self) -> AsyncIterator[StandingItem]:
        while True:
            for item in await self._next():
                if item.kind in ("ITEM", "RESYNC"):
                    self._since = None  # what we hold is no answer until SYNC
                elif item.kind == "SYNC" or self._since is not None:
                    self._since = item.revision
                self._begun = True
                yield item
            try:
                await self._acknowledge()
            except (NotFound, Unavailable):
                async for item in self._again():
                    yield item

    async def _next(self) -> list[StandingItem]:
        """The items of the next delivery; none where there is a gap, which the next acknowledgement heals."""
        assert self._watched is not None  # noqa: S101 - registered
        try:
            async with asyncio.timeout(self._watched.heartbeat * _PATIENCE):
                while True:
                    delivery = await self._queue.get()
                    if delivery.watch == self._watched.watch:
                        break
        except TimeoutError:
            return []
        if delivery.sequence != self._sequence + 1:
            await self._acknowledge_quietly()
            self._watched = self._watched.model_copy(update={"watch": "-"})  # unknown there: begun anew
            return []
        self._sequence = delivery.sequence
        return delivery.items

    async def _again(self) -> AsyncIterator[StandingItem]:
        """Register once more, as often as it takes."""
        while True:
            try:
                await self._register()
            except TooOld:
                self._since = None
            except Unavailable:
                await asyncio.sleep(_PAUSE)
            else:
                break
        if self._since is None and self._begun:
            yield StandingItem(kind="RESYNC", revision=0)

    async def _register(self) -> None:
        wish: dict[str, Any] = {"query": self._query, "deliver": self._inbox, "every": self._every}
        if self._since is not None:
            wish["since"] = self._since
        self._sequence = 0
        self._watched = Watched.model_validate(await self._bus.request("rid", "watch", wish, timeout=10.0))

    async def _acknowledge_quietly(self) -> None:
        with contextlib.suppress(MinicloudError):
            await self._acknowledge(done=True)

    async def _acknowledge(self, *, done: bool = False) -> None:
        if self._watched is None:
            return
        service, verb, instance = self._watched.acknowledge.split(".")[3:6]
        word = Acknowledgement(watch=self._watched.watch, sequence=self._sequence, done=done)
        await self._bus.request(service, verb, word, instance=instance, timeout=5.0)

    async def _on_message(self, message: Message) -> None:
        with contextlib.suppress(ValueError):
            self._queue.put_nowait(Delivery.model_validate(json.loads(message.data)))
