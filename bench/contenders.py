"""The receivers that ``bench/bus.py`` compares, each as its users call it: the bus, nats-py alone, FastStream.

Each runs in a process of its own: in come a place on the broker and a tally, out goes the filled tally.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import nats
import nats.errors
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.load import Place, Tally, number_of
from bus.bus import Bus
from schemas.event import Event, read_event
from schemas.node import Measurement

Receiver = Callable[[Place, Tally], Awaitable[None]]
BATCH: Final = 500
PATIENCE: Final = 120.0  # seconds until a run counts as failed


async def nats_client(place: Place) -> Client:
    """A plain nats-py connection."""
    who = place.endpoint
    return await nats.connect(
        who.url, user=who.user, password=who.password, inbox_prefix=who.inbox_prefix.encode()
    )


async def ended(tally: Tally) -> None:
    """Wait for the last message."""
    with suppress(TimeoutError):  # the tally's own check tells what is missing
        await asyncio.wait_for(tally.done.wait(), PATIENCE)


async def bus_subscribe(place: Place, tally: Tally) -> None:
    """``Bus.subscribe``: typed events."""

    async def handler(received: Event[Measurement]) -> None:
        tally.take(number_of(received), received)

    async with await Bus.connect(place.endpoint, place.minicloud, "bench") as bus:
        await bus.subscribe(bus.subjects.metrics(), Measurement, handler)
        await bus.flush()
        tally.progress.value = 0
        await ended(tally)


async def natspy_subscribe(place: Place, tally: Tally) -> None:
    """nats-py's callback: bytes, nothing read."""
    client = await nats_client(place)
    raw: list[bytes] = []

    async def callback(message: Msg) -> None:
        raw.append(message.data)
        tally.take(len(raw) - 1, None)

    await client.subscribe(place.subject, cb=callback, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await client.flush()
    tally.progress.value = 0
    await ended(tally)
    await client.close()
    _read_all(raw, tally)


async def faststream_subscribe(place: Place, tally: Tally) -> None:
    """FastStream's subscriber with a pydantic model."""
    broker = _faststream(place)

    @broker.subscriber(place.subject, pending_msgs_limit=-1, pending_bytes_limit=-1)
    async def handler(received: Event[Measurement]) -> None:
        tally.take(number_of(received), received)

    await broker.start()
    await broker._connection.flush()  # type: ignore[union-attr]
    tally.progress.value = 0
    await ended(tally)
    await broker.stop()


async def bus_consume(place: Place, tally: Tally) -> None:
    """``Bus.consume``: typed events, each acknowledged after its handler."""

    async def handler(received: Event[Measurement]) -> None:
        tally.take(number_of(received), received)

    async with await Bus.connect(place.endpoint, place.minicloud, "bench") as bus:
        await bus.consume(bus.subjects.metrics(), Measurement, handler, durable="bus")
        await ended(tally)


async def natspy_consume(place: Place, tally: Tally) -> None:
    """nats-py's pull subscription: fetch a batch, acknowledge each; bytes, nothing read."""
    client = await nats_client(place)
    raw: list[bytes] = []
    pull = await client.jetstream().pull_subscribe(
        place.subject, durable="natspy", stream=f"{place.minicloud}_metrics"
    )
    while not tally.done.is_set():
        for message in await pull.fetch(BATCH, timeout=5):
            raw.append(message.data)
            tally.take(len(raw) - 1, None)
            await message.ack()
    await client.close()
    _read_all(raw, tally)


async def faststream_consume(place: Place, tally: Tally) -> None:
    """FastStream's pull subscriber with a pydantic model; it acknowledges after the handler."""
    broker = _faststream(place)

    @broker.subscriber(
        place.subject,
        stream=JStream(f"{place.minicloud}_metrics", declare=False),
        durable="faststream",
        pull_sub=PullSub(batch_size=BATCH),
    )
    async def handler(received: Event[Measurement]) -> None:
        tally.take(number_of(received), received)

    await broker.start()
    await ended(tally)
    await broker.stop()


def _faststream(place: Place) -> NatsBroker:
    who = place.endpoint
    url = who.url.replace("nats://", f"nats://{who.user}:{who.password}@")
    return NatsBroker(url, inbox_prefix=who.inbox_prefix, logger=None)


def _read_all(raw: list[bytes], tally: Tally) -> None:
    """What was left unread while the clock ran is read now, to be checked as everybody's."""
    received = [read_event(payload, Measurement) for payload in raw]
    tally.numbers = [number_of(one) for one in received]
    tally.kept = received[::1000]
