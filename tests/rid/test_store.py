"""rid and its durable store: what is written, what a restart makes of it, and MongoDB away."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.database import Database

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential
from bus.frame import Frame
from bus.streams import STREAMS
from schemas.errors import InvalidDocument
from schemas.event import event, read_event
from schemas.flatten import allocatable, attributes_of, measured, working
from schemas.liveness import Thresholds
from schemas.node import Characterization, Measurement, Presence
from schemas.resource import ResourceChange
from schemas.workload import DesiredWorkload, WorkerStatus
from services.rid.columns import ColumnIndex
from services.rid.fresh import lasting
from services.rid.ingest import Ingest
from services.rid.known import from_document, to_document
from services.rid.service import Rid
from services.rid.settings import RidSettings
from services.rid.watch import ChangeLog
from tests.parts.mongodb import MongoProcess, MongoServer
from tests.parts.process import free_port
from tests.rid import nodes
from tests.rid.nodes import until
from tests.rid.test_service import Site

Stored = Database[dict[str, Any]]


@pytest.fixture
async def place(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Site]:
    """A minicloud of the test's own."""
    settings = RidSettings.load({}, minicloud=mc, broker=broker.url, user=admin.user, password=admin.password)
    async with await Bus.connect(settings.endpoint("tests"), mc, "tests") as bus:
        await bus.ensure_streams()
        try:
            yield Site(broker, admin, mc, bus)
        finally:
            for stream in STREAMS:
                await bus.jetstream.api(f"STREAM.DELETE.{stream.name(mc)}")


@pytest.fixture
def kept(mongodb: str, mc: str) -> Iterator[Stored]:
    """The database that a rid of this minicloud makes for itself."""
    with MongoClient[dict[str, Any]](mongodb) as client:
        yield client[f"minicloud_{mc}"]
        client.drop_database(f"minicloud_{mc}")


def _quick(url: str, **more: Any) -> dict[str, Any]:
    """Settings that write soon, so that a test need not wait."""
    return {"mongodb_url": url, "store_every": 0.02, "store_metrics_every": 0.05, **more}


def _positions(kept: Stored) -> dict[str, int]:
    found = kept["meta"].find_one({"_id": "positions"}) or {}
    return {kind: revision for kind, (_, revision) in found.get("streams", {}).items()}


async def _written(place: Site, kept: Stored) -> dict[str, int]:
    """Wait until the store is where the streams are."""

    async def at() -> dict[str, int]:
        asked = {
            stream.kind: await place.bus.jetstream.api(f"STREAM.INFO.{stream.name(place.mc)}")
            for stream in STREAMS
            if stream.kind in ("characterizations", "presence", "workloads", "metrics", "resources")
        }
        return {kind: info["state"]["last_seq"] for kind, info in asked.items() if info["state"]["last_seq"]}

    async with asyncio.timeout(20):
        while (told := await asyncio.to_thread(_positions, kept)) != await at():
            await asyncio.sleep(0.02)
    return told


def _said(rid: Rid, node: str) -> dict[str, Any]:
    """What the log says last of a node."""
    return dict(rid.changes.last(node).attributes or {})


async def _forget(place: Site, positions: dict[str, int]) -> None:
    """Take from the bus all that the store says it has."""
    for stream in STREAMS:
        if stream.kind in positions:
            name = stream.name(place.mc)
            await place.bus.jetstream.api(f"STREAM.PURGE.{name}", {"seq": positions[stream.kind] + 1})


