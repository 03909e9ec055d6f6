"""The monitor on a real broker: what it knows after a restart, and what it does with what is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import httpx

from schemas.dead import DeadLetter
from schemas.event import event
from tests.monitor.conftest import TOKEN, Site, observed
from tests.parts.process import free_port
from tests.rid import nodes
from tests.rid.nodes import at, until


async def test_the_bus_alone_restores_everything(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(nodes.characterization("a", site.mc), nodes.presence("a"), observed("a"))
        for load in (1.0, 3.0):
            await site.say(nodes.measurement("a", load_1m=load))
        await until(
            lambda: monitor.windows.mean("a", "load.1m", "15m", monitor.answers.clock()) == 2.0, "two"
        )
        before = [(await http.get(f"/v1/{path}")).json() for path in ("nodes/a/windows", "workloads")]
    async with site.monitor() as (monitor, http):
        assert [(await http.get(f"/v1/{path}")).json() for path in ("nodes/a/windows", "workloads")] == before
        node = (await http.get("/v1/nodes/a")).json()
        assert node["metrics"]["load.1m"]["value"] == 3.0
        assert node["state"] == "alive"


async def test_what_a_node_was_is_kept_on_the_bus(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        for rack in ("r1", "r2", "r3"):
            await site.say(nodes.characterization("a", site.mc, rack=rack))
        await site.say(nodes.characterization("b", site.mc))
        await until(lambda: len(monitor.fleet.nodes()) == 2, "both")
        told = (await http.get("/v1/nodes/a/characterizations", params={"limit": 2})).json()
        assert told["source"] == "bus"
        assert [one["characterization"]["rack"] for one in told["characterizations"]] == ["r3", "r2"]
        asked = {"before": told["next"]}
        told = (await http.get("/v1/nodes/a/characterizations", params=asked)).json()
        assert [one["characterization"]["rack"] for one in told["characterizations"]] == ["r1"]
        assert told["next"] is None


async def test_an_older_word_does_not_undo_a_newer_one(site: Site) -> None:
    async with site.monitor() as (monitor, _):
        newer = event(nodes.characterization("a", site.mc, rack="new"), "/tests")
        older = event(nodes.characterization("a", site.mc, rack="old"), "/tests")
        older.time = at(older.time.timestamp() - 60)
        subject = site.bus.subjects.characterization("a")
        for one in (newer, older):
            await site.bus.jetstream.publish(subject, one.to_json(), one.id)
        await site.say(nodes.characterization("z", site.mc))
        await until(lambda: monitor.fleet.node("z"), "what came after")
        assert monitor.answers.node("a").characterization.rack == "new"


async def test_a_node_that_is_lost_has_no_metrics_until_it_is_back(site: Site) -> None:
    async with site.monitor() as (monitor, http):
        await site.say(nodes.characterization("a", site.mc), nodes.presence("a"), nodes.measurement("a"))
        await until(lambda: (node := monitor.fleet.node("a")) and node.values, "a sample")
        await site.say(nodes.presence("a", online=False, reason="connection lost"))
        await until(lambda: monitor.answers.node("a").state == "lost", "lost")
        assert (await http.get("/v1/nodes/a")).json()["metrics"] == {}
        await site.say(nodes.presence("a", session="a2"), nodes.measurement("a"))
        await until(lambda: monitor.answers.node("a").metrics, "back")
        assert monitor.answers.node("a").state == "alive"


async def test_silence_makes_a_node_stale_then_lost(site: Site) -> None:
    async with site.monitor(stale_after=0.3, lost_after=1.2) as (monitor, _):
        await site.say(nodes.characterization("a", site.mc), nodes.measurement("a", interval=0.05))
        await until(lambda: monitor.fleet.node("a"), "a")
        seen = []
        while "lost" not in seen:
            await until(lambda: monitor.answers.node("a").state not in seen, "the next state")
            seen.append(monitor.answers.node("a").state)
        assert seen[-2:] == ["stale", "lost"]


async def test_who_speaks_for_another_is_buried(site: Site) -> None:
    async with site.monitor() as (monitor, _):
        await site.bus.publish(
            site.bus.subjects.characterization("a"), nodes.characterization("b", site.mc), about="a"
        )
        async with (
            asyncio.timeout(15),
            site.bus.watch({site.bus.subjects.dead("monitor"): DeadLetter}) as letters,
        ):
            async for letter in letters:
                if letter.event is not None:
                    assert "speaks of node 'b'" in letter.event.data.reason
                    break
        assert monitor.fleet.nodes() == []


async def test_metrics_that_nobody_foresaw_are_bounded(site: Site) -> None:
    async with site.monitor(most_attributes=2) as (monitor, http):
        await site.say(nodes.characterization("a", site.mc))
        await site.say(nodes.measurement("a", load_1m=1, x1=1, x2=2, x3=3, x4=4))
        await until(lambda: monitor.fleet.refused == 2, "two refused")
        assert set(monitor.answers.node("a").metrics) == {"load.1m", "memory.available", "x1", "x2"}
        page = (await http.get("/metrics")).text
        assert "monitor_refused_values 2.0" in page


async def test_killed_and_started_again_it_answers_the_same(site: Site) -> None:
    port = free_port()
    settings = site.settings()
    environment = {
        **os.environ,
        "MINICLOUD_MINICLOUD": site.mc,
        "MINICLOUD_BROKER": settings.broker,
        "MINICLOUD_USER": settings.user,
        "MINICLOUD_PASSWORD": settings.password,
        "MINICLOUD_HTTP_PORT": str(port),
        "MINICLOUD_API_TOKEN": TOKEN,
    }

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.monitor", env=environment, stderr=asyncio.subprocess.DEVNULL
        )

    async def names(count: int) -> list[str]:
        found: list[str] = []
        async with (
            asyncio.timeout(30),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=known) as http,
        ):
            while len(found) < count:
                try:
                    answer: dict[str, Any] = (await http.get("/v1/nodes")).json()
                    found = [node["name"] for node in answer.get("nodes", [])]
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        return found

    known = {"Authorization": f"Bearer {TOKEN}"}
    process = await start()
    try:
        await site.say(nodes.characterization("a", site.mc))
        assert await names(1) == ["a"]
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await site.say(nodes.characterization("b", site.mc))
        process = await start()
        assert await names(2) == ["a", "b"]
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
