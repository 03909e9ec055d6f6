"""Standing queries on a real broker and a real rid: over the bus, over HTTP, resumed, behind, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from bus.bus import Bus
from bus.credentials import Credentials
from bus.http import serve_http
from bus.port import Endpoint
from bus.standing import standing
from schemas.errors import InvalidDocument, InvalidQuery, NotFound, TooOld
from schemas.standing import WINDOW, Delivery, StandingItem
from services.rid.service import Rid
from tests.rid import nodes
from tests.rid.nodes import until
from tests.rid.test_service import Site, site

__all__ = ["site"]


class Reader:
    """Whoever watches: holds what it was told, and remembers the kinds."""

    def __init__(self, items: AsyncIterator[StandingItem]) -> None:
        self._items = items
        self.held: dict[str, dict[str, Any]] = {}
        self.told: list[tuple[str, str | None]] = []
        self.revision = 0

    async def until(self, condition: Callable[[Reader], Any], what: str) -> StandingItem:
        """Read until the condition holds after an item; returns that item."""
        try:
            async with asyncio.timeout(20):
                async for item in self._items:
                    item.apply(self.held)
                    self.told.append((item.kind, item.node))
                    self.revision = item.revision
                    if condition(self):
                        return item
        except TimeoutError:
            raise AssertionError(f"not told within 20 s: {what}; told {self.told[-20:]}") from None
        raise AssertionError(f"ended before: {what}")

    async def synced(self) -> StandingItem:
        return await self.until(lambda reader: reader.told[-1][0] == "SYNC", "SYNC")


async def test_what_matches_then_what_comes_changes_and_goes(site: Site) -> None:
    async with site.rid() as (rid, _):
        await site.say(nodes.characterization("a", site.mc), nodes.measurement("a", load_1m=0.5))
        await site.say(nodes.characterization("b", site.mc), nodes.measurement("b", load_1m=2))
        await until(lambda: len(rid.index) == 2, "both")
        await site.until_asked(lambda answer: answer["total"] == 1, "a", where="load.1m<1")
        async with standing(site.bus, {"where": "load.1m<1", "fields": ["rack"]}) as items:
            reader = Reader(items)
            await reader.synced()
            assert reader.told == [("ITEM", "a"), ("SYNC", None)]
            await site.say(nodes.measurement("b", load_1m=0.9))
            await reader.until(lambda r: r.told[-1] == ("ENTER", "b"), "b enters")
            await site.say(nodes.characterization("a", site.mc, rack="r1"))
            item = await reader.until(lambda r: r.told[-1] == ("UPDATE", "a"), "a changes")
            assert item.attributes == {"name": "a", "rack": "r1"}
            await site.say(nodes.measurement("a", load_1m=3))
            await reader.until(lambda r: r.told[-1] == ("LEAVE", "a"), "a leaves")
            await site.say(nodes.presence("b", online=False, reason="connection lost"))
            await reader.until(lambda r: r.told[-1] == ("LEAVE", "b"), "lost nodes leave")
            assert reader.held == {}
            assert len(rid.deliveries) == 1
        await until(lambda: not rid.deliveries and not rid.standing, "a reader that went is forgotten")


async def test_a_reader_whose_inbox_nobody_reads_is_forgotten(site: Site) -> None:
    async with site.rid() as (rid, _):
        inbox = site.bus.wire.inbox()
        await site.bus.request("rid", "watch", {"query": {"where": "gpu"}, "deliver": inbox})
        await until(lambda: not rid.deliveries and not rid.standing, "forgotten")


async def test_a_reader_that_does_not_acknowledge_gets_a_window_and_no_more(site: Site) -> None:
    async with site.rid() as (rid, _):
        for at in range(WINDOW + 300):
            rid.standing.written.put(f"n{at}", {"state": "alive"})
        inbox, got = site.bus.wire.inbox(), []

        async def on_message(message: Any) -> None:
            got.append(Delivery.model_validate_json(message.data))

        await site.bus.wire.subscribe(inbox, on_message)
        told = await site.bus.request("rid", "watch", {"deliver": inbox, "query": {"fields": ["name"]}})
        await until(lambda: sum(len(one.items) for one in got) >= WINDOW, "a window")
        reader = rid.deliveries._readers[told["watch"]]
        assert not reader.room.is_set()
        assert sum(len(one.items) for one in got) < WINDOW + 300
        instance = told["acknowledge"].split(".")[-1]
        word = {"watch": told["watch"], "sequence": got[-1].sequence}
        await site.bus.request("rid", "acknowledge", word, instance=instance)
        await until(lambda: got[-1].items[-1].kind == "SYNC", "the rest")
        assert sum(item.kind == "ITEM" for one in got for item in one.items) == WINDOW + 300
        with pytest.raises(NotFound):
            await site.bus.request("rid", "acknowledge", {**word, "watch": "other"}, instance=instance)


async def test_wrong_wishes_are_refused(site: Site) -> None:
    async with site.rid() as (rid, _):
        for query, field in (({"where": "lod.1m<1"}, "where"), ({"limit": 3}, "limit")):
            with pytest.raises(InvalidQuery) as caught:
                async with standing(site.bus, query):
                    pass
            assert caught.value.field == field
        with pytest.raises(InvalidDocument):  # rid's rights must not be lent
            await site.bus.request("rid", "watch", {"deliver": f"mc.{site.mc}.node.a.desired.w"})
        assert not rid.standing


async def _logged(site: Site, rid: Rid, *data: Any) -> int:
    """Say something of one node and return the revision that the log has then."""
    before = rid.changes.revision
    await site.say(*data)
    await until(lambda: rid.changes.revision > before, "logged")
    return rid.changes.revision


async def test_resumed_after_a_revision_nothing_is_missed_and_nothing_else_is_told(site: Site) -> None:
    async with site.rid() as (rid, _):
        for name in ("a", "b", "c"):
            await _logged(site, rid, nodes.characterization(name, site.mc, rack="r1"))
        async with standing(site.bus, {"where": "rack=r1", "fields": ["rack"]}) as items:
            reader = Reader(items)
            await reader.synced()
            # A revision is claimed once all up to it was surely told.
            await reader.until(lambda r: r.revision >= 3, "a bookmark")
        await _logged(site, rid, nodes.characterization("b", site.mc, rack="r2"))
        await _logged(site, rid, nodes.characterization("d", site.mc, rack="r1"))
        since = reader.revision
        async with standing(site.bus, {"where": "rack=r1", "fields": ["rack"]}, since=since) as items:
            reader.told.clear()
            reader._items = items
            await reader.synced()
            assert sorted(reader.told[:-1]) == [("LEAVE", "b"), ("UPDATE", "d")]
            assert set(reader.held) == {"a", "c", "d"}
        async with standing(site.bus, {"where": "memory.available>1"}, since=since) as items:
            moving = Reader(items)
            await moving.synced()
            assert moving.told[0] == ("RESYNC", None)
        with pytest.raises(TooOld):
            async with standing(site.bus, {"where": "rack=r1"}, since=10_000):
                pass
        name = f"{site.mc}_resources"
        await site.bus.jetstream.api(f"STREAM.PURGE.{name}", {"seq": 3})
        with pytest.raises(TooOld) as caught:
            async with standing(site.bus, {"where": "rack=r1"}, since=1):
                pass
        assert caught.value.expected == "2 or later"


async def test_a_reader_survives_the_end_of_its_rid(site: Site) -> None:
    async with AsyncExitStack() as reading:
        async with site.rid() as (rid, _):
            await site.say(nodes.characterization("a", site.mc, rack="r1"))
            await until(lambda: "a" in rid.index, "a")
            ask = {"where": "rack=r1", "fields": ["rack"]}
            reader = Reader(await reading.enter_async_context(standing(site.bus, ask)))
            await reader.synced()
            assert set(reader.held) == {"a"}
        async with site.rid():
            await site.say(nodes.characterization("b", site.mc, rack="r1"))
            await reader.until(lambda r: set(r.held) == {"a", "b"}, "b, told by the next rid")


@pytest.mark.parametrize("role", ["user", "viewer"])
async def test_users_and_viewers_may_watch_and_only_what_is_theirs(
    site: Site, credentials: Credentials, role: Any
) -> None:
    mine = credentials.add(role, "eve")
    endpoint = Endpoint(site.access["broker"], mine.user, mine.password, mine.inbox_prefix)
    async with site.rid() as (rid, _), await Bus.connect(endpoint, site.mc, role) as bus:
        await site.say(nodes.characterization("a", site.mc))
        await until(lambda: "a" in rid.index, "a")
        async with standing(bus, {"where": "gpu=false"}) as items:
            reader = Reader(items)
            await reader.synced()
            assert set(reader.held) == {"a"}
        for verb, document in (
            ("node", {"node": "a"}),
            ("nodes", {"where": "gpu=false"}),
            ("attributes", {}),
            ("explain", {"where": "gpu=false"}),
        ):
            assert await bus.request("rid", verb, document)


# -- HTTP ----------------------------------------------------------------------------------------


class Http:
    """rid's HTTP, and a client for it."""

    def __init__(self, site: Site, **settings: Any) -> None:
        self._rid = site.rid(http_port=0, **settings)

    async def __aenter__(self) -> tuple[Rid, httpx.AsyncClient]:
        rid, frame = await self._rid.__aenter__()
        self._server = await serve_http(frame)
        self._client = httpx.AsyncClient(base_url=self._server.url, timeout=20)
        return rid, self._client

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()
        await self._server.stop()
        await self._rid.__aexit__(None, None, None)