async def test_a_restart_loads_what_the_bus_no_longer_has_and_takes_in_what_came_since(
    place: Site, kept: Stored, mongodb: str
) -> None:
    async with place.rid(**_quick(mongodb)) as (rid, _):
        await place.say(
            nodes.characterization("a", place.mc),
            nodes.presence("a"),
            nodes.worker("a", "process"),
            nodes.desired("a", cpu=3),
            nodes.measurement("a", load_1m=0.5, my_metric=3),
            nodes.characterization("b", place.mc),
            nodes.presence("b", online=False, reason="stopping"),
        )
        await until(lambda: rid.index.get("b"), "b")
        await until(lambda: (rid.index.get("a") or {}).get("allocatable.cpu") == 1, "all of a")
        await until(lambda: (rid.index.get("a") or {}).get("my.metric") == 3, "its metrics")
        await until(lambda: not rid.changes.pending, "the log is written")
        positions = await _written(place, kept)
        before = {name: rid.index.get(name) for name in ("a", "b")}
    assert kept["nodes"].count_documents({"static.cpu:arch": "x86_64", "metrics.load:1m": {"$lt": 1}}) == 1
    assert {"static.id_1", "derived.state_1", "pulse.heard_1"} <= set(kept["nodes"].index_information())
    await _forget(place, positions)
    await place.say(nodes.measurement("a", load_1m=0.7), nodes.desired("a", state="stopped"))
    async with place.rid(**_quick(mongodb)) as (rid, _):
        after = {name: rid.index.get(name) for name in ("a", "b")}
        assert after["b"] == before["b"]
        assert after["b"]["state"] == "lost"
        assert {name for name in before["a"] if before["a"][name] != after["a"].get(name)} == {
            "@heard",
            "load.1m",
            "my.metric",
            "allocatable.cpu",
            "allocatable.memory",
        }
        assert (after["a"]["load.1m"], after["a"]["allocatable.cpu"]) == (0.7, 4)
        (change,) = await place.log(1, since=positions["resources"])
        assert (change.node, change.kind) == ("a", "changed")
        assert "allocatable.cpu" in change.changed
        assert rid.changes.last("b").attributes == lasting(before["b"])


async def test_a_broker_that_lost_everything_does_not_make_it_forget(
    place: Site, kept: Stored, mongodb: str
) -> None:
    async with place.rid(**_quick(mongodb)) as (rid, _):
        await place.say(nodes.characterization("a", place.mc), nodes.measurement("a", load_1m=0.5))
        await until(lambda: (rid.index.get("a") or {}).get("load.1m"), "a")
        await until(lambda: rid.changes.last("a").revision, "the log has it")
        await _written(place, kept)
    for stream in STREAMS:
        await place.bus.jetstream.api(f"STREAM.DELETE.{stream.name(place.mc)}")
    await place.bus.ensure_streams()
    await place.say(nodes.characterization("b", place.mc))
    async with place.rid(**_quick(mongodb)) as (rid, _):
        await until(lambda: "b" in rid.index, "what is new on the bus")
        assert rid.index.get("a")["load.1m"] == 0.5
        # Another log: both are new to it.
        assert {(change.node, change.kind) for change in await place.log(2)} == {
            ("a", "joined"),
            ("b", "joined"),
        }


async def test_a_node_whose_characterization_the_bus_dropped_is_taken_from_the_log(place: Site) -> None:
    async with place.rid() as (rid, _):
        await place.say(nodes.characterization("a", place.mc), nodes.measurement("a", load_1m=0.5))
        await until(lambda: _said(rid, "a").get("cpu.cores"), "the log has it")
        await until(lambda: (rid.index.get("a") or {}).get("load.1m"), "its metrics")
        before = rid.index.get("a")
    await place.bus.jetstream.api(f"STREAM.PURGE.{place.mc}_characterizations")
    async with place.rid() as (rid, _):
        assert lasting(rid.index.get("a")) == lasting(before)
        assert rid.changes.due() == []


