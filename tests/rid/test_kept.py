"""Kept queries on a real broker: a device that cannot ask reads the best node's name, retained on MQTT."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bus.bus import Bus
from bus.credentials import Credentials
from bus.port import Endpoint
from schemas.errors import InvalidDocument, InvalidQuery, NotFound, Unavailable
from tests.bus.clients import MqttClient
from tests.rid import nodes
from tests.rid.nodes import until
from tests.rid.test_service import Site, site

__all__ = ["site"]


async def _next(client: MqttClient) -> tuple[Any, bool]:
    """What is published next, and whether it was retained."""
    message = await asyncio.to_thread(client.next)
    return (json.loads(message.payload) if message.payload else None), bool(message.retain)


async def _keep(site: Site, name: str, **query: Any) -> str:
    answer = await site.bus.request("rid", "keep", {"name": name, "query": query})
    return str(answer["topic"])


async def test_a_device_has_the_best_nodes_name(site: Site, credentials: Credentials) -> None:
    device = credentials.add("device", "thermo-1")
    async with site.rid(mqtt=site.broker.mqtt_url) as (rid, _):
        for name, load in (("a", 0.5), ("b", 0.9)):
            await site.say(nodes.characterization(name, site.mc), nodes.measurement(name, load_1m=load))
        await until(lambda: rid.answers.query({"where": "load.1m<1"}).total == 2, "both")
        where = await _keep(site, "best", where="load.1m<1", sort=[{"load.1m": "asc"}])
        assert where == f"mc/{site.mc}/query/best/answer"
        with MqttClient(site.broker, device) as client:
            assert client.subscribe(where)
            assert (await _next(client))[0] == ["a"]
            await site.say(nodes.measurement("b", load_1m=0.1))
            assert await _next(client) == (["b"], False)
            await _keep(site, "best", where="load.1m<1", sort=[{"load.1m": "desc"}], limit=2)
            assert await _next(client) == (["a", "b"], False)
            await site.say(nodes.measurement("a", load_1m=5), nodes.measurement("b", load_1m=5))
            while (await _next(client))[0] != []:
                pass
        with MqttClient(site.broker, device) as late:
            assert late.subscribe(where)
            assert await _next(late) == ([], True), "retained: who comes late has it too"
            await site.bus.request("rid", "forget", {"name": "best"})
            assert (await _next(late))[0] is None
        assert (await site.bus.request("rid", "kept"))["queries"] == []


async def test_kept_queries_survive_their_rid_and_only_changes_are_published(
    site: Site, credentials: Credentials
) -> None:
    device = credentials.add("device", "thermo-1")
    async with site.rid(mqtt=site.broker.mqtt_url) as (rid, _):
        await site.say(nodes.characterization("a", site.mc, rack="r1"))
        await until(lambda: "a" in rid.index, "a")
        where = await _keep(site, "r1", where="rack=r1", limit=3)
        with MqttClient(site.broker, device) as client:
            client.subscribe(where)
            assert (await _next(client))[0] == ["a"]
    with MqttClient(site.broker, device) as client:
        client.subscribe(where)
        assert await _next(client) == (["a"], True)
        async with site.rid(mqtt=site.broker.mqtt_url) as (rid, _):
            listed = await site.bus.request("rid", "kept")
            assert listed["queries"][0]["query"] == {"where": "rack=r1", "limit": 3}
            await site.say(
                nodes.characterization("b", site.mc, rack="r1"), nodes.characterization("c", site.mc)
            )
            while (told := (await _next(client))[0]) != ["a", "b"]:
                assert told == ["a"], "once more by the new rid, which cannot know"


async def test_wrong_wishes_are_refused(site: Site, credentials: Credentials) -> None:
    async with site.rid(mqtt=site.broker.mqtt_url):
        for query, field in (
            ({"where": "lod.1m<1"}, "where"),
            ({"limit": 100}, "limit"),
            ({"fields": ["name"]}, "fields"),
            ({"at": "-1m"}, "at"),
        ):
            with pytest.raises(InvalidQuery) as caught:
                await _keep(site, "x", **query)
            assert caught.value.field == field
        with pytest.raises(InvalidDocument):
            await _keep(site, "a.b")
        with pytest.raises(NotFound):
            await site.bus.request("rid", "forget", {"name": "x"})
        eve = credentials.add("viewer", "eve")
        endpoint = Endpoint(site.access["broker"], eve.user, eve.password, eve.inbox_prefix)
        async with await Bus.connect(endpoint, site.mc, "viewer") as bus:
            with pytest.raises(Unavailable):
                await bus.request("rid", "keep", {"name": "x"}, timeout=0.5)
        assert (await site.bus.request("rid", "kept"))["queries"] == []
