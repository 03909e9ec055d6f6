"""rid on a real broker: from an event to an answer, the change log, restarts, two of a kind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential, Credentials
from bus.frame import Frame
from bus.http import serve_http
from schemas.dead import DeadLetter
from schemas.errors import InvalidQuery, MinicloudError, NotFound, Unavailable
from schemas.resource import ResourceChange
from services.rid.service import Rid
from services.rid.settings import RidSettings
from tests.rid import nodes
from tests.rid.nodes import GIB, until


class Site:
    """A minicloud of the test's own: a bus for the test, and as many rids as it wants."""

    def __init__(self, broker: Broker, admin: Credential, mc: str, bus: Bus) -> None:
        self.bus = bus
        self.mc = mc
        self.broker = broker
        self.access = {"broker": broker.url, "user": admin.user, "password": admin.password}

    def settings(self, **more: Any) -> RidSettings:
        return RidSettings.load({}, minicloud=self.mc, **self.access, **more)

    @asynccontextmanager
    async def rid(self, **more: Any) -> AsyncIterator[tuple[Rid, Frame[RidSettings]]]:
        settings = self.settings(**more)
        bus = await Bus.connect(settings.endpoint("rid"), self.mc, "rid")
        frame = Frame("rid", settings, bus)
        rid = Rid(frame)
        task = asyncio.create_task(rid.run())
        try:
            await until(lambda: frame.ready or task.done(), "rid ready")
            yield rid, frame
        finally:
            frame.stopping.set()
            await asyncio.wait_for(task, 10)
            await frame.close()
            await bus.close()

    async def say(self, *data: Any) -> None:
        """Publish what a node's agent, worker or vim says."""
        s = self.bus.subjects
        for one in data:
            kind = type(one).__name__
            subject = {
                "Characterization": s.characterization,
                "Measurement": s.metrics,
                "Presence": s.presence,
                "WorkerStatus": s.worker,
            }.get(kind)
            where = subject(one.node) if subject else s.desired(one.node, one.workload)
            await self.bus.publish(where, one, about=one.node)

    async def ask(self, where: Any = "", **more: Any) -> dict[str, Any]:
        return await self.bus.request("rid", "query", {"where": where, **more})

    async def names(self, where: Any = "", **more: Any) -> list[str]:
        return [node["name"] for node in (await self.ask(where, **more))["nodes"]]

    async def until_asked(
        self, condition: Callable[[dict[str, Any]], Any], what: str, **ask: Any
    ) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + 15
        while True:
            answer: dict[str, Any] = {"nodes": [], "total": 0}
            with suppress(Unavailable):
                answer = await self.ask(**ask)
            if condition(answer):
                return answer
            assert asyncio.get_running_loop().time() < deadline, what
            await asyncio.sleep(0.02)

    async def log(self, count: int, since: int | None = 0) -> list[ResourceChange]:
        """The first ``count`` events of the change log."""
        found: list[ResourceChange] = []
        async with (
            asyncio.timeout(15),
            self.bus.watch({self.bus.subjects.resource(): ResourceChange}, since=since) as items,
        ):
            async for item in items:
                if item.event:
                    found.append(item.event.data)
                if len(found) == count:
                    return found
        raise AssertionError


@pytest.fixture
async def site(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Site]:
    settings = RidSettings.load({}, minicloud=mc, broker=broker.url, user=admin.user, password=admin.password)
    bus = await Bus.connect(settings.endpoint("tests"), mc, "tests")
    await bus.ensure_streams()
    try:
        yield Site(broker, admin, mc, bus)
    finally:
        for stream in (await bus.jetstream.api("STREAM.NAMES", {"subject": f"mc.{mc}.>"}))["streams"] or []:
            await bus.jetstream.api(f"STREAM.DELETE.{stream}")
        await bus.close()