async def test_without_mongodb_it_answers_tells_and_writes_once_mongodb_is_there(
    place: Site, part: Callable[[MongoServer], MongoServer], tmp_path: Path
) -> None:
    server, port = part(MongoServer()), free_port()
    running: MongoProcess | None = None
    try:
        async with place.rid(**_quick(f"mongodb://127.0.0.1:{port}")) as (rid, frame):
            assert rid.recovery.store is not None
            assert rid.recovery.store.failing
            for round_ in range(3):
                await place.say(*(nodes.characterization(f"n{at}", place.mc) for at in range(5)))
                await place.say(*(nodes.measurement(f"n{at}", load_1m=round_) for at in range(5)))
                await place.until_asked(
                    lambda answer: answer["total"] == 5, "answers", where=f"load.1m={round_}"
                )
            assert rid.recovery.store.pending == 5, "the newest state of each node waits, once"
            assert frame.registry.get_sample_value("rid_store_failing") == 1
            running = await asyncio.to_thread(server.start, tmp_path / "data", port)
            await until(lambda: not rid.recovery.store.failing, "MongoDB serves again", within=30)
            with MongoClient[dict[str, Any]](running.url) as client:
                await _written(place, client[f"minicloud_{place.mc}"])
                assert client[f"minicloud_{place.mc}"]["nodes"].count_documents({"metrics.load:1m": 2}) == 5
            await asyncio.to_thread(running.kill)
            await place.say(nodes.characterization("late", place.mc))
            await until(lambda: rid.recovery.store.failing, "it is told", within=30)
            assert await place.names("name=late") == ["late"]
            running = await asyncio.to_thread(server.start, tmp_path / "data", port)
            with MongoClient[dict[str, Any]](running.url) as client:
                await _written(place, client[f"minicloud_{place.mc}"])
                assert client[f"minicloud_{place.mc}"]["nodes"].find_one({"_id": "late"})
    finally:
        if running:
            running.kill()


@pytest.mark.parametrize("url", ["http://127.0.0.1", "mongodb://[::1", "mongodb://"])
async def test_a_url_that_cannot_be_one_is_refused_at_the_start(place: Site, url: str) -> None:
    with pytest.raises(InvalidDocument, match="mongodb_url"):
        Rid(Frame("rid", place.settings(mongodb_url=url), place.bus))


async def test_of_two_rids_the_one_that_holds_the_lease_writes(
    place: Site, kept: Stored, mongodb: str
) -> None:
    async with place.rid(**_quick(mongodb, instance="two")) as (two, _):
        async with place.rid(**_quick(mongodb, instance="one")) as (one, _):
            await until(lambda: one.publishing or two.publishing, "one writes")
            writer, other = (one, two) if one.publishing else (two, one)
            await place.say(nodes.characterization("a", place.mc))
            await until(lambda: len(one.index) == len(two.index) == 1, "both index")
            await _written(place, kept)
            assert writer.recovery.store
            assert writer.recovery.store.written
            assert other.recovery.store
            assert not other.recovery.store.written
        await place.say(nodes.characterization("b", place.mc))
        await until(lambda: two.publishing, "the one that is left writes")
        await _written(place, kept)
        assert {node["_id"] for node in kept["nodes"].find()} == {"a", "b"}


async def test_a_store_with_a_document_that_cannot_be_read_costs_a_replay_and_nothing_else(
    place: Site, kept: Stored, mongodb: str
) -> None:
    async with place.rid(**_quick(mongodb)) as (rid, _):
        await place.say(nodes.characterization("a", place.mc), nodes.characterization("b", place.mc))
        await until(lambda: _said(rid, "a") and _said(rid, "b"), "both are in the log")
        await _written(place, kept)
    async with place.rid(**_quick(mongodb)) as (rid, _):
        assert rid.recovery.store
        assert not rid.recovery.store.pending, "what was read back is not written again"
        assert not rid.changes.pending
    kept["nodes"].update_one({"_id": "a"}, {"$set": {"pulse": {"nonsense": 1}}})
    async with place.rid(**_quick(mongodb)) as (rid, _):
        assert len(rid.index) == 2
        await _written(place, kept)
    assert "heard" in kept["nodes"].find_one({"_id": "a"})["pulse"]


# -- one node, there and back --------------------------------------------------------------------