async def _lines(response: httpx.Response) -> AsyncIterator[StandingItem]:
    async for line in response.aiter_lines():
        yield StandingItem.model_validate_json(line)


async def _events(response: httpx.Response, ids: list[str]) -> AsyncIterator[StandingItem]:
    """By the letter of the format: an event ends with an empty line."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
            continue
        if "data" in event:
            item = StandingItem.model_validate_json(event["data"])
            assert event["event"] == item.kind
            if "id" in event:
                ids.append(event["id"])
            yield item
        event = {}


Open = Callable[[httpx.Response], AsyncIterator[StandingItem]]


@pytest.mark.parametrize("engine", ["rows", "columns"])
@pytest.mark.parametrize("form", ["sse", "ndjson"])
async def test_watching_over_http(site: Site, engine: str, form: str) -> None:
    async with Http(site, engine=engine) as (rid, http):
        await site.say(nodes.characterization("a", site.mc), nodes.measurement("a", load_1m=0.5))
        await until(lambda: rid.answers.query({"where": "load.1m<1"}).total == 1, "a")
        ids: list[str] = []
        accept = {"accept": "text/event-stream"} if form == "sse" else {}
        ask = {"where": "load.1m<1", "fields": "rack"}
        async with http.stream("GET", "/v1/watch", params=ask, headers=accept) as response:
            assert response.status_code == 200
            assert ("event-stream" in response.headers["content-type"]) is (form == "sse")
            reader = Reader(_events(response, ids) if form == "sse" else _lines(response))
            await reader.synced()
            assert reader.told == [("ITEM", "a"), ("SYNC", None)]
            await site.say(
                nodes.characterization("b", site.mc, rack="r1"), nodes.measurement("b", load_1m=0.2)
            )
            item = await reader.until(lambda r: "b" in r.held, "b")
            assert item.attributes == {"name": "b", "rack": "r1"}
            if form == "sse":
                assert ids[0].isdigit(), "SYNC is the first that can be resumed from"
        await until(lambda: not rid.standing, "forgotten when the connection ends", within=20)


async def test_a_watch_is_asked_by_a_document_too_and_ends_with_rid(site: Site) -> None:
    async with Http(site) as (rid, http):
        await site.say(nodes.characterization("a", site.mc))
        await until(lambda: "a" in rid.index, "a")
        asked = {"where": {"cpu.cores": {"$gte": 2}}, "fields": ["cpu.cores"]}
        async with http.stream("POST", "/v1/watch", json=asked, params={"format": "ndjson"}) as response:
            reader = Reader(_lines(response))
            await reader.synced()
            assert reader.held == {"a": {"name": "a", "cpu.cores": 4}}
            rid.standing.close()
            assert [item async for item in reader._items] == []


async def test_resuming_over_http(site: Site) -> None:
    async with Http(site) as (rid, http):
        for name in ("a", "b"):
            await _logged(site, rid, nodes.characterization(name, site.mc, rack="r1"))
        ask = {"where": "rack=r1", "fields": "rack"}
        headers = {"accept": "text/event-stream", "last-event-id": "1"}
        ids: list[str] = []
        async with http.stream("GET", "/v1/watch", params=ask, headers=headers) as response:
            reader = Reader(_events(response, ids))
            await reader.synced()
            assert reader.told == [("UPDATE", "b"), ("SYNC", None)]
        gone = await http.get("/v1/watch", params={**ask, "since": 999})
        assert (gone.status_code, gone.json()["code"]) == (410, "TooOld")


async def _refused(answer: Awaitable[httpx.Response]) -> tuple[int, str, str | None]:
    got = await answer
    assert got.headers["content-type"] == "application/json"
    problem = got.json()
    assert problem["message"]
    return got.status_code, problem["code"], problem["expected"]


async def test_whatever_is_wrong_is_told_as_json_with_the_right_status(site: Site) -> None:
    async with Http(site) as (_, http):
        assert await _refused(http.get("/v1/query")) == (405, "MethodNotAllowed", "POST")
        assert (await _refused(http.get("/v1/nothing")))[:2] == (404, "NotFound")
        assert (await _refused(http.get("/v1/nodes/nobody")))[:2] == (404, "NotFound")
        assert (await _refused(http.get("/v1/watch", params={"wher": "gpu"})))[:2] == (400, "InvalidQuery")
        assert (await _refused(http.get("/v1/watch", params={"since": "-1"})))[:2] == (400, "InvalidQuery")
        assert await _refused(http.get("/v1/watch", params={"format": "xml"})) == (
            400,
            "InvalidQuery",
            "sse or ndjson",
        )
        assert (await _refused(http.post("/v1/watch", json={"sort": [{"load.1m": "asc"}]})))[0] == 400
        assert (await _refused(http.post("/v1/explain", json={"where": {"lod.1m": 1}})))[2] == "load.1m"
        for path in ("/v1/query", "/v1/watch", "/v1/explain"):
            for noise in (b"\x00\xff", b"[1]", b"{" * 1000, b'"x"', b"3", b"NaN"):
                assert (await _refused(http.post(path, content=noise)))[0] == 400, (path, noise)
            large = await _refused(http.post(path, content=b"x" * 2_000_000))
            assert large[:2] == (413, "TooLarge")


async def test_an_answer_is_not_held_back_until_its_head_is_acknowledged(site: Site) -> None:
    async with Http(site) as (_, http):
        url = http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        taken = []
        for _ in range(40):
            begun = asyncio.get_running_loop().time()
            writer.write(b"GET /v1/attributes HTTP/1.1\r\nHost: rid\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
            taken.append(asyncio.get_running_loop().time() - begun)
        writer.close()
        # Linux acknowledges the first few packets at once; later it waits for 40 ms, each time.
        assert min(taken[20:]) < 0.03


async def test_attributes_tell_kinds_units_and_the_values_seen(site: Site) -> None:
    for engine in ("rows", "columns"):
        async with Http(site, engine=engine) as (rid, http):
            for name, load, city in (("a", 0.5, "Athens"), ("b", 2.5, "Pisa"), ("c", 1.0, "Pisa")):
                await site.say(
                    nodes.characterization(name, site.mc, region={"city": city}),
                    nodes.measurement(name, load_1m=load, my_metric=7),
                )
            await until(lambda rid=rid: rid.answers.query({"where": "load.1m>0"}).total == 3, "all")
            listed = (await http.get("/v1/attributes")).json()["attributes"]
            seen = {one["name"]: one for one in listed}
            assert [seen["load.1m"][part] for part in ("kind", "nodes", "least", "most")] == [
                "number",
                3,
                0.5,
                2.5,
            ]
            assert (seen["memory.total"]["unit"], seen["my.metric"]["most"]) == ("B", 7)
            assert (seen["region.city"]["distinct"], seen["region.city"]["values"]) == (2, ["Pisa", "Athens"])
            assert seen["runtimes"]["values"] == ["container", "process", "unikernel"]
            assert seen["gpu"]["values"] == [False]
            assert 0 <= seen["age"]["least"] <= seen["age"]["most"] < 60
            over_the_bus = (await site.bus.request("rid", "attributes"))["attributes"]
            assert [one["name"] for one in over_the_bus] == list(seen)


@pytest.mark.parametrize("engine", ["rows", "columns"])
async def test_explain_tells_the_order_and_what_each_condition_leaves(site: Site, engine: str) -> None:
    async with Http(site, engine=engine) as (rid, http):
        for at in range(200):
            load = at + 0.1
            rid.standing.written.put(f"n{at:03}", {"load.1m": load, "gpu": at == 7, "state": "alive"})
        asked = {"where": {"load.1m": {"$lt": 100}, "gpu": True, "disk.free": {"$exists": False}}, "limit": 3}
        told = (await http.post("/v1/explain", json=asked)).json()
        assert (told["engine"], told["nodes"], told["total"]) == (engine, 200, 1)
        steps = [(step["condition"], step["by"], step["tested"], step["left"]) for step in told["steps"]]
        if engine == "rows":
            assert steps == [
                ("load.1m < 100", "row", 200, 100),
                ("gpu true", "row", 100, 1),
                ("disk.free absent", "row", 1, 1),
                ("state != lost", "row", 1, 1),
            ]
            assert told["steps"][0]["selectivity"] == 0.5
        else:  # what nobody has costs nothing to test, a bool one byte a row, a load eight
            assert steps == [
                ("disk.free absent", "mask", 200, 200),
                ("gpu true", "mask", 200, 1),
                ("state != lost", "gather", 1, 1),
                ("load.1m < 100", "gather", 1, 1),
            ]
            assert told["steps"][1]["selectivity"] == 0.005
        assert 0 < told["steps"][0]["seconds"] < 1
        spelled = await http.get("/v1/explain", params={"where": "load.1m<50,age<10", "sort": "load.1m:desc"})
        assert spelled.json()["sorted_by"] == ["-load.1m"]
        assert ["age"] in [step["attributes"] for step in spelled.json()["steps"]]
        over_the_bus = await site.bus.request("rid", "explain", asked)
        assert [step["left"] for step in over_the_bus["steps"]] == [step[3] for step in steps]


async def test_nodes_over_the_bus_are_asked_as_in_a_url(site: Site) -> None:
    async with site.rid() as (rid, _):
        for name, load in (("a", 0.5), ("b", 0.2), ("c", 2.0)):
            rid.standing.written.put(name, {"load.1m": load, "state": "alive"})
        ask = {"where": "load.1m<1", "sort": "load.1m:asc", "fields": "load.1m", "limit": "5"}
        answer = await site.bus.request("rid", "nodes", ask)
        assert answer["nodes"] == [{"name": "b", "load.1m": 0.2}, {"name": "a", "load.1m": 0.5}]
        with pytest.raises(InvalidQuery):
            await site.bus.request("rid", "nodes", {"wher": "gpu"})
