"""Watch: the present state, then every change, without a gap: ``ITEM… SYNC (CHANGE|BOOKMARK)…``.

A watch is an ordered reading of a stream. It starts with the last message of each subject (or, to
resume, right after a revision), says SYNC when it has caught up, and goes on live. Where the
consumer is lost, with the broker or for any other reason, it is made anew right after the last
revision that was handed out; a revision that the log no longer keeps is told as :class:`TooOld`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from bus.jetstream import JetStream
from bus.port import Message
from bus.pull import Delivery, PullLoop, ephemeral_name, make_consumer
from bus.streams import Stream
from schemas.errors import InvalidDocument, MinicloudError, TooOld
from schemas.event import Event
from schemas.names import ANY

T = TypeVar("T")
_NANO: Final = 1_000_000_000
_QUEUE: Final = 4096


class WatchItem(NamedTuple, Generic[T]):
    """One thing that a watch says.

    Attributes:
        kind: ``ITEM`` (present state), ``SYNC`` (caught up), ``CHANGE``, or ``BOOKMARK`` (a revision to
            resume from while nothing changes).
        revision: resume after it and nothing is missed.
        subject: where it was published; empty for SYNC and BOOKMARK.
        event: what was published; None for SYNC, BOOKMARK and what cannot be read.
        payload: what was published, as it came.
        error: why it cannot be read.
    """

    kind: Literal["ITEM", "SYNC", "CHANGE", "BOOKMARK"]
    revision: int
    subject: str = ""
    event: Event[Any] | None = None
    payload: bytes = b""
    error: InvalidDocument | None = None


class Reader:
    """The messages of some subjects of one stream, in order, from now on or from a revision.

    Args:
        jetstream: the connection.
        stream: which stream.
        minicloud: whose.
        filters: the subjects.
        since: revision to resume after; None begins with the present state (last message a subject).
        consumer: the consumer's name where the credential may use only one; else a name nobody guesses.
    """

    def __init__(
        self,
        jetstream: JetStream,
        stream: Stream,
        minicloud: str,
        filters: list[str],
        *,
        since: int | None = None,
        consumer: str | None = None,
        everything: bool = False,
    ) -> None:
        self._js = jetstream
        self._stream = stream
        self._name = stream.name(minicloud)
        # A credential of one consumer is held to a filter in the request's subject, so to a single one.
        self._filters = [_covering(filters)] if consumer else filters
        self._since = since
        self._everything = everything
        self._fixed = consumer
        self._consumer = ""
        self._sequence = 0
        self._last = since or 0
        self._started = False
        self._synced = False
        self._queue: asyncio.Queue[WatchItem[Any] | MinicloudError] = asyncio.Queue(_QUEUE)
        self._loop = PullLoop(jetstream, self._name, self._make, self._on_message, on_idle=self._on_idle)

    async def start(self) -> None:
        """Begin to read.

        Raises:
            TooOld: ``since`` is no longer kept.
        """
        await self._loop.start()

    async def stop(self) -> None:
        """End, and take the consumer with us."""
        await self._loop.stop()
        if self._consumer and self._js.wire.connected:
            with suppress(MinicloudError):
                await self._js.api(f"CONSUMER.DELETE.{self._name}.{self._consumer}", timeout=1.0)

    async def __aiter__(self) -> AsyncIterator[WatchItem[Any]]:
        queue = self._queue
        while True:
            # Without a detour where something waits: an unhindered `await` costs as much as reading an event.
            item = await queue.get() if queue.empty() else queue.get_nowait()
            if isinstance(item, MinicloudError):
                raise item
            yield item

    async def _make(self) -> str:
        # Under a fixed name a killed predecessor may have left one, which goes on delivering to the dead.
        former = self._consumer or self._fixed
        if former:
            with suppress(MinicloudError):
                await self._js.api(f"CONSUMER.DELETE.{self._name}.{former}", timeout=1.0)
        self._consumer = self._fixed or ephemeral_name()
        config: dict[str, Any] = {
            "name": self._consumer,
            "filter_subjects": self._filters,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 60 * _NANO,
            "max_deliver": -1,
            "replay_policy": "instant",
        }
        info = await self._start_after(config)
        self._sequence = 0
        self._started = True
        if not self._synced and info["num_pending"] == 0:
            await self._sync()
        return self._consumer

    async def _start_after(self, config: dict[str, Any]) -> dict[str, Any]:
        if self._everything and self._last == 0:
            return await make_consumer(self._js, self._name, {**config, "deliver_policy": "all"})
        if self._since is None and self._last == 0:
            return await make_consumer(self._js, self._name, {**config, "deliver_policy": "last_per_subject"})
        state = (await self._js.api(f"STREAM.INFO.{self._name}"))["state"]
        if self._last > state["last_seq"]:
            # The stream was made anew: its revisions no longer mean what ours do.
            error = TooOld(
                f"revision {self._last} is from another life of {self._name}", expected="a fresh watch"
            )
            if not self._started:
                raise error
            await self._queue.put(error)
        elif self._stream.log and state["first_seq"] > self._last + 1:
            error = TooOld(
                f"revision {self._last} is no longer kept",
                field="since",
                expected=f"{state['first_seq'] - 1} or later",
            )
            if not self._started:
                raise error
            await self._queue.put(error)
        start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1}
        return await make_consumer(self._js, self._name, {**config, **start})

    async def _on_message(self, message: Message) -> None:
        delivery = Delivery(message.reply)
        if delivery.sequence != self._sequence + 1:
            self._loop.renew()
            return
        self._sequence = delivery.sequence
        self._last = max(self._last, delivery.revision)
        kind: Literal["ITEM", "CHANGE"] = "CHANGE" if self._synced else "ITEM"
        item: WatchItem[Any] = WatchItem(kind, delivery.revision, message.subject, None, message.data)
        if self._queue.full():
            await self._queue.put(item)
        else:
            self._queue.put_nowait(item)
        if not self._synced and delivery.pending == 0:
            await self._sync()

    async def _sync(self) -> None:
        self._synced = True
        await self._queue.put(WatchItem("SYNC", self._last))

    async def _on_idle(self) -> None:
        if self._synced and self._queue.empty():
            await self._queue.put(WatchItem("BOOKMARK", self._last))


def _covering(filters: list[str]) -> str:
    """The narrowest pattern that covers filters of one length."""
    tokens = zip(*(pattern.split(".") for pattern in filters), strict=True)
    return ".".join(same[0] if len(set(same)) == 1 else ANY for same in tokens)
