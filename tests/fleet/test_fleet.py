"""Simulated nodes on a real broker."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bus.broker import Broker
from bus.credentials import Credential, Credentials
from minicloud.fleet import FleetReport, run_fleet
from minicloud.hardware import MODELS, machine
from minicloud.walk import Walk
from schemas.errors import Forbidden, InvalidDocument, MinicloudError, Unavailable
from schemas.event import read_event
from schemas.node import Characterization, Measurement, Presence
from tests.charagent.conftest import Ear, listen

KINDS = {"characterization": Characterization, "metrics": Measurement, "presence": Presence}


@asynccontextmanager
async def fleet(
    broker: Broker, mc: str, credential: Credential, count: int, rate: float = 5.0, seed: int = 7
) -> AsyncIterator[asyncio.Task[FleetReport]]:
    stop = asyncio.Event()
    run = run_fleet(
        count=count,
        broker=broker.mqtt_url,
        minicloud=mc,
        credential_for=lambda _: (credential.user, credential.password),
        rate=rate,
        seed=seed,
        on_progress=lambda _: None,
        stop=stop,
    )
    task = asyncio.create_task(run)
    yield task
    stop.set()
    await task


@pytest.fixture
async def ear(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Ear]:
    heard, connection = await listen(broker, admin, mc)
    yield heard
    await connection.close()


async def test_says_what_real_agents_say(ear: Ear, broker: Broker, mc: str, credentials: Credentials) -> None:
    credential = credentials.add("fleet", mc)
    async with fleet(broker, mc, credential, 20) as running:
        await ear.until(lambda: len({event["subject"] for event in ear.of("measured")}) == 20)
    report = await running
    await ear.until(lambda: ear.states().count("offline") == 20)

    assert report.nodes == 20
    assert report.connected_in is not None
    assert report.lost == 0
    assert report.published == len(ear.of("measured"))
    for subject, payload in ear.raw:
        _, _, _, node, aspect = subject.split(".")
        event = read_event(payload, KINDS[aspect])
        assert (event.subject, event.data.node) == (node, node)
        assert event.type == KINDS[aspect].event_type
        assert not event.data.model_extra
    machines = {event["subject"]: event["data"] for event in ear.of("characterized")}
    assert len(machines) == 20
    assert {data["labels"]["simulated"] for data in machines.values()} == {"true"}
    assert len({data["id"] for data in machines.values()}) == 20
    assert len({data["addresses"][0]["address"] for data in machines.values()}) == 20
    assert not [subject for subject, _ in ear.raw if subject.endswith(".worker")]
    assert {data["reason"] for data in (e["data"] for e in ear.of("presence"))} == {"started", "stopping"}


async def test_the_same_seed_gives_the_same_machines(
    ear: Ear, broker: Broker, mc: str, credentials: Credentials
) -> None:
    credential = credentials.add("fleet", mc)
    for _ in range(2):
        async with fleet(broker, mc, credential, 5):
            already = len(ear.of("characterized"))
            await ear.until(lambda already=already: len(ear.of("characterized")) == already + 5)
    whole: list[dict[str, Any]] = [{**event["data"], "probed_at": None} for event in ear.of("characterized")]
    by_node = [sorted(part, key=lambda data: data["node"]) for part in (whole[:5], whole[5:])]
    assert by_node[0] == by_node[1]


async def test_returns_after_the_broker_died(own_broker: Broker) -> None:
    credentials = Credentials(own_broker.data, "home")
    credential, admin = credentials.add("fleet", "local"), credentials.add("admin", "tests")
    ear, connection = await listen(own_broker, admin, "home")
    async with fleet(own_broker, "home", credential, 10) as running:
        # The first node says it more than once, until it hears itself.
        await ear.until(lambda: len({event["subject"] for event in ear.of("presence")}) == 10)
        await connection.close()
        await asyncio.to_thread(own_broker.kill)
        await asyncio.to_thread(own_broker.start)
        ear, connection = await listen(own_broker, admin, "home")
        await ear.until(lambda: len({event["subject"] for event in ear.of("measured")}) == 10)
        assert ear.states().count("online") >= 10
    assert (await running).lost == 10
    await connection.close()


async def test_each_node_has_a_last_will(ear: Ear, broker: Broker, mc: str, credentials: Credentials) -> None:
    credential = credentials.add("fleet", mc)
    stop = asyncio.Event()
    task = asyncio.create_task(
        run_fleet(5, broker.mqtt_url, mc, lambda _: (credential.user, credential.password), 5, 1, print, stop)
    )
    await ear.until(lambda: len({event["subject"] for event in ear.of("presence")}) == 5)
    credentials.revoke("fleet", mc)  # the broker closes every connection
    await ear.until(lambda: ear.states().count("offline") == 5)
    assert {e["data"]["reason"] for e in ear.of("presence") if e["data"]["state"] == "offline"} == {
        "connection lost"
    }
    with pytest.raises(Forbidden):
        await asyncio.wait_for(task, 30)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"count": 0}, InvalidDocument),
        ({"rate": 0.0}, InvalidDocument),
        ({"broker": "nats://127.0.0.1:4222"}, InvalidDocument),
        ({"minicloud": "a.b"}, MinicloudError),
        ({"broker": "mqtt://127.0.0.1:1"}, Unavailable),
    ],
)
async def test_refuses_what_cannot_be(change: dict[str, Any], error: type[Exception]) -> None:
    given: dict[str, Any] = {"count": 1, "broker": "mqtt://127.0.0.1:1883", "minicloud": "home", "rate": 1.0}
    with pytest.raises(error):
        await run_fleet(
            **{**given, **change},
            credential_for=lambda _: ("", ""),
            seed=1,
            on_progress=print,
            stop=asyncio.Event(),
        )


async def test_a_credential_of_another_role_is_noticed(
    broker: Broker, mc: str, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minicloud.fleet._TRUST_WITHIN", 2.0)
    agent = credentials.add("agent", f"n{mc}")
    with pytest.raises(Forbidden, match="drops what this credential says"):
        await run_fleet(
            1, broker.mqtt_url, mc, lambda _: (agent.user, agent.password), 1, 1, print, asyncio.Event()
        )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_metrics_stay_within_what_the_machine_can_do(model: Any) -> None:
    rng = random.Random(model.name)
    found, what = machine(rng, 1, "home", "sim-1")
    while found is not model:
        found, what = machine(rng, 1, "home", "sim-1")
    Characterization.model_validate(what)
    walk = Walk(rng, model, what, 5.0)
    samples = [walk.step() for _ in range(2000)]
    for sample in samples:
        assert 0 <= sample["cpu.used"] <= 100
        assert 0 <= sample["cpu.free"] <= model.cores
        assert 0 < sample["memory.available"] < what["memory"]["total"]
        assert 0 < sample["disk.free"] < sum(disk["total"] for disk in what["disks"])
        assert 0 < sample["disk.latency"] < 0.2
        assert ("temperature" in sample) == bool(model.idle)
        assert 20 < sample.get("temperature", 30) < 95
        assert ("battery.charge" in sample) == model.battery
    # It wanders, it does not jump: memory by less than two per cent of the machine from sample to sample.
    memory = [sample["memory.available"] for sample in samples]
    assert max(abs(b - a) for a, b in itertools.pairwise(memory)) < 0.02 * what["memory"]["total"]
    assert len(set(memory)) > 1000
