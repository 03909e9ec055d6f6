"""The frame of a service: what it starts ends with it, whatever that does with a cancellation."""

from __future__ import annotations

import asyncio
import contextlib

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credentials
from bus.frame import Frame
from bus.permissions import inbox_prefix
from bus.port import Endpoint
from bus.settings import Settings


async def test_a_part_that_loses_a_cancellation_ends_all_the_same(
    broker: Broker, credentials: Credentials, mc: str
) -> None:
    mine = credentials.add("service", "some")
    endpoint = Endpoint(broker.url, mine.user, mine.password, inbox_prefix(mine.user))
    async with await Bus.connect(endpoint, mc, "some") as bus:
        frame = Frame("some", Settings(), bus)
        lost = 0

        async def forgetful() -> None:
            nonlocal lost
            while lost < 2:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                lost += 1
            await asyncio.Event().wait()

        task = frame.spawn(forgetful())
        await asyncio.sleep(0)  # let it begin
        async with asyncio.timeout(10):
            await frame.close()
        assert task.cancelled()
        assert lost == 2
