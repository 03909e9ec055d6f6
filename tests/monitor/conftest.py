"""A minicloud with monitors: real broker, real HTTP, and a bus for the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential
from bus.frame import Frame
from bus.http import serve_http
from schemas.event import now
from schemas.workload import ObservedWorkload
from services.monitor.service import Monitor
from services.monitor.settings import MonitorSettings
from tests.rid.nodes import until

PASSWORD = "a password of the API"
TOKEN = "a-token-of-the-API"


def observed(node: str, workload: str = "hello-0", state: Any = "running", **more: Any) -> ObservedWorkload:
    """A workload that runs there."""
    return ObservedWorkload(
        workload=workload,
        deployment=workload.rsplit("-", 1)[0],
        generation=1,
        replica=0,
        node=node,
        state=state,
        reason="Started",
        runtime="process",
        observed_at=now(),
        **more,
    )


class Site:
    """A minicloud of the test's own: a bus for the test, and as many monitors as it wants."""

    def __init__(self, broker: Broker, admin: Credential, mc: str, bus: Bus) -> None:
        self.bus = bus
        self.mc = mc
        self.access = {"broker": broker.url, "user": admin.user, "password": admin.password}

    def settings(self, **more: Any) -> MonitorSettings:
        given = {"http_port": 0, "api_password": PASSWORD, "api_token": TOKEN, "look_every": 0.05, **more}
        return MonitorSettings.load({}, minicloud=self.mc, **self.access, **given)

    @asynccontextmanager
    async def monitor(self, **more: Any) -> AsyncIterator[tuple[Monitor, httpx.AsyncClient]]:
        """A monitor, and a client of its API that knows the secret."""
        settings = self.settings(**more)
        bus = await Bus.connect(settings.endpoint("monitor"), self.mc, "monitor")
        frame = Frame("monitor", settings, bus)
        monitor = Monitor(frame)
        monitor.serve_http()
        try:
            server = await serve_http(frame)
        except BaseException:
            await bus.close()
            raise
        task = asyncio.create_task(monitor.run())
        try:
            await until(lambda: frame.ready or task.done(), "monitor ready", 20)
            async with httpx.AsyncClient(
                base_url=server.url, timeout=20, auth=(settings.api_user, PASSWORD)
            ) as client:
                yield monitor, client
        finally:
            frame.stopping.set()
            await asyncio.wait_for(task, 15)
            await frame.close()
            await server.stop()
            await bus.close()
            assert frame.failure is None

    async def say(self, *data: Any) -> None:
        """Publish what a node's agent or worker says."""
        s = self.bus.subjects
        for one in data:
            if isinstance(one, ObservedWorkload):
                where = s.observed(one.node, one.workload)
            else:
                subject = {
                    "Characterization": s.characterization,
                    "Measurement": s.metrics,
                    "Presence": s.presence,
                    "WorkerStatus": s.worker,
                }[type(one).__name__]
                where = subject(one.node)
            await self.bus.publish(where, one, about=one.node)


@pytest.fixture
async def site(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Site]:
    settings = MonitorSettings.load(
        {}, minicloud=mc, broker=broker.url, user=admin.user, password=admin.password, api_token=TOKEN
    )
    async with await Bus.connect(settings.endpoint("tests"), mc, "tests") as bus:
        await bus.ensure_streams()
        try:
            yield Site(broker, admin, mc, bus)
        finally:
            made = await bus.jetstream.api("STREAM.NAMES", {"subject": f"mc.{mc}.>"})
            for stream in made["streams"] or []:
                await bus.jetstream.api(f"STREAM.DELETE.{stream}")
