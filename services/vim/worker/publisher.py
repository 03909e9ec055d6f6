"""What does run, onto the bus: every change while connected, the last of each workload after a gap.

In come observed documents from the engine, out go events, each stored before the next of the same
workload. Nothing is lost by a broker that is away: the levels are published again when it is back.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from bus.bus import Bus
from schemas.errors import MinicloudError
from schemas.event import now
from schemas.workload import ObservedWorkload

log = structlog.get_logger("worker")
_BACKLOG: Final = 1000
_RETRY: Final = 0.5


class Publisher:
    """The observed levels of one node.

    Args:
        bus: where to.
        node: whose.
    """

    def __init__(self, bus: Bus, node: str) -> None:
        self._bus = bus
        self._node = node
        self._waiting: list[ObservedWorkload] = []
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def tell(self, document: dict[str, Any]) -> None:
        """Publish this soon; called in the event loop."""
        self._waiting.append(ObservedWorkload(**document, node=self._node, observed_at=now()))
        if len(self._waiting) > _BACKLOG:
            self._compress()
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    for level in batch:
                        await self._publish(level)
                except MinicloudError as error:
                    log.info("observed levels wait", count=len(batch), error=str(error))
                    # Some may be stored already: a level said twice is the same level.
                    self._waiting = batch + self._waiting
                    self._compress()
                    await asyncio.sleep(_RETRY)
            self._idle.set()

    async def flushed(self, seconds: float) -> bool:
        """Await that all is published, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _publish(self, level: ObservedWorkload) -> None:
        subject = self._bus.subjects.observed(self._node, level.workload)
        await self._bus.publish(subject, level, about=self._node, timeout=5.0)

    def _compress(self) -> None:
        self._waiting = list({level.workload: level for level in self._waiting}.values())
