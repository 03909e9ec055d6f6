"""A running agent, and an ear on the bus that waits for events."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from bus.broker import Broker
from bus.credentials import Credential, Credentials
from tests.parts.process import PartProcess

Start = Callable[..., PartProcess]


class Ear:
    """Hears every event of a minicloud, and waits for the one that a test is after."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.raw: list[tuple[str, bytes]] = []
        self._more = asyncio.Event()

    async def hear(self, message: Any) -> None:
        self.heard.append(json.loads(message.data))
        self.raw.append((message.subject, message.data))
        self._more.set()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.heard if event["type"] == f"minicloud.node.{kind}.v1"]

    def states(self) -> list[str]:
        return [event["data"]["state"] for event in self.of("presence")]

    async def until(self, condition: Callable[[], Any], timeout: float = 30.0) -> None:
        async def wait() -> None:
            while not condition():
                self._more.clear()
                await self._more.wait()

        try:
            await asyncio.wait_for(wait(), timeout)
        except TimeoutError:
            told = [(event["type"], str(event["data"])[:100]) for event in self.heard[-10:]]
            raise AssertionError(f"it was not heard within {timeout:g} s; the last heard: {told}") from None


async def listen(broker: Broker, admin: Credential, mc: str) -> tuple[Ear, nats.NATS]:
    ear = Ear()
    connection = await nats.connect(
        broker.url, user=admin.user, password=admin.password, max_reconnect_attempts=-1
    )
    await connection.subscribe(f"mc.{mc}.>", cb=ear.hear)
    await connection.flush()
    return ear, connection


@pytest.fixture
async def ear(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Ear]:
    """An ear on the test's own minicloud of the shared broker."""
    heard, connection = await listen(broker, admin, mc)
    yield heard
    await connection.close()


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Start]:
    """``start_agent(broker, minicloud, credential, *options)``: an agent of node ``pi-3``."""
    started: list[PartProcess] = []

    def start(broker: Broker, minicloud: str, credential: Credential, *options: str) -> PartProcess:
        secret = tmp_path / "password"
        secret.write_text(credential.password + "\n")
        command = [sys.executable, "-m", "services.charagent", "--minicloud", minicloud, "--node", "pi-3"]
        command += ["--broker", broker.mqtt_url, "--user", credential.user, "--password-file", str(secret)]
        # One small program, so that a start is quick; the whole list has a test of its own.
        command += ["--data", str(tmp_path / "agent"), "--interval", "0.1", "--software", "python3", *options]
        agent = PartProcess(command, tmp_path / f"agent-{len(started)}.log", {**os.environ, "LC_ALL": "C"})
        started.append(agent)
        return agent

    yield start
    for agent in started:
        agent.kill()


@pytest.fixture
def credential(credentials: Credentials) -> Iterator[Credential]:
    """The credential of node ``pi-3`` on the shared broker."""
    made = credentials.add("agent", "pi-3")
    yield made
    credentials.revoke("agent", "pi-3")