async def test_an_event_becomes_an_answer_and_a_change(site: Site) -> None:
    async with site.rid() as (rid, _):
        await site.say(
            nodes.characterization("a", site.mc), nodes.presence("a"), nodes.worker("a", "process")
        )
        await site.say(nodes.measurement("a", load_1m=0.5))
        answer = await site.until_asked(
            lambda answer: answer["total"], "found", where="worker,load.1m<1,runtimes=process"
        )
        assert answer["nodes"][0]["name"] == "a"
        assert answer["nodes"][0]["memory.available"] == 4 * GIB
        assert 0 <= answer["nodes"][0]["age"] < 10
        assert answer["coverage"][0]["minicloud"] == site.mc
        assert answer["coverage"][0]["nodes"] == 1
        (joined,) = await site.log(1)
        assert (joined.node, joined.kind) == ("a", "joined")
        assert joined.attributes["cpu.arch"] == "x86_64"
        await site.say(nodes.presence("a", online=False, reason="connection lost"))
        assert await site.until_asked(lambda answer: not answer["total"], "lost nodes are left out")
        assert await site.names({"state": "lost"}) == ["a"]
        await _written(rid, a={"state": "lost"})
        changes = await site.log(rid.changes.revision)
        assert changes[-1].kind == "lost"
        assert changes[-1].changed["state"] == "lost"


async def test_the_reasons_of_those_that_do_not_match(site: Site) -> None:
    async with site.rid():
        for name, memory in (("a", 64 * 1024**2), ("b", 64 * 1024**2 + 5), ("c", GIB)):
            await site.say(
                nodes.characterization(name, site.mc), nodes.measurement(name, memory_available=memory)
            )
        await site.say(nodes.characterization("d", site.mc), nodes.worker("d", "process"))
        await site.say(
            nodes.characterization("e", site.mc), nodes.presence("e", online=False, reason="stopping")
        )
        where = {"$and": [{"memory.available": {"$gte": "128MiB"}}, {"worker": True}]}
        await site.until_asked(lambda answer: answer["total"] == 5, "all", where={"state": {"$exists": True}})
        answer = await site.ask(where, explain=True)
        assert answer["nodes"] == []
        reasons = {group["reason"]: (group["nodes"], group["count"]) for group in answer["rejected"]}
        assert reasons == {
            "memory.available 64MiB < 128MiB": (["a", "b"], 2),
            "memory.available is not known, wanted >= 128MiB": (["d", "e"], 2),
            "worker is not known, wanted true": (["c"], 1),
        }
        answer = await site.ask("cpu.arch=x86_64,runtimes=vm", explain=True)
        assert answer["rejected"][0] == {
            "reason": "runtimes is container, process, unikernel, wanted with vm",
            "attribute": "runtimes",
            "wanted": "with vm",
            "had": "container, process, unikernel",
            "nodes": ["a", "b", "c", "e"],
            "count": 4,
            "minicloud": None,
        }
        answer = await site.ask("cpu.arch=x86_64", explain=True)
        assert [(group["reason"], group["nodes"]) for group in answer["rejected"]] == [
            ("state is lost, wanted != lost", ["e"])
        ]


async def test_bad_questions_and_bad_events_are_told_and_the_flow_goes_on(site: Site) -> None:
    async with site.rid():
        with pytest.raises(InvalidQuery) as caught:
            await site.ask({"memory.avail": {"$gte": 1}})
        assert caught.value.expected == "memory.available"
        with pytest.raises(InvalidQuery):
            await site.ask("", limit="many")
        with pytest.raises(MinicloudError):
            await site.bus.request("rid", "query", {"nonsense": 1})
        with pytest.raises(NotFound):
            await site.bus.request("rid", "node", {"node": "nobody"})
        s = site.bus.subjects
        letters: list[DeadLetter] = []

        async def on_letter(event: Any) -> None:
            letters.append(event.data)

        await site.bus.subscribe(s.dead("rid"), DeadLetter, on_letter)
        await site.bus.jetstream.publish(s.characterization("a"), b"\x00noise" * 1000, "m1")
        await site.bus.jetstream.publish(s.metrics("a"), b'{"node":"a"}', "m2")
        await site.bus.publish(s.characterization("a"), nodes.characterization("b", site.mc))
        await site.bus.publish(
            s.characterization("a"), nodes.characterization("a", site.mc, memory={"total": 10**500})
        )
        await site.say(nodes.characterization("c", site.mc))
        await site.until_asked(lambda answer: answer["total"] == 2, "the flow goes on")
        await until(lambda: len(letters) == 3, "three dead letters")
        assert any("data.node" in letter.reason for letter in letters)
        assert await site.names("memory.total>1") == ["c"]


