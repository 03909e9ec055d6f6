"""Consume: durable, at least once, in order, with backoff and dead letters.

A message is acknowledged after its handler returned. A handler that fails is asked again after a
pause that grows; after the last try the message goes whole to the dead letters with the reason, and
the flow goes on. What a newer attempt finds already done is the handler's business: (id,
generation) decides, never arrival.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from bus.ending import end
from bus.jetstream import JetStream
from bus.port import Message
from bus.pull import Delivery, PullLoop, make_consumer
from schemas.errors import InvalidDocument, MinicloudError
from schemas.event import Event

log = structlog.get_logger("bus")

_NANO: Final = 1_000_000_000
_ACK: Final = b"+ACK"
_PROGRESS: Final = b"+WPI"
# For another, once we are gone: at once it would come back to what we had asked for before.
_LATER: Final = b"-NAK " + json.dumps({"delay": _NANO // 2}).encode()
_LONGEST_FAREWELL: Final = 8.0


@dataclass(frozen=True)
class Retry:
    """When a failed message is tried again.

    Attributes:
        tries: deliveries before it is buried.
        first: seconds before the second try; each later pause is twice as long.
        longest: seconds, the longest pause.
    """

    tries: int = 5
    first: float = 0.1
    longest: float = 30.0

    def pause(self, deliveries: int) -> float:
        """Seconds to wait after ``deliveries`` failed tries."""
        return float(min(self.longest, self.first * 2 ** (deliveries - 1)))


class Consumption:
    """A running ``consume``."""

    def __init__(
        self,
        jetstream: JetStream,
        stream: str,
        durable: str,
        filters: list[str],
        read: Callable[[Message], Event[Any]],
        handler: Callable[[Event[Any]], Awaitable[None]],
        bury: Callable[[Message, Exception, Delivery], Awaitable[None]],
        retry: Retry,
        ack_wait: float,
    ) -> None:
        self._js = jetstream
        self._stream = stream
        self._durable = durable
        self._filters = filters
        self._read = read
        self._handler = handler
        self._bury = bury
        self._retry = retry
        self._ack_wait = ack_wait
        self._publish = jetstream.wire.publish
        self._loop = PullLoop(jetstream, stream, self._make, self._on_message)
        self._working: str | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._free: asyncio.Future[None] | None = None
        self.handled = 0
        self.retried = 0
        self.buried = 0

    async def start(self) -> None:
        """Make the durable consumer and begin."""
        await self._loop.start()
        self._keeper = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """End after the message at hand, waited for a few seconds; the others are handed back to the broker."""
        if self._free is not None:
            return  # it is ending already
        self._free = asyncio.get_running_loop().create_future()
        self._loop.ask_no_more()
        if self._working:
            await asyncio.wait({self._free}, timeout=_LONGEST_FAREWELL)
        with suppress(MinicloudError):
            await self._js.wire.flush(timeout=1.0)  # while what waits behind it is handed back
        await self._loop.stop()
        if self._keeper:
            await end([self._keeper])

    async def _make(self) -> str:
        await make_consumer(
            self._js,
            self._stream,
            {
                "name": self._durable,
                "durable_name": self._durable,
                "filter_subjects": self._filters,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": int(self._ack_wait * _NANO),
                "max_deliver": -1,
                "max_ack_pending": 20_000,
                "replay_policy": "instant",
            },
        )
        return self._durable

    async def _on_message(self, message: Message) -> None:
        reply = message.reply
        if self._free is not None:
            await self._publish(reply, _LATER)
            return
        self._working = reply
        try:
            await self._handler(self._read(message))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises must not end the flow
            await self._failed(message, error)
        else:
            self.handled += 1
            await self._publish(reply, _ACK)
        finally:
            self._working = None
            if self._free is not None and not self._free.done():
                self._free.set_result(None)

    async def _failed(self, message: Message, error: Exception) -> None:
        delivery = Delivery(message.reply)
        final = isinstance(error, InvalidDocument) or delivery.deliveries >= self._retry.tries
        if not final:
            self.retried += 1
            pause = self._retry.pause(delivery.deliveries)
            log.warning(
                "handler failed; tried again", subject=message.subject, error=repr(error), pause=pause
            )
            await self._publish(message.reply, b"-NAK " + json.dumps({"delay": int(pause * _NANO)}).encode())
            return
        await self._bury(message, error, delivery)
        self.buried += 1
        await self._publish(message.reply, _ACK)

    async def _keep_alive(self) -> None:
        """Tell the broker that a slow handler is still at work, so that nobody else gets its message."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            if self._working:
                await self._publish(self._working, _PROGRESS)
