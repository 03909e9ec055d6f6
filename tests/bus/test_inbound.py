"""What comes from the broker reaches its handler whole and in order, however the network cuts it up."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import ProtocolError

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential
from bus.inbound import Inbound, Lane
from bus.port import Endpoint, Message
from schemas.event import Event
from schemas.node import Measurement

SAID = (
    b"MSG mc.a 1 5\r\nhello\r\n"
    b"MSG mc.b 1 _INBOX.x.1 0\r\n\r\n"
    b"+OK\r\n"
    b"HMSG mc.c 1 12 17\r\nNATS/1.0\r\n\r\nthere\r\n"
    b"HMSG mc.d 1 $JS.ACK.s.c.1.2.3.4.5 28 30\r\nNATS/1.0\r\nNats-Msg-Id: 7\r\n\r\n\r\n\r\n"
    b"HMSG _INBOX.x.2 1 40 40\r\nNATS/1.0 409 Consumer Deleted\r\nA:  b\r\n\r\n\r\n"
    b"MSG mc.\xff 1 14\r\nMSG x 1 1\r\nx\r\n\r\n"
)
UNDERSTOOD = [
    ("mc.a", "", b"hello", None),
    ("mc.b", "_INBOX.x.1", b"", None),
    ("mc.c", "", b"there", {}),
    ("mc.d", "$JS.ACK.s.c.1.2.3.4.5", b"\r\n", {"Nats-Msg-Id": "7"}),
    ("_INBOX.x.2", "", b"", {"Status": "409", "Description": "Consumer Deleted", "A": "b"}),
    ("mc.\ufffd", "", b"MSG x 1 1\r\nx\r\n", None),
]


async def _understood(pieces: list[bytes]) -> list[Any]:
    got: list[Any] = []

    async def handler(message: Message) -> None:
        got.append((message.subject, message.reply, message.data, message.headers))

    inbound = Inbound(Client())
    lane = inbound.lanes[1] = Lane("mc.>", handler)
    for piece in pieces:
        await inbound.parse(piece)
    await asyncio.sleep(0)
    lane.close()
    return got


async def test_messages_are_understood_wherever_the_network_cuts_them() -> None:
    assert await _understood([SAID]) == UNDERSTOOD
    assert await _understood([bytes([byte]) for byte in SAID]) == UNDERSTOOD
    for cut in range(len(SAID)):
        assert await _understood([SAID[:cut], SAID[cut:]]) == UNDERSTOOD, cut


async def test_many_messages_in_pieces_of_any_size_come_whole_and_in_order() -> None:
    rng = random.Random(1)
    sent = [rng.randbytes(rng.choice([0, 3, 300, 70_000])) for _ in range(200)]
    stream = b"".join(b"MSG mc.a 1 %d\r\n%b\r\n" % (len(payload), payload) for payload in sent)
    pieces, at = [], 0
    while at < len(stream):
        size = rng.choice([1, 100, 32_768, 200_000])
        pieces.append(stream[at : at + size])
        at += size
    assert [payload for _, _, payload, _ in await _understood(pieces)] == sent


@pytest.mark.parametrize(
    "noise", [b"MSG a b c\r\n", b"MSG\r\n", b"HMSG a 1 x 2\r\nab\r\n", b"HELLO\r\n", b"M" * 70_000]
)
async def test_what_no_broker_says_is_a_protocol_error(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        await _understood([noise])


async def test_the_rest_of_an_old_connection_is_forgotten() -> None:
    got: list[bytes] = []

    async def handler(message: Message) -> None:
        got.append(message.data)

    inbound = Inbound(Client())
    lane = inbound.lanes[1] = Lane("mc.>", handler)
    await inbound.parse(b"MSG mc.a 1 70000\r\nhalf of")
    inbound.reset()
    await inbound.parse(b"MSG mc.a 1 3\r\nnew\r\n")
    await asyncio.sleep(0)
    lane.close()
    assert got == [b"new"]


@pytest.fixture
async def bus(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Bus]:
    endpoint = Endpoint(broker.url, admin.user, admin.password, admin.inbox_prefix)
    async with await Bus.connect(endpoint, mc, "tests") as connected:
        yield connected


def measured(value: float) -> Measurement:
    return Measurement(node="a", interval=1, values={"load.1m": value})


async def test_a_subject_that_is_not_text_does_not_end_the_flow(
    bus: Bus, broker: Broker, admin: Credential
) -> None:
    got: asyncio.Queue[Event[Measurement]] = asyncio.Queue()
    await bus.subscribe(bus.subjects.metrics(), Measurement, got.put)
    await bus.flush()
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.ports.nats)
    who = {"user": admin.user, "pass": admin.password, "verbose": False}
    writer.write(b"CONNECT " + json.dumps(who).encode() + b"\r\n")
    noise = bus.event(measured(1)).to_json()
    strange = bus.subjects.metrics("x").encode().replace(b".x.", b".\xff\xfe.")
    writer.write(b"PUB %b %d\r\n%b\r\nPING\r\n" % (strange, len(noise), noise))
    async with asyncio.timeout(10):
        while await reader.readline() != b"PONG\r\n":
            pass
        await bus.emit(bus.subjects.metrics("a"), measured(2))
        values = [(await got.get()).data.values["load.1m"] for _ in range(2)]
    writer.close()
    assert values == [1, 2]


async def test_a_handler_that_was_cancelled_does_not_end_its_subscription(bus: Bus) -> None:
    got: asyncio.Queue[float] = asyncio.Queue()

    async def handler(event: Event[Measurement]) -> None:
        if event.data.values["load.1m"] == 1:
            raise asyncio.CancelledError
        await got.put(event.data.values["load.1m"])

    await bus.subscribe(bus.subjects.metrics(), Measurement, handler)
    await bus.flush()
    for value in (1, 2):
        await bus.emit(bus.subjects.metrics("a"), measured(value))
    assert await asyncio.wait_for(got.get(), 10) == 2


async def test_a_handler_may_end_its_own_subscription_and_finish(bus: Bus) -> None:
    finished = asyncio.Event()

    async def handler(_: Event[Measurement]) -> None:
        await subscription.unsubscribe()
        await bus.flush()
        finished.set()

    subscription = await bus.subscribe(bus.subjects.metrics(), Measurement, handler)
    await bus.flush()
    await bus.emit(bus.subjects.metrics("a"), measured(1))
    await asyncio.wait_for(finished.wait(), 10)
