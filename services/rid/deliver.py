"""Standing queries over the bus: items to the reader's inbox, acknowledgements back.

A reader that does not acknowledge gets no more than a window of items, and is forgotten when its lease ends;
one whose inbox nobody reads any more is forgotten at once, since the broker says so.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque

import structlog

from bus.bus import Bus
from bus.port import Message
from schemas.errors import MinicloudError, NotFound
from schemas.standing import (
    HEARTBEAT,
    LEASE,
    WINDOW,
    Acknowledgement,
    Delivery,
    StandingItem,
    Watched,
    Watching,
)
from schemas.verbs import Done
from services.rid.standing import Standing, Watcher
from services.rid.subscribe import begin, told

log = structlog.get_logger("rid")


class _Reader:
    """Whoever reads one standing query over the bus."""

    def __init__(self, watcher: Watcher, inbox: str, moment: float) -> None:
        self.name = os.urandom(8).hex()
        self.watcher = watcher
        self.inbox = inbox
        self.heard = moment
        self.room = asyncio.Event()
        self.sequence = 0
        self._flying: deque[tuple[int, int]] = deque()
        self._outstanding = 0
        self.room.set()

    def sent(self, items: int) -> None:
        """So many are on their way."""
        self._flying.append((self.sequence, items))
        self._outstanding += items
        if self._outstanding >= WINDOW:
            self.room.clear()

    def acknowledged(self, sequence: int, moment: float) -> None:
        """All up to this delivery arrived."""
        self.heard = moment
        while self._flying and self._flying[0][0] <= sequence:
            self._outstanding -= self._flying.popleft()[1]
        if self._outstanding < WINDOW:
            self.room.set()


class Deliveries:
    """The readers over the bus.

    Args:
        bus: our connection.
        standing: the standing queries.
    """

    def __init__(self, bus: Bus, standing: Standing) -> None:
        self._bus = bus
        self._standing = standing
        self._readers: dict[str, _Reader] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._instance = os.urandom(6).hex()
        self._undelivered = ""

    async def start(self) -> None:
        """Serve the verbs."""
        self._undelivered = self._bus.wire.inbox()
        await self._bus.wire.subscribe(f"{self._undelivered}.*", self._on_undelivered)
        await self._bus.serve(
            "rid", "acknowledge", Acknowledgement, self._acknowledge, instance=self._instance
        )
        await self._bus.serve("rid", "watch", Watching, self._watch)

    async def stop(self) -> None:
        """End every delivery."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._readers)

    async def _watch(self, wish: Watching) -> Watched:
        watcher = await begin(self._standing, self._bus, wish.query, wish.since)
        reader = _Reader(watcher, wish.deliver, asyncio.get_running_loop().time())
        self._readers[reader.name] = reader
        task = asyncio.create_task(self._deliver(reader, wish.every))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Watched(
            watch=reader.name,
            acknowledge=self._bus.subjects.service("rid", "acknowledge", self._instance),
        )

    async def _acknowledge(self, word: Acknowledgement) -> Done:
        reader = self._readers.get(word.watch)
        if reader is None:
            raise NotFound("no standing query has this name here", field="watch", expected="to watch anew")
        if word.done:
            self._forget(reader)
        reader.acknowledged(word.sequence, asyncio.get_running_loop().time())
        return Done()

    async def _on_undelivered(self, message: Message) -> None:
        """The broker says that nobody reads an inbox."""
        reader = self._readers.get(message.subject.rsplit(".", 1)[1])
        if reader is not None and (message.headers or {}).get("Status") == "503":
            self._forget(reader)

    def _forget(self, reader: _Reader) -> None:
        self._readers.pop(reader.name, None)
        reader.watcher.close()
        reader.room.set()

    async def _deliver(self, reader: _Reader, every: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for items in told(reader.watcher, every):
                if loop.time() - reader.heard > LEASE:
                    log.info("a reader of a standing query went", inbox=reader.inbox)
                    break
                await self._send(reader, items)
                if not reader.room.is_set():
                    async with asyncio.timeout(max(HEARTBEAT, reader.heard + LEASE - loop.time())):
                        await reader.room.wait()
        except TimeoutError:
            log.info("a reader of a standing query does not acknowledge", inbox=reader.inbox)
        except MinicloudError as error:
            log.warning("a standing query cannot be delivered", inbox=reader.inbox, error=str(error))
        finally:
            self._forget(reader)

    async def _send(self, reader: _Reader, items: list[StandingItem]) -> None:
        """In as many messages as the broker's limit takes."""
        payload = (
            Delivery(watch=reader.name, sequence=reader.sequence + 1, items=items).model_dump_json().encode()
        )
        if len(payload) > self._bus.wire.max_payload - 1024 and len(items) > 1:
            half = len(items) // 2
            await self._send(reader, items[:half])
            await self._send(reader, items[half:])
            return
        reader.sequence += 1
        reader.sent(len(items))
        await self._bus.wire.publish(reader.inbox, payload, f"{self._undelivered}.{reader.name}")
