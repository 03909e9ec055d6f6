"""The pull loop: messages of a JetStream consumer, two batches in flight, through any outage.

One loop serves both verbs above it: ``consume`` (a durable consumer, acknowledged) and ``watch``
(an ephemeral one that is made anew wherever it was lost). It asks again when a batch runs dry,
expires or falls silent, so that nothing short of closing it ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import structlog

from bus.ending import end
from bus.jetstream import API, JetStream
from bus.port import Message, Subscription
from schemas.errors import Conflict, MinicloudError, NotFound, Unavailable

log = structlog.get_logger("bus")

_BATCH: Final = 500
_EXPIRES: Final = 10.0
_HEARTBEAT: Final = 2.0
_NANO: Final = 1_000_000_000


class Delivery:
    """Where a message stands in its stream, read from its reply subject.

    Attributes:
        revision: sequence in the stream.
        sequence: sequence among the consumer's deliveries.
        deliveries: how often it was delivered, this time included.
        pending: how many more the stream holds for this consumer.
    """

    __slots__ = ("deliveries", "pending", "revision", "sequence")

    def __init__(self, reply: str) -> None:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<revision>.<sequence>.<time>.<pending>, longer with domains
        parts = reply.split(".")
        if len(parts) > 9:
            parts = parts[2:]
        self.deliveries = int(parts[4])
        self.revision = int(parts[5])
        self.sequence = int(parts[6])
        self.pending = int(parts[8])


class PullLoop:
    """Pulls from one consumer and calls ``handler(message)`` for each message in order.

    Args:
        jetstream: the connection.
        stream: the stream's name.
        make: makes the consumer where it is missing and returns its name; called again after it was lost.
        handler: called for each message, awaited before the next.
    """

    def __init__(
        self,
        jetstream: JetStream,
        stream: str,
        make: Callable[[], Awaitable[str]],
        handler: Callable[[Message], Awaitable[None]],
        *,
        batch: int = _BATCH,
        on_idle: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._js = jetstream
        self._stream = stream
        self._make = make
        self._handler = handler
        self._batch = batch
        self._on_idle = on_idle
        self._subject = ""
        self._mark = ""
        self._inbox = ""
        self._outstanding: dict[str, int] = {}
        self._pull = 0
        self._heard = 0.0
        self._lost = asyncio.Event()
        self._subscription: Subscription | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self._enough = False

    async def start(self) -> None:
        """Make the consumer and begin."""
        self._inbox = self._js.wire.inbox()
        self._subscription = await self._js.wire.subscribe(f"{self._inbox}.*", self._on_message)
        await self._renew()
        self._js.wire.on_reconnect(self._on_reconnect)
        self._watchdog = asyncio.create_task(self._watch_over())

    def renew(self) -> None:
        """Make the consumer anew, soon: something is wrong with this one."""
        self._mark = "\0"
        self._lost.set()

    def ask_no_more(self) -> None:
        """What was asked for may still come."""
        self._enough = True

    async def stop(self) -> None:
        """End; messages not yet handled stay with the broker."""
        if self._watchdog:
            await end([self._watchdog])
        if self._subscription:
            with suppress(Exception):
                await self._subscription.unsubscribe()
        self._subscription = None

    async def _renew(self) -> None:
        consumer = await self._make()
        self._subject = f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        self._mark = f".{self._stream}.{consumer}."
        self._outstanding.clear()
        self._heard = monotonic()
        await self._ask()
        await self._ask()

    async def _ask(self) -> None:
        if self._enough:
            return
        self._pull += 1
        key = f"{self._inbox}.{self._pull}"
        self._outstanding[key] = self._batch
        body = {
            "batch": self._batch,
            "expires": int(_EXPIRES * _NANO),
            "idle_heartbeat": int(_HEARTBEAT * _NANO),
        }
        await self._js.wire.publish(self._subject, json.dumps(body).encode(), key)

    async def _on_message(self, message: Message) -> None:
        self._heard = monotonic()
        headers = None if message.data else message.headers
        if headers and "Status" in headers:
            await self._on_status(message.subject, headers["Status"], headers.get("Description", ""))
            return
        if self._mark not in message.reply:
            return  # a late delivery of a consumer that we gave up
        # Delivered messages arrive under their own subject; JetStream serves the oldest pull first.
        for key in self._outstanding:
            self._outstanding[key] -= 1
            if self._outstanding[key] <= 0:
                del self._outstanding[key]
                await self._ask()
            break
        await self._handler(message)

    async def _on_status(self, subject: str, status: str, description: str) -> None:
        if status == "100":
            if self._on_idle:
                await self._on_idle()
            return
        known = self._outstanding.pop(subject, None) is not None
        if status in ("404", "408") or (status == "409" and "Consumer Deleted" not in description):
            if known:
                await self._ask()
            return
        self._lost.set()  # 503: no such consumer or JetStream away; 409: deleted

    async def _on_reconnect(self) -> None:
        if self._subscription:
            self._lost.set()

    async def _watch_over(self) -> None:
        """Renew what was lost: told by the broker, or told by silence."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT):  # wait_for of Python 3.11 may lose a cancellation
                    await self._lost.wait()
            silent = monotonic() - self._heard > 3 * _HEARTBEAT
            if not self._lost.is_set() and not (silent and self._js.wire.connected):
                continue
            self._lost.clear()
            try:
                await self._renew()
            except (Unavailable, NotFound, Conflict) as error:
                log.debug("consumer not back yet", stream=self._stream, error=str(error))
                self._lost.set()
                await asyncio.sleep(0.2)
            except MinicloudError:
                log.exception("consumer cannot be made", stream=self._stream)
                self._lost.set()
                await asyncio.sleep(1.0)


async def make_consumer(
    jetstream: JetStream, stream: str, config: dict[str, Any], *, action: str = ""
) -> dict[str, Any]:
    """Make a consumer (or find it unchanged) and return what the broker says of it.

    With a single filter the filter is part of the request's subject, so that the broker can hold a
    restricted credential to it.
    """
    name = config["name"]
    filters = config.get("filter_subjects", [])
    config = dict(config)
    verb = f"CONSUMER.CREATE.{stream}.{name}"
    if len(filters) == 1:
        verb = f"{verb}.{filters[0]}"
        config["filter_subject"] = filters[0]
        del config["filter_subjects"]
    return await jetstream.api(verb, {"stream_name": stream, "config": config, "action": action})


def ephemeral_name() -> str:
    """A name that nobody guesses, for a consumer that only its maker may know."""
    return f"w{os.urandom(12).hex()}"
