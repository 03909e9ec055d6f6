"""Noise of any size and shape: it is refused or buried in a message that fits, and the flow goes on."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import RootModel

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential, Credentials
from bus.frame import Frame, _run
from bus.natspy import NatsWire
from bus.port import Endpoint
from bus.settings import Settings
from schemas.dead import DeadLetter
from schemas.errors import InvalidDocument, InvalidQuery, MinicloudError
from schemas.event import read_event
from schemas.node import Measurement


class _Any(RootModel[Any]):
    """Whatever comes."""


@pytest.fixture
async def bus(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Bus]:
    endpoint = Endpoint(broker.url, admin.user, admin.password, f"_INBOX.{admin.user}")
    async with await Bus.connect(endpoint, mc, "tests") as connected:
        await connected.ensure_streams()
        yield connected
        for stream in (await connected.jetstream.api("STREAM.NAMES", {"subject": f"mc.{mc}.>"}))["streams"]:
            await connected.jetstream.api(f"STREAM.DELETE.{stream}")


def _noise() -> dict[str, bytes]:
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": "1",
        "source": "/x",
        "type": "minicloud.node.measured.v1",
        "data": {"node": "pi-1", "interval": 1, "values": {}},
    }

    def with_values(values: Any) -> bytes:
        return json.dumps({**envelope, "data": {**envelope["data"], "values": values}}).encode()

    return {
        "a problem in each of 60,000 places": with_values({str(at): "x" for at in range(60_000)}),
        "names that JSON makes six times as long": with_values(
            {"\x01" * 4000 + str(at): "" for at in range(30)}
        ),
        "text that JSON makes six times as long": b"\x01" * 700_000,
        "not text at all": b"\xff\xfe" * 300_000,
    }


@pytest.mark.parametrize("what", list(_noise()))
async def test_what_cannot_be_read_is_buried_in_a_letter_that_fits(bus: Bus, what: str) -> None:
    payload = _noise()[what]
    revision = await bus.jetstream.publish(bus.subjects.metrics("pi-1"), payload, "noise")
    good = Measurement(node="pi-2", interval=1, values={"cpu.used": 1})
    await bus.publish(bus.subjects.metrics("pi-2"), good)

    async with bus.watch({bus.subjects.metrics(): Measurement}) as items:
        async for item in items:
            if item.event is not None:
                assert item.event.data.node == "pi-2"
                break
    stored = await bus.jetstream.last(f"{bus.minicloud}_dead", bus.subjects.dead("tests"))
    assert stored is not None
    letter = read_event(stored[1], DeadLetter).data
    assert (letter.revision, letter.size) == (revision, len(payload))
    text = letter.payload.encode() if letter.encoding == "utf-8" else base64.b64decode(letter.payload)
    assert payload.startswith(text)
    assert letter.truncated is (len(text) < len(payload))


@pytest.mark.parametrize("unit", ["x", '"', "\x01", "é"])
async def test_an_error_that_quotes_a_huge_name_is_still_told(bus: Bus, unit: str) -> None:
    async def refuse(document: _Any) -> dict[str, Any]:
        raise InvalidQuery(f"no {unit * 400_000}", field=unit * 400_000, expected=unit * 400_000)

    await bus.serve("tests", "refuse", _Any, refuse)
    with pytest.raises(InvalidQuery):
        await bus.request("tests", "refuse", {})


@pytest.mark.parametrize("over", range(-40, 120, 20))
async def test_an_answer_around_the_brokers_limit_comes_or_is_refused(bus: Bus, over: int) -> None:
    async def answer(_: _Any) -> bytes:
        return b'"' + b"x" * (bus.wire.max_payload + over - 2) + b'"'

    async def refuse_with_headers(_: _Any) -> bytes:
        await bus.wire.publish("x", b"x" * (bus.wire.max_payload + over - 100), "", {"A": "b" * 50})
        return b"{}"

    await bus.serve("tests", "answer", _Any, answer)
    await bus.serve("tests", "headers", _Any, refuse_with_headers)
    for verb in ("answer", "headers"):
        try:
            await bus.request("tests", verb, {})
        except InvalidDocument as error:
            assert "bytes" in str(error)  # noqa: PT017 - it may come, too
    await bus.flush()
    assert bus.wire.connected


def test_an_error_that_travels_is_never_longer_than_a_person_reads() -> None:
    long = "\ud800" * 10_000
    problems = [{"field": long, "message": long, "expected": None}] * 10_000
    for error in (
        MinicloudError(long, field=long, expected=long),
        InvalidDocument(long, field=long, expected=long, problems=problems),
    ):
        assert len(json.dumps(error.document(), ensure_ascii=False).encode()) < 50_000
        assert error.message == long  # where it was raised it is whole


async def test_a_service_that_the_broker_cut_off_ends_with_a_failure(own_broker: Broker) -> None:
    admin = Credentials(own_broker.data).add("admin", "tests")
    settings = Settings.load(
        {}, minicloud="home", broker=own_broker.url, user=admin.user, password=admin.password
    )

    async def serve(frame: Frame[Settings]) -> None:
        await frame.bus.serve("tests", "echo", _Any, _answered)
        wire = frame.bus.wire
        assert isinstance(wire, NatsWire)
        await wire._client._send_command(b"NONSENSE\r\n")  # what the broker answers by closing
        await frame.stopping.wait()

    assert await asyncio.wait_for(_run("tests", serve, settings), 20) == 1


async def _answered(_: _Any) -> dict[str, Any]:
    return {}
