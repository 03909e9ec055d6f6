"""One real journey, and everything that is said on the bus meanwhile held against the reference."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bus.broker import Broker
from bus.bus import Bus
from bus.credentials import Credential
from bus.port import Endpoint, Message
from bus.streams import STREAMS
from schemas.channels import CHANNELS, VERBS
from schemas.deployment import DeploymentRequest
from schemas.errors import MinicloudError, NotFound
from schemas.event import now
from schemas.jsonschema import documents
from schemas.node import Characterization, Measurement, Presence
from tests.parts.process import PartProcess
from tests.schemas.examples import DATA

SCHEMAS = documents()
PATIENCE = 60.0


class Heard:
    """Everything that is said in one minicloud."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._news = asyncio.Event()

    async def hear(self, message: Message) -> None:
        self.messages.append((message.subject, message.data))
        self._news.set()

    def data(self, subject: str) -> list[dict[str, Any]]:
        return [json.loads(payload)["data"] for said, payload in self.messages if said == subject]

    async def until(self, subject: str, state: str, key: str = "to") -> None:
        async with asyncio.timeout(PATIENCE):
            while state not in [data[key] for data in self.data(subject)]:
                self._news.clear()
                await self._news.wait()

    async def until_said(self, subject: str, payload: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while (subject, payload) not in self.messages:
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def bus(broker: Broker, admin: Credential, mc: str) -> AsyncIterator[Bus]:
    endpoint = Endpoint(broker.url, admin.user, admin.password, admin.inbox_prefix)
    connected = await Bus.connect(endpoint, mc, "tests")
    await connected.ensure_streams()
    yield connected
    for stream in STREAMS:
        await connected.jetstream.api(f"STREAM.DELETE.{stream.name(mc)}")
    await connected.close()


@pytest.fixture
def services(broker: Broker, admin: Credential, mc: str, tmp_path: Path) -> Iterator[list[PartProcess]]:
    """The real rid, vim and worker of node ``pi-3``."""
    environment = {
        **os.environ,
        "MINICLOUD_MINICLOUD": mc,
        "MINICLOUD_BROKER": broker.url,
        "MINICLOUD_MQTT": broker.mqtt_url,
        "MINICLOUD_USER": admin.user,
        "MINICLOUD_PASSWORD": admin.password,
    }
    worker = ["services.vim.worker", "--node", "pi-3", "--data", str(tmp_path / "worker"), "--stop-workloads"]
    running = [
        PartProcess([sys.executable, "-m", *words], tmp_path / f"{words[0]}.log", environment)
        for words in (["services.rid"], ["services.vim"], worker)
    ]
    yield running
    for service in running:
        service.stop()


def _problems(validator: Draft202012Validator, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]


async def _asked(bus: Bus, service: str, verb: str, question: Any, instance: str | None = None) -> Any:
    """The answer, once the service is there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await bus.request(service, verb, question, instance=instance)
            except MinicloudError as error:
                if error.status < 500:
                    raise
                await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_what_real_services_say_and_answer_is_what_the_reference_says(
    bus: Bus, services: list[PartProcess], mc: str
) -> None:
    heard = Heard()
    await bus.wire.subscribe(f"mc.{mc}.>", heard.hear)
    await bus.flush()
    subjects = bus.subjects
    like = next(data for data in DATA if isinstance(data, Characterization))
    node = like.model_dump() | {"minicloud": mc, "runtimes": [{"name": "process"}]}
    await bus.publish(subjects.characterization("pi-3"), Characterization.model_validate(node))
    await bus.publish(
        subjects.presence("pi-3"),
        Presence(node="pi-3", state="online", reason="started", session="s", since=now()),
    )
    await bus.publish(
        subjects.metrics("pi-3"),
        Measurement(node="pi-3", interval=1, values={"load.1m": 0.1, "fan.speed": 900}),
    )
    # A job that prints, a request that fits nowhere, one that is refused, one that cannot be read.
    job = {"runtimes": ["process"], "images": {"process": {"command": ["/bin/echo", "hello"]}}}
    for name, more in {"job": {"restart": "never"}, "nowhere": {"where": {"cpu.cores": 99}}}.items():
        request = DeploymentRequest.model_validate({**job, **more})
        await bus.publish(subjects.request(name), request, about=name)
    refused = DeploymentRequest.model_validate({**job, "data": [{"bucket": "photos"}]})
    await bus.publish(subjects.request("refused"), refused)
    await bus.jetstream.publish(subjects.request("noise"), b"\xff\x00noise", "noise")

    await heard.until(subjects.status("job"), "completed")
    await heard.until(subjects.status("nowhere"), "unschedulable")
    await heard.until(subjects.status("refused"), "rejected")
    await heard.until(subjects.status("noise"), "rejected")

    inbox = bus.wire.inbox()
    await bus.wire.subscribe(inbox, heard.hear)  # a standing query that nobody reads is forgotten
    watched = await _asked(bus, "rid", "watch", {"deliver": inbox})
    await _asked(bus, "rid", "keep", {"name": "any", "query": {}})
    await heard.until_said(subjects.answer("any"), b'["pi-3"]')
    forgotten = await _asked(bus, "rid", "forget", {"name": "any"})
    answers = {
        "rid.query": await _asked(bus, "rid", "query", {"where": "cpu.cores>=1", "explain": True}),
        "rid.nodes": await _asked(bus, "rid", "nodes", {"where": "cpu.cores>=1", "limit": "1"}),
        "rid.node": await _asked(bus, "rid", "node", {"node": "pi-3"}),
        "rid.explain": await _asked(bus, "rid", "explain", {"where": {"cpu.cores": {"$gte": 1}}}),
        "rid.watch": watched,
        "rid.acknowledge": await _asked(
            bus,
            "rid",
            "acknowledge",
            {"watch": watched["watch"], "sequence": 0, "done": True},
            watched["acknowledge"].rpartition(".")[2],
        ),
        "rid.keep": await _asked(bus, "rid", "keep", {"name": "best", "query": {"where": "cpu.cores>=1"}}),
        "rid.kept": await _asked(bus, "rid", "kept", None),
        "rid.forget": forgotten,
        "rid.attributes": await _asked(bus, "rid", "attributes", None),
        "vim.list": await _asked(bus, "vim", "list", None),
        "vim.get": await _asked(bus, "vim", "get", {"deployment": "job"}),
        "vim.scale": await _asked(bus, "vim", "scale", {"deployment": "nowhere", "replicas": 2}),
        "vim.pause": await _asked(bus, "vim", "pause", {"deployment": "nowhere"}),
        "vim.resume": await _asked(bus, "vim", "resume", {"deployment": "nowhere"}),
        "vim.migrate": await _asked(bus, "vim", "migrate", {"deployment": "nowhere", "to": "pi-3"}),
        "vim.whatif": await _asked(bus, "vim", "whatif", job),
        "worker.logs": await _asked(bus, "worker", "logs", {"workload": "job-0"}, "pi-3"),
    }
    for verb in VERBS:
        if verb.service == "cluster":
            continue  # there is none here
        answer = answers.pop(f"{verb.service}.{verb.name}")
        assert answer is not None
        if verb.answers:
            schema = Draft202012Validator(SCHEMAS[verb.answers.__name__])
            assert _problems(schema, answer) == [], (verb, answer)
    assert not answers
    with pytest.raises(NotFound) as unknown:
        await bus.request("vim", "get", {"deployment": "nobody"})
    assert _problems(Draft202012Validator(SCHEMAS["ErrorDocument"]), unknown.value.document()) == []

    _hold_against_the_reference(heard, mc)


def _hold_against_the_reference(heard: Heard, mc: str) -> None:
    patterns = {
        re.compile(re.sub(r"\{\w+\}", "[^.]+", channel.address.replace("{minicloud}", mc)) + "$"): channel
        for channel in CHANNELS
    }
    kinds = set()
    for subject, payload in heard.messages:
        if re.match(rf"mc\.{mc}\.(lease|svc)\.|_INBOX", subject) or b"noise" in payload[:10]:
            continue
        (channel,) = [channel for pattern, channel in patterns.items() if pattern.match(subject)]
        kinds.add(channel.name)
        if channel.data is None:
            assert isinstance(json.loads(payload or b"[]"), list)
            continue
        problems = _problems(Draft202012Validator(SCHEMAS[channel.data.event_type]), json.loads(payload))
        assert problems == [], (subject, payload)
    assert kinds == {channel.name for channel in CHANNELS} - {
        "reading",
        "cancel",
        "heartbeat",
        "cluster",
        "trouble",
    }
