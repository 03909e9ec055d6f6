"""Which deployment is looked at next: by priority, each at most once in the queue and in one hand.

Also whose turn it is to choose a node, so that of those that wait the first in priority chooses first.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Agenda:
    """Deployments to look at."""

    def __init__(self) -> None:
        self._queue: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()
        self._waiting: dict[str, tuple[int, int]] = {}
        self._held: set[str] = set()
        self._again: dict[str, int] = {}
        self._count = 0

    def add(self, deployment: str, priority: int = 0) -> None:
        """Look at this one soon, those of higher priority first."""
        if deployment in self._held:
            self._again[deployment] = priority
            return
        waiting = self._waiting.get(deployment)
        if waiting is None or -priority < waiting[0]:
            self._count += 1
            self._waiting[deployment] = (-priority, self._count)
            self._queue.put_nowait((-priority, self._count, deployment))

    async def take(self) -> str:
        """The next one; it is in hand until :meth:`done`."""
        while True:
            priority, count, deployment = await self._queue.get()
            if self._waiting.get(deployment) == (priority, count):  # else it was moved to the front
                del self._waiting[deployment]
                self._held.add(deployment)
                return deployment

    def done(self, deployment: str) -> None:
        """Out of hand; looked at again if anything happened meanwhile."""
        self._held.discard(deployment)
        if deployment in self._again:
            self.add(deployment, self._again.pop(deployment))


class Turn:
    """One at a time, by priority; of equals the first who came."""

    def __init__(self) -> None:
        self._taken = False
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    @asynccontextmanager
    async def of(self, priority: int) -> AsyncIterator[Having]:
        """Wait for the turn, and pass it on at the end."""
        await self._wait(priority)
        try:
            yield Having(self, priority)
        finally:
            self._pass_on()

    async def to_the_first(self, priority: int) -> None:
        """Whoever has the turn lets those before him that wait for it."""
        while self._queue and self._queue[0][0] < -priority:
            self._pass_on()
            await self._wait(priority)

    async def _wait(self, priority: int) -> None:
        if self._taken:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._count += 1
            heapq.heappush(self._queue, (-priority, self._count, waiting))
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled():
                    self._pass_on()
                raise
        self._taken = True

    def _pass_on(self) -> None:
        while self._queue:
            waiting = heapq.heappop(self._queue)[2]
            if not waiting.done():
                waiting.set_result(None)
                return
        self._taken = False


class Having:
    """A turn that somebody has."""

    def __init__(self, turn: Turn, priority: int) -> None:
        self._turn = turn
        self._priority = priority

    async def to_the_first(self) -> None:
        """Let those of higher priority go first that wait by now, and take the turn again after them."""
        await self._turn.to_the_first(self._priority)
