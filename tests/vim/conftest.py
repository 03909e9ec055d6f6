"""One rid and one vim for most tests, and processes of their own for those that kill them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bus.broker import Broker
from bus.bus import Bus
from schemas.errors import Unavailable
from tests.vim.site import Site, Stack


@pytest.fixture(scope="session")
def stack(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A minicloud with rid and vim, shared by tests that keep to nodes and names of their own."""
    made = Stack(broker, f"v{secrets.token_hex(6)}", tmp_path_factory.mktemp("vim"))
    made.rid()
    made.vim()
    yield made
    made.close()


@pytest.fixture
def own_stack(broker: Broker, mc: str, tmp_path: Path) -> Iterator[Stack]:
    """A minicloud of the test's own, without any process yet."""
    made = Stack(broker, mc, tmp_path / "stack")
    yield made
    made.close()


@pytest.fixture
async def site(stack: Stack) -> AsyncIterator[Site]:
    bus = await stack.connect()
    await serving(bus, "rid", "attributes")
    await serving(bus, "vim", "list")
    made = Site(stack, bus)
    await made.listen()
    yield made
    await made.close()


@pytest.fixture
async def own(own_stack: Stack) -> AsyncIterator[Site]:
    """A site over ``own_stack``; its streams go with it."""
    bus = await own_stack.connect()
    made = Site(own_stack, bus)
    await made.listen()
    yield made
    await made.nodes.end()
    for process in own_stack.processes:
        process.stop()
    for stream in (await bus.jetstream.api("STREAM.NAMES", {"subject": f"mc.{own_stack.mc}.>"}))[
        "streams"
    ] or []:
        await bus.jetstream.api(f"STREAM.DELETE.{stream}")
    await bus.close()


async def serving(bus: Bus, service: str, verb: str) -> None:
    """Return once a service answers."""
    async with asyncio.timeout(40):
        while True:
            with suppress(Unavailable):
                await bus.request(service, verb, {}, timeout=2.0)
                return
            await asyncio.sleep(0.05)
