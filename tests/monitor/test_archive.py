"""The archive in MongoDB: the present and the past of each agent, restarts, and MongoDB away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

from schemas.errors import InvalidDocument
from schemas.node import Characterization
from services.monitor.archive import Archive
from tests.monitor.conftest import Site
from tests.parts.mongodb import MongoServer
from tests.rid import nodes
from tests.rid.nodes import until

Stored = Database[dict[str, Any]]


@pytest.fixture
def kept(mongodb: str, mc: str) -> Iterator[Stored]:
    """The database that a monitor of this minicloud makes for itself."""
    with MongoClient[dict[str, Any]](mongodb, tz_aware=True) as client:
        yield client[f"minicloud_{mc}"]
        client.drop_database(f"minicloud_{mc}")


async def _count(kept: Stored, count: int, **which: Any) -> None:
    async with asyncio.timeout(20):
        found = -1
        while found != count:
            await asyncio.sleep(0.02)
            with suppress(OperationFailure):  # the server that stands in fails a count beside an insert
                found = await asyncio.to_thread(kept["characterization_history"].count_documents, which)


async def test_the_present_and_the_past_are_kept_under_the_agents_id(
    site: Site, kept: Stored, mongodb: str
) -> None:
    async with site.monitor(mongodb_url=mongodb) as (_, http):
        said = [
            nodes.characterization("a", site.mc, rack=f"r{at}", labels={"a.b": "x", "$c": "y"})
            for at in range(8)
        ]
        await site.say(*said, nodes.characterization("b", site.mc))
        await _count(kept, 9)
        found = kept["characterizations"].find_one({"_id": "id-of-a"})
        assert found is not None
        assert (found["node"], found["minicloud"]) == ("a", site.mc)
        assert found["attributes"]["label:a:b"] == "x"
        assert Characterization.model_validate_json(found["document"]) == said[-1]
        assert kept["characterizations"].count_documents({}) == 2
        assert kept["characterization_history"].count_documents({"agent": "id-of-a"}) == 8
        # More than the five that the bus keeps.
        told = (await http.get("/v1/nodes/a/characterizations", params={"limit": 6})).json()
        assert told["source"] == "mongodb"
        assert [one["characterization"]["rack"] for one in told["characterizations"]] == [
            f"r{at}" for at in (7, 6, 5, 4, 3, 2)
        ]
        told = (await http.get("/v1/nodes/a/characterizations", params={"before": told["next"]})).json()
        assert [one["characterization"]["rack"] for one in told["characterizations"]] == ["r1", "r0"]


async def test_a_restart_knows_what_the_bus_dropped(site: Site, kept: Stored, mongodb: str) -> None:
    async with site.monitor(mongodb_url=mongodb):
        await site.say(nodes.characterization("a", site.mc))
        await _count(kept, 1)
    await site.bus.jetstream.api(f"STREAM.PURGE.{site.mc}_characterizations")
    async with site.monitor() as (monitor, _):
        assert monitor.fleet.nodes() == []
    async with site.monitor(mongodb_url=mongodb) as (monitor, _):
        assert [node.name for node in monitor.fleet.nodes()] == ["a"]
        await site.say(nodes.characterization("a", site.mc, rack="newer"))
        await until(lambda: monitor.answers.node("a").characterization.rack == "newer", "the newer word")


async def test_what_came_while_nobody_archived_is_archived_later_and_once(
    site: Site, kept: Stored, mongodb: str
) -> None:
    async with site.monitor(mongodb_url=mongodb):
        await site.say(nodes.characterization("a", site.mc))
        await _count(kept, 1)
    await site.say(nodes.characterization("a", site.mc, rack="r2"))
    for _ in range(2):
        async with site.monitor(mongodb_url=mongodb):
            await _count(kept, 2)


async def test_a_mongodb_that_is_away_is_waited_for(
    site: Site, part: Callable[[MongoServer], MongoServer], tmp_path: Path
) -> None:
    server = part(MongoServer()).start(tmp_path / "mongodb")
    port = server.port
    try:
        async with site.monitor(mongodb_url=server.url) as (monitor, http):
            await site.say(nodes.characterization("a", site.mc))
            with MongoClient[dict[str, Any]](server.url) as client:
                await _count(client[f"minicloud_{site.mc}"], 1)
            await asyncio.to_thread(server.kill)
            await site.say(nodes.characterization("b", site.mc))
            await until(lambda: monitor.archive and monitor.archive.failing, "it is noticed", 30)
            assert "monitor_archive_failing 1.0" in (await http.get("/metrics")).text
            # Whoever asks is answered from the bus's word.
            assert [node["name"] for node in (await http.get("/v1/nodes")).json()["nodes"]] == ["a", "b"]
            assert (await http.get("/v1/nodes/a/characterizations")).status_code == 503
            server = await asyncio.to_thread(MongoServer().start, tmp_path / "mongodb", port)
            with MongoClient[dict[str, Any]](server.url) as client:
                # Of the first, a server that is killed may have lost what it said that it had.
                await _count(client[f"minicloud_{site.mc}"], 1, node="b")
            await until(lambda: monitor.archive and not monitor.archive.failing, "it goes on", 30)
            assert monitor.frame.bus.buried == 0
    finally:
        await asyncio.to_thread(server.kill)


async def test_it_stops_in_time_while_mongodb_is_away(site: Site) -> None:
    async with site.monitor(mongodb_url="mongodb://127.0.0.1:9") as (monitor, _):
        await site.say(nodes.characterization("a", site.mc))
        await until(lambda: monitor.archive and monitor.archive.failing, "it is noticed", 30)
    info = await site.bus.jetstream.api(f"CONSUMER.INFO.{site.mc}_characterizations.monitor")
    assert info["num_pending"] + info["num_ack_pending"] == 1


def test_a_wrong_url_is_told() -> None:
    with pytest.raises(InvalidDocument, match="mongodb_url"):
        Archive("http://x", "db", 1)