async def test_an_event_wrong_in_every_place_stops_nobody(site: Site) -> None:
    event = json.loads(site.bus.event(nodes.characterization("noisy", site.mc)).to_json())
    event["data"]["disks"] = [0] * 60_000
    await site.bus.jetstream.publish(
        site.bus.subjects.characterization("noisy"), json.dumps(event).encode(), "noise"
    )
    for _ in range(2):  # the broker keeps it, so that every start meets it again
        async with site.rid() as (rid, frame):
            await site.say(nodes.characterization("a", site.mc))
            await until(lambda rid=rid: "a" in rid.index, "a after the noise")
            assert frame.bus.buried == 1
            assert frame.failure is None


@pytest.mark.parametrize("unit", ["x", "\x01"])
async def test_a_question_as_large_as_the_broker_takes_is_answered(site: Site, unit: str) -> None:
    async with site.rid() as (rid, _):
        await site.say(nodes.characterization("a", site.mc))
        await until(lambda: "a" in rid.index, "indexed")
        room = site.bus.wire.max_payload - 200
        name = unit * (room // len(json.dumps(unit)[1:-1]))
        with pytest.raises(InvalidQuery):
            await site.ask({name: 1})
        assert await site.names() == ["a"]


async def test_a_restart_reads_everything_back_and_publishes_only_what_changed(site: Site) -> None:
    async with site.rid() as (rid, _):
        for name in ("a", "b", "c"):
            await site.say(
                nodes.characterization(name, site.mc), nodes.presence(name), nodes.worker(name, "process")
            )
            await site.say(nodes.measurement(name, load_1m=0.5, my_metric=3))
        await site.say(nodes.desired("a", cpu=3))
        before = await site.until_asked(
            lambda answer: answer["total"] == 3, "three", where="worker,load.1m<1"
        )
        logged = await _written(
            rid, a={"worker": True, "allocatable.cpu": 1}, b={"worker": True}, c={"worker": True}
        )
    await site.say(nodes.characterization("b", site.mc, rack="r1"))
    await site.say(nodes.desired("a", state="stopped"))
    async with site.rid() as (rid, _):
        after = await site.ask("worker,load.1m<1,my.metric=3")
        assert [n["name"] for n in after["nodes"]] == [n["name"] for n in before["nodes"]]
        changes = await site.log(2, since=logged)
        assert {(c.node, c.kind) for c in changes} == {("a", "changed"), ("b", "changed")}
        assert {"rack", "allocatable.cpu"} <= {name for c in changes for name in c.changed}
        assert rid.changes.due() == []
        assert await _written(rid, a={"allocatable.cpu": 4}, b={"rack": "r1"}) == logged + 2


async def _written(rid: Rid, **wanted: dict[str, Any]) -> int:
    """The log's last revision once the last event of each node says what is wanted."""

    def says() -> bool:
        return all(
            wanted[node].items() <= (rid.changes.last(node).attributes or {}).items() for node in wanted
        )

    await until(says, "the log says it")
    return rid.changes.revision


async def test_what_nobody_foresaw_is_asked_for_at_once_and_what_is_foreseen_has_means(site: Site) -> None:
    async with site.rid(means_every=0.02, most_attributes=5) as (rid, _):
        await site.say(
            nodes.characterization("a", site.mc, labels={"zone": "kitchen"}),
            nodes.characterization("b", site.mc),
        )
        await site.say(
            nodes.measurement("a", load_1m=0.5, queue_depth=3), nodes.measurement("b", load_1m=1.5)
        )
        await until(lambda: "queue.depth" in (rid.index.get("a") or {}), "an unforeseen metric")
        assert await site.names("queue.depth>=3") == ["a"]
        assert await site.names({"queue.depth": {"$ne": 7}}) == ["a"], "absence never matches"
        assert await site.names({"$not": {"queue.depth": 7}}) == ["a"]
        assert await site.names({"matchLabels": {"zone": "kitchen"}}) == ["a", "b"]
        with pytest.raises(InvalidQuery, match=r"queue\.depht") as caught:
            await site.ask("queue.depht>1")
        assert caught.value.expected == "queue.depth"
        await site.until_asked(
            lambda answer: [node["name"] for node in answer["nodes"]] == ["a", "b"],
            "means",
            where="load.1m.mean.5m<2",
            sort=[{"load.1m.mean.5m": "asc"}],
        )
        await site.say(nodes.measurement("a", one_too_many=1, queue_depth=3))
        await until(lambda: rid.index.refused, "beyond the bound it is refused")
        assert "load.1m.mean.5m" not in (rid.changes.last("a").attributes or {})


async def test_two_rids_answer_both_and_one_writes(site: Site) -> None:
    async with site.rid(instance="one") as (one, _), site.rid(instance="two") as (two, _):
        await until(lambda: one.publishing or two.publishing, "one writes")
        await site.say(*(nodes.characterization(f"n{at}", site.mc) for at in range(20)))
        await until(lambda: len(one.index) == len(two.index) == 20, "both index")
        assert one.publishing != two.publishing
        changes = await site.log(20)
        assert {(change.node, change.kind) for change in changes} == {
            (f"n{at}", "joined") for at in range(20)
        }
        asked = [await site.names("cpu.arch=x86_64", limit=3) for _ in range(20)]
        assert all(names == ["n0", "n1", "n10"] for names in asked)
        await until(lambda: one.changes.revision == two.changes.revision == 20, "both follow the log")


async def test_a_standby_goes_on_where_the_writer_stopped(site: Site) -> None:
    async with site.rid(instance="two") as (two, _):
        async with site.rid(instance="one"):
            await site.say(nodes.characterization("a", site.mc))
            await site.log(1)
        await site.say(nodes.characterization("b", site.mc))
        await until(lambda: two.publishing, "the standby writes")
        changes = await site.log(2)
        assert [(change.node, change.kind) for change in changes] == [("a", "joined"), ("b", "joined")]


@pytest.mark.parametrize("engine", ["rows", "columns"])
async def test_http(site: Site, engine: str) -> None:
    async with site.rid(engine=engine, http_port=0) as (_, frame):
        server = await serve_http(frame)
        try:
            async with httpx.AsyncClient(base_url=server.url) as http:
                await site.say(nodes.characterization("a", site.mc), nodes.measurement("a", load_1m=0.5))
                await site.say(nodes.characterization("b", site.mc), nodes.measurement("b", load_1m=0.2))
                await site.until_asked(lambda answer: answer["total"] == 2, "two", where="load.1m<1")
                answer = (await http.post("/v1/query", json={"where": {"load.1m": {"$lt": 0.3}}})).json()
                assert [node["name"] for node in answer["nodes"]] == ["b"]
                listed = await http.get(
                    "/v1/nodes", params={"where": "load.1m<1", "sort": "load.1m:asc", "fields": "load.1m"}
                )
                assert listed.json()["nodes"] == [
                    {"name": "b", "load.1m": 0.2},
                    {"name": "a", "load.1m": 0.5},
                ]
                assert (await http.get("/v1/nodes/a")).json()["cpu.cores"] == 4
                assert (await http.get("/v1/nodes/id-of-a")).json()["name"] == "a"
                missing = await http.get("/v1/nodes/z")
                assert (missing.status_code, missing.json()["code"]) == (404, "NotFound")
                wrong = await http.post("/v1/query", json={"where": {"lod.1m": 1}})
                assert (wrong.status_code, wrong.json()["code"]) == (400, "InvalidQuery")
                assert wrong.json()["expected"] == "load.1m"
                noise = await http.post("/v1/query", content=b"{" * 100_000)
                assert noise.status_code == 400
                half = await http.post(
                    "/v1/query", content=b'{"where": {"rack": "\\ud800"}, "explain": true}'
                )
                assert (half.status_code, half.json()["code"]) == (400, "InvalidQuery")
                assert (await http.post("/v1/query", content=b"x" * 2_000_000)).status_code == 413
                assert (await http.get("/v1/nodes", params={"wher": "gpu"})).status_code == 400
                asked = (await http.get("/v1/attributes")).json()["attributes"]
                assert {
                    key: value
                    for one in asked
                    if one["name"] == "load.1m"
                    for key, value in one.items()
                    if key not in ("meaning", "distinct", "values")
                } == {
                    "name": "load.1m",
                    "kind": "number",
                    "unit": None,
                    "dynamic": True,
                    "nodes": 2,
                    "least": 0.2,
                    "most": 0.5,
                }
                assert not any(one["name"].startswith("@") for one in asked)
                assert (await http.get("/readyz")).status_code == 200
        finally:
            await server.stop()


async def test_an_answer_that_the_broker_would_not_take_is_refused_with_the_way_out(site: Site) -> None:
    async with site.rid() as (rid, _):
        for at in range(100):
            await site.say(nodes.characterization(f"n{at}", site.mc, labels={"long": "x" * 20_000}))
        await until(lambda: len(rid.index) == 100, "all indexed")
        with pytest.raises(InvalidQuery, match="limit"):
            await site.ask()
        assert len(await site.names(fields=["cpu.arch"])) == 100


async def test_it_goes_on_after_the_broker_was_killed(own_broker: Broker, mc: str) -> None:
    admin = Credentials(own_broker.data).add("admin", "tests")
    settings = RidSettings.load(
        {}, minicloud=mc, broker=own_broker.url, user=admin.user, password=admin.password
    )
    async with await Bus.connect(settings.endpoint("tests"), mc, "tests") as bus:
        await bus.ensure_streams()
        site = Site(own_broker, admin, mc, bus)
        async with site.rid() as (rid, frame):
            await site.say(nodes.characterization("a", mc), nodes.measurement("a", load_1m=0.5))
            await _written(rid, a={"state": "alive"})
            own_broker.kill()
            await until(lambda: not frame.ready, "rid notices")
            assert rid.answers.query({"where": "gpu=false"}).total == 1
            await asyncio.to_thread(own_broker.start)
            await site.say(nodes.characterization("b", mc), nodes.measurement("a", load_1m=0.7))
            await site.until_asked(lambda answer: answer["total"] == 2, "both")
            await site.until_asked(lambda answer: answer["total"] == 1, "the sample", where="load.1m=0.7")
            await _written(rid, b={"state": "alive"})
            assert [(change.node, change.kind) for change in await site.log(2)] == [
                ("a", "joined"),
                ("b", "joined"),
            ]


@pytest.mark.slow
async def test_killed_at_any_moment_it_ends_in_the_same_state(site: Site) -> None:
    settings = site.settings(instance="rid-1")
    environment = {
        **os.environ,
        "MINICLOUD_MINICLOUD": site.mc,
        "MINICLOUD_BROKER": settings.broker,
        "MINICLOUD_USER": settings.user,
        "MINICLOUD_PASSWORD": settings.password,
        "MINICLOUD_INSTANCE": "rid-1",
    }
    process = None
    try:
        for at in range(4):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.rid", env=environment, stderr=asyncio.subprocess.DEVNULL
            )
            await site.until_asked(lambda answer: "revision" in answer, "answers")
            await site.say(*(nodes.characterization(f"n{at}-{of}", site.mc) for of in range(5)))
            # After the first of five is in the log: somewhere in the middle of the work.
            await site.log(at * 5 + 1)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.rid", env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        await site.until_asked(lambda answer: answer["total"] == 20, "all nodes", fields=["name"])
        changes = await site.log(20)
        assert len({change.node for change in changes}) == 20
        assert {change.kind for change in changes} == {"joined"}
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0
        process = None
    finally:
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
