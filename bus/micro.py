"""Request/reply verbs as NATS micro services, so that any NATS tool can discover them.

Follows the protocol of NATS' architecture decision record 32: ``$SRV.PING``, ``$SRV.INFO`` and
``$SRV.STATS``, and the ``Nats-Service-Error`` headers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from bus.port import Message, Subscription, Wire
from schemas.errors import MinicloudError

log = structlog.get_logger("bus")
_INBOX: Final = "_INBOX."
_SERVER_ERROR: Final = 500


@dataclass
class Verb:
    """One verb of a service and how it has fared."""

    subject: str
    queue: str
    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    last_error: str = ""

    def info(self, name: str) -> dict[str, Any]:
        """As ``$SRV.INFO`` lists it."""
        return {"name": name, "subject": self.subject, "queue_group": self.queue, "metadata": {}}

    def stats(self, name: str) -> dict[str, Any]:
        """As ``$SRV.STATS`` lists it."""
        nanoseconds = int(self.seconds * 1e9)
        return {
            **self.info(name),
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": nanoseconds,
            "average_processing_time": nanoseconds // max(1, self.requests),
        }


@dataclass
class MicroService:
    """The verbs that one process serves under one service name."""

    wire: Wire
    name: str
    instance: str
    version: str = "0.1.0"
    verbs: dict[str, Verb] = field(default_factory=dict)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    _subscriptions: list[Subscription] = field(default_factory=list)

    async def start(self) -> None:
        """Answer discovery."""
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for subject in (
                f"$SRV.{verb}",
                f"$SRV.{verb}.{self.name}",
                f"$SRV.{verb}.{self.name}.{self.instance}",
            ):
                self._subscriptions.append(await self.wire.subscribe(subject, self._discovery(answer)))

    async def add(
        self, verb: str, subject: str, answer: Callable[[bytes], Awaitable[bytes]], *, queue: str
    ) -> None:
        """Serve ``verb`` on ``subject``: ``answer`` turns a request's payload into the reply's."""
        entry = self.verbs[verb] = Verb(subject, queue)

        async def on_request(message: Message) -> None:
            if not message.reply.startswith(_INBOX):
                # Whoever asks names where we answer, unchecked by the broker: our rights must not be lent.
                log.warning("asked for an answer elsewhere than in an inbox", verb=verb, reply=message.reply)
                return
            begun = time.perf_counter()
            entry.requests += 1
            try:
                await self.wire.publish(message.reply, await answer(message.data))
            except MinicloudError as error:
                entry.errors += 1
                entry.last_error = str(error)
                await self._refuse(message.reply, error)
            except Exception as error:
                log.exception("a request could not be answered", verb=verb)
                entry.errors += 1
                entry.last_error = repr(error)
                await self._refuse(message.reply, MinicloudError(f"{type(error).__name__}: {error}"))
            finally:
                entry.seconds += time.perf_counter() - begun

        self._subscriptions.append(await self.wire.subscribe(subject, on_request, queue))

    async def stop(self) -> None:
        """Answer no more."""
        if not self.wire.ended.is_set():
            for subscription in self._subscriptions:
                await subscription.unsubscribe()
        self._subscriptions.clear()

    async def _refuse(self, reply: str, error: MinicloudError) -> None:
        document = error.document()
        headers = {
            "Nats-Service-Error": document["message"].replace("\n", " ")[:200],
            "Nats-Service-Error-Code": str(error.status or _SERVER_ERROR),
        }
        await self.wire.publish(reply, json.dumps(document, default=str).encode(), "", headers)

    def _discovery(self, answer: Callable[[], dict[str, Any]]) -> Callable[[Message], Awaitable[None]]:
        async def on_request(message: Message) -> None:
            if message.reply.startswith(_INBOX):
                await self.wire.publish(message.reply, json.dumps({**self._identity(), **answer()}).encode())

        return on_request

    def _identity(self) -> dict[str, Any]:
        return {"name": self.name, "id": self.instance, "version": self.version, "metadata": {}}

    def _ping(self) -> dict[str, Any]:
        return {"type": "io.nats.micro.v1.ping_response"}

    def _info(self) -> dict[str, Any]:
        endpoints = [verb.info(name) for name, verb in self.verbs.items()]
        return {"type": "io.nats.micro.v1.info_response", "description": "", "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [verb.stats(name) for name, verb in self.verbs.items()]
        return {"type": "io.nats.micro.v1.stats_response", "started": self.started, "endpoints": endpoints}