events = st.lists(
    st.one_of(
        st.builds(lambda rack: nodes.characterization("a", rack=rack), st.sampled_from([None, "r1"])),
        st.builds(lambda load: nodes.measurement("a", load_1m=load, my_metric=1), st.floats(0, 9)),
        st.just(nodes.measurement("a")),
        st.builds(
            lambda online, session: nodes.presence("a", online=online, session=session),
            st.booleans(),
            st.sampled_from(["s1", "s2"]),
        ),
        st.builds(
            lambda state: nodes.worker("a", "process", "vm", state=state),
            st.sampled_from(["ready", "stopped"]),
        ),
        st.builds(
            lambda workload, state: nodes.desired("a", workload, state),
            st.sampled_from(["x-0", "y-1"]),
            st.sampled_from(["running", "stopped"]),
        ),
    ),
    max_size=12,
)


@given(events, events)
@settings(max_examples=60, deadline=None)
def test_a_node_that_was_kept_and_read_back_goes_on_as_if_nothing_had_been(before: Any, after: Any) -> None:
    def site() -> tuple[Ingest, ChangeLog]:
        index = ColumnIndex()
        log = ChangeLog(lambda node: (lasting(index.get(node) or {}), False), clock=lambda: 1e6)
        return Ingest(index, Thresholds(), log.note, lambda: 1e6), log

    def take(ingest: Ingest, data: Any) -> None:
        whole = event(data, "/home/test")
        whole.time = nodes.at(1e6)
        ingest.take(whole, live=True)

    one, log = site()
    for data in before:
        take(one, data)
    for at, due in enumerate(log.due() if one.known("a") and "a" in one._index else [], 1):
        log.seen(due.change, at)
    other, other_log = site()
    if (known := one.known("a")) is not None:
        document = bson.decode(bson.encode(to_document("a", known, log.last("a"))))
        name, known, published = from_document(document)
        other.restore(name, known)
        if published:
            other_log.restore(name, published)
    for data in after:
        take(one, data)
        take(other, data)
    assert other._index.get("a") == one._index.get("a")
    assert (other_log.last("a").attributes, other_log.last("a").revision) == (
        log.last("a").attributes,
        log.last("a").revision,
    )


# -- killed at any moment ------------------------------------------------------------------------


async def _everything(place: Site) -> dict[str, dict[str, Any]]:
    """The nodes as a replay by hand finds them: the last event of each kind decides."""
    kinds = {
        "characterization": Characterization,
        "metrics": Measurement,
        "presence": Presence,
        "worker": WorkerStatus,
        "desired": DesiredWorkload,
    }
    last: dict[tuple[str, ...], Any] = {}
    js = place.bus.jetstream
    for stream in STREAMS:
        if stream.kind not in ("characterizations", "metrics", "presence", "workloads"):
            continue
        name = stream.name(place.mc)
        state = (await js.api(f"STREAM.INFO.{name}"))["state"]
        for revision in range(state["first_seq"], state["last_seq"] + 1):
            answer = await js.wire.request(
                f"$JS.API.DIRECT.GET.{name}", json.dumps({"seq": revision}).encode(), 5.0
            )
            subject = (answer.headers or {}).get("Nats-Subject")
            if subject:
                parts = tuple(subject.split(".")[3:])
                last[parts] = read_event(answer.data, kinds[parts[1]]).data
    found = {}
    for node in {parts[0] for parts in last}:
        if (node, "characterization") not in last:
            continue
        static = attributes_of(last[node, "characterization"])
        facts = {**static, **working(last.get((node, "worker")), static["runtimes"])}
        desired = [data for parts, data in last.items() if parts[:2] == (node, "desired")]
        facts.update(allocatable(facts, desired))
        if metrics := last.get((node, "metrics")):
            facts.update(measured(metrics.values))
        presence = last.get((node, "presence"))
        facts["state"] = "lost" if presence and presence.state == "offline" else "alive"
        found[node] = facts
    return found


class _Killed:
    """A rid in a process of its own."""

    def __init__(self, place: Site, **more: Any) -> None:
        told = {"minicloud": place.mc, "instance": "rid-1", "log_level": "error", **place.access, **more}
        self._environment = {
            **os.environ,
            **{f"MINICLOUD_{name.upper()}": str(value) for name, value in told.items()},
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.rid", env=self._environment
        )

    async def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


@contextmanager
def _database(wanted: bool, request: pytest.FixtureRequest) -> Iterator[tuple[str, Stored | None]]:
    yield (request.getfixturevalue("mongodb"), request.getfixturevalue("kept")) if wanted else ("", None)


def _some_events(rng: random.Random, mc: str, turn: int) -> list[Any]:
    said: list[Any] = []
    for node in rng.sample([f"n{at}" for at in range(8)], rng.randint(1, 5)):
        # Online first: a farewell is then the last word, and no sample comes after it.
        session = f"s{turn}"
        said += [nodes.characterization(node, mc, rack=f"r{turn}"), nodes.presence(node, session=session)]
        said += rng.sample(
            [
                nodes.measurement(
                    node, load_1m=float(turn), **({"my_metric": 1} if rng.random() < 0.5 else {})
                ),
                nodes.worker(node, "process", state=rng.choice(["ready", "stopped"])),
                nodes.desired(node, "x-0", rng.choice(["running", "stopped"])),
                nodes.desired(node, "y-1", rng.choice(["running", "stopped"])),
            ],
            rng.randint(0, 4),
        )
        if rng.random() < 0.3:
            said.append(nodes.presence(node, online=False, session=session, reason="connection lost"))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("durable", [False, True], ids=["the bus alone", "with MongoDB"])
async def test_killed_at_random_it_comes_back_to_what_a_replay_by_hand_finds(
    place: Site, seed: int, durable: bool, request: pytest.FixtureRequest
) -> None:
    rng = random.Random(seed)
    with _database(durable, request) as (url, kept):
        rid = _Killed(place, **(_quick(url, stale_after=3600) if url else {"stale_after": 3600}))
        logged = 0
        try:
            for turn in range(5):
                await rid.start()
                said = _some_events(rng, place.mc, turn)
                at = rng.randrange(len(said))
                await place.say(*said[:at])
                match rng.choice(["starting", "answering", "logged", "stored"]):
                    case "answering":
                        await place.until_asked(lambda answer: "revision" in answer, "answers")
                        await place.say(*said[at:])
                    case "logged":
                        await place.say(*said[at:])
                        logged += 1
                        await place.log(logged)
                    case "stored" if kept is not None:
                        before = await asyncio.to_thread(_positions, kept)
                        await place.say(*said[at:])
                        async with asyncio.timeout(20):
                            while await asyncio.to_thread(_positions, kept) == before:
                                await asyncio.sleep(0.001)
                    case _:
                        await place.say(*said[at:])
                await rid.kill()
            expected = await _everything(place)
            if kept is not None:
                positions = await asyncio.to_thread(_positions, kept)
                positions.pop("resources", None)  # read below
                await _forget(place, positions)
            await rid.start()
            answer = await place.until_asked(
                lambda answer: answer["total"] == len(expected), "all nodes", where="state", fields=["name"]
            )
            answer = await place.ask("state")
            assert {node["name"] for node in answer["nodes"]} == expected.keys()
            for node in answer["nodes"]:
                assert _ageless(node) == expected[node["name"]]
            await _log_says(place, expected)
        finally:
            await rid.kill()


def _ageless(node: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != "age"}


async def _log_says(place: Site, expected: dict[str, dict[str, Any]]) -> None:
    """Wait until the log's last event of each node says what is so, metrics aside; each joined once."""
    missing = set(expected)
    last: dict[str, dict[str, Any]] = {}
    joined: list[str] = []
    async with (
        asyncio.timeout(20),
        place.bus.watch({place.bus.subjects.resource(): ResourceChange}, since=0) as items,
    ):
        async for item in items:
            if item.event is None:
                continue
            change = item.event.data
            last[change.node] = change.attributes
            joined += [change.node] * (change.kind == "joined")
            wanted = {
                name: value
                for name, value in expected[change.node].items()
                if name not in ("load.1m", "my.metric", "memory.available")
            }
            says = wanted.items() <= change.attributes.items()
            missing = missing - {change.node} if says else missing | {change.node}
            if not missing:
                break
    assert sorted(joined) == sorted(expected)
