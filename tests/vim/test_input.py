"""Bad input on every subject of a deployment: a clear answer where it came from, and the flow goes on."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from bus.bus import Bus
from schemas.dead import DeadLetter
from schemas.decision import Decision
from schemas.deployment import DeploymentRequest
from tests.parts.mosquitto import Mosquitto
from tests.vim.site import Site

MIB = 1024 * 1024
DEEP = b'{"where":' * 5000 + b"{}" + b"}" * 5000

REQUESTS: dict[str, tuple[Any, str | None]] = {
    "unknown field": ({"replcas": 3}, "replcas"),
    "impossible quantity": ({"resources": {"memory": "lots"}}, "resources.memory"),
    "negative quantity": ({"resources": {"cpu": -1}}, "resources.cpu"),
    "unknown constraint": ({"where": {"memory.avalable": {"$gte": "1GiB"}}}, "where.memory.avalable"),
    "unknown runtime": ({"runtimes": ["proces"]}, "runtimes.0"),
    "no image": ({"images": {}}, "images"),
    "unknown preference": ({"prefer": [{"lod.5m": "asc"}]}, "prefer.0.lod.5m"),
    "unhashable preference": ({"prefer": [{"runtimes": {"a": []}}]}, "prefer.0.runtimes"),
    "unknown spread": ({"spread": {"over": "raks"}}, "spread.over"),
    "what nobody enforces": ({"data": [{"bucket": "photos"}]}, "data"),
    "another's id": ({"id": "somebody-else"}, "id"),
    "a number too large": ({"where": {"load.1m": {"$lt": 10**400}}}, "where.load.1m.$lt"),
    "an id with a dot": ({"id": "a.b"}, "id"),
    "noise": (b"\x00\xff noise", None),
    "not UTF-8": (b'{"runtimes": ["\xff\xfe"]}', None),
    "half a surrogate": (b'{"name": "\\ud800"}', None),
    "deep nesting": (DEEP, None),
    "a list": (b"[1, 2, 3]", None),
    "nothing": (b"", None),
    "a million bytes": (secrets.token_bytes(MIB - 4096), None),
    "a million letters": (b'{"name": "' + b"x" * (MIB - 4096) + b'"}', "name"),
    "an envelope around noise": (
        b'{"specversion":"1.0","id":"x","source":"/x","type":"t","data":7}', "data",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
async def test_a_bad_request_is_refused_with_field_reason_and_cure(site: Site, what: str) -> None:
    given, field = REQUESTS[what]
    name = site.name()
    payload = given if isinstance(given, bytes) else site.request(**given)
    await site.publish(name, "request", payload)
    refused = await site.until_state(name, "rejected", reason="InvalidRequest")
    (problem, *_) = refused.problems
    assert problem["field"] == field
    assert problem["message"]
    assert len(refused.model_dump_json()) < 20_000
    await a_good_request_runs(site)
    assert site.states(name) == ["rejected"]


async def a_good_request_runs(site: Site) -> None:
    """The flow goes on."""
    await site.nodes.join(*site.node("good"))
    await site.found(1)
    name = await site.deploy(f"good{secrets.token_hex(2)}")
    await site.until_state(name, "running")


async def test_what_would_be_right_is_told(site: Site) -> None:
    where = {"memory.avalable": {"$gte": "1GiB"}, "label.group": site.group}
    name = await site.deploy(where=where)
    refused = await site.until_state(name, "rejected")
    assert refused.problems[0]["expected"] == "memory.available"
    assert "memory.available" in refused.message
    await site.publish(name, "request", site.request(id="other"))
    again = await site.until(
        lambda: (s := site.last(name)) and s.problems[0]["field"] == "id" and s, "the next"
    )
    assert name in again.problems[0]["expected"]


async def test_a_refused_request_may_be_mended(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy(replicas=-1)
    await site.until_state(name, "rejected")
    await site.deploy(replicas=-1)
    await site.deploy()
    await site.until_state(name, "running", generation=1)
    assert site.states(name).count("rejected") == 1
    site.check_sequence(name)


async def test_names_that_cannot_be_answered_are_buried_and_harm_nobody(
    site: Site, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """A dot in an MQTT topic becomes part of a token on NATS; the status could not be published there."""
    user = site.stack.credentials.add("user", f"u-{site.group}")
    letters: list[DeadLetter] = []
    await site.bus.subscribe(site.bus.subjects.dead("vim"), DeadLetter, _collect(letters))
    payload = json.dumps(site.request())
    odd = ["a.b", "dé", "x" * 65, "a!"]
    for name in odd:
        topic = f"mc/{site.mc}/deployment/{name}/request"
        sent = await asyncio.to_thread(mosquitto.publish, site.stack.mqtt_port, user, topic, payload)
        assert sent.returncode == 0
    await site.until(lambda: len({letter.subject for letter in letters}) == len(odd), "all are buried")
    assert all("cannot be a name" in letter.reason for letter in letters)
    assert {json.loads(letter.payload)["where"]["label.group"] for letter in letters} == {site.group}
    await a_good_request_runs(site)


def _collect(letters: list[DeadLetter]) -> Any:
    async def collect(event: Any) -> None:
        letters.append(event.data)

    return collect


async def test_a_name_too_long_for_its_replicas_is_refused(site: Site) -> None:
    name = "x" * 51 + site.group + "y" * 4
    assert len(name) == 64
    await site.publish(name, "request", site.request())
    refused = await site.until_state(name, "rejected")
    assert (refused.problems[0]["field"], refused.problems[0]["expected"]) == ("id", "at most 62 letters")


async def test_a_request_whose_decision_would_not_fit_is_refused(site: Site) -> None:
    files = [{"path": f"f{at}", "content": "x" * 250_000} for at in range(4)]
    name = await site.deploy(files=files)
    refused = await site.until_state(name, "rejected")
    assert refused.problems[0]["field"] == "files"
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    await site.deploy(files=files[:3])
    await site.until_state(name, "running")


NOISE = [b"", b"\xff" * 1000, DEEP, b"[]", b'{"deployment": "other"}']


@pytest.mark.parametrize("aspect", ["decision", "status"])
async def test_noise_in_place_of_what_vim_said_changes_nothing(site: Site, aspect: str) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy()
    first = await site.until_state(name, "running")
    (decided,) = site.decisions(name)
    stranger = decided if aspect == "decision" else first
    for payload in [
        *NOISE,
        stranger.model_copy(update={"deployment": "other"}).model_dump_json(by_alias=True).encode(),
    ]:
        await site.publish(name, aspect, payload)
    await site.deploy(env={"A": "1"})
    second = await site.until_state(name, "running", generation=2)
    assert second.sequence > first.sequence
    assert [one.generation for one in site.decisions(name)] == [1, 2]
    assert sorted(site.nodes.starts.values()) == [1, 1]
    await site.cancel(name)
    await site.until_state(name, "stopped")


async def test_noise_in_place_of_levels_is_written_over(site: Site) -> None:
    (a,) = site.node("a")
    await site.nodes.join(a)
    await site.found(1)
    name = await site.deploy()
    await site.until_state(name, "running")
    s = site.bus.subjects
    for payload in NOISE:
        for subject in (
            s.desired(a, f"{name}-0"),
            s.observed(a, f"{name}-0"),
            s.desired(a, "x-7"),
            s.desired(a, "x"),
        ):
            await site.bus.jetstream.publish(subject, payload, secrets.token_hex(8))
    await until_desired(site, a, name, "running")
    await site.cancel(name)
    await site.until_state(name, "stopped")
    await until_desired(site, a, name, "stopped")
    assert max(site.nodes.starts.values()) == 1


async def until_desired(site: Site, node: str, deployment: str, state: str) -> None:
    """The level on the bus, as a worker that starts would read it."""
    async with asyncio.timeout(20):
        while True:
            subject = site.bus.subjects.desired(node, f"{deployment}-0")
            stored = await site.bus.jetstream.last(f"{site.mc}_workloads", subject)
            if stored and f'"state":"{state}"'.encode() in stored[1]:
                return
            await asyncio.sleep(0.02)


async def test_a_cancellation_that_cannot_be_read_is_one(site: Site) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    for number, payload in enumerate(
        [b"", b"\xff" * 100, b'{"reson": "typo"}', secrets.token_bytes(MIB - 4096)]
    ):
        name = await site.deploy(f"d{number}")
        await site.until_state(name, "running")
        await site.publish(name, "cancel", payload)
        await site.until_state(name, "stopped")


async def test_a_user_by_nats(site: Site) -> None:
    """With a user's own credential: the request, and the answers that it may read."""
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    user = site.stack.credentials.add("user", f"u-{site.group}")
    endpoint = site.stack.environment(user)
    assert endpoint
    bus = await _connect(site, user)
    try:
        name = site.name()
        asked = DeploymentRequest.model_validate(site.request())
        await bus.publish(bus.subjects.request(name), asked, about=name)
        async with (
            asyncio.timeout(20),
            bus.watch({bus.subjects.decision(name): Decision}) as items,
        ):
            async for item in items:
                if item.event:
                    assert item.event.data.outcome == "scheduled"
                    break
        await site.until_state(name, "running")
        listed = (await bus.request("vim", "list"))["deployments"]
        assert name in {one["deployment"] for one in listed}
        got = await bus.request("vim", "get", {"deployment": name})
        assert got["decision"]["request"]["where"] == {"label.group": site.group}
    finally:
        await bus.close()


async def _connect(site: Site, credential: Any) -> Bus:
    from bus.permissions import inbox_prefix
    from bus.port import Endpoint

    endpoint = Endpoint(
        site.stack.broker.url, credential.user, credential.password, inbox_prefix(credential.user)
    )
    return await Bus.connect(endpoint, site.mc, "user")


async def test_by_mqtt_alone(site: Site, mosquitto: Mosquitto, tmp_path: Path) -> None:
    """mosquitto_pub with a user's password, a small bare request; the status is read as a retained message."""
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    user = site.stack.credentials.add("user", f"u-{site.group}")
    port, name = site.stack.mqtt_port, site.name()

    async def request(document: Any, aspect: str = "request") -> None:
        topic = f"mc/{site.mc}/deployment/{name}/{aspect}"
        sent = await asyncio.to_thread(mosquitto.publish, port, user, topic, json.dumps(document))
        assert sent.returncode == 0, sent.stderr

    async def retained(file: str) -> dict[str, Any]:
        topic = f"mc/{site.mc}/deployment/{name}/status"
        reader = await asyncio.to_thread(mosquitto.subscribe, port, user, topic, tmp_path / file)
        await asyncio.to_thread(reader.process.wait, 10)
        (line,) = [line for line in reader.text().splitlines() if line.startswith(topic)]
        status: dict[str, Any] = json.loads(line.removeprefix(topic))["data"]
        return status

    await request({"runtimes": ["process"], "images": {"process": {"command": "not a list"}}})
    await site.until_state(name, "rejected")
    refused = await retained("refused")
    assert (refused["to"], refused["problems"][0]["field"]) == ("rejected", "images.process.command")
    await request(site.request())
    await site.until_state(name, "running")
    assert (await retained("running"))["to"] == "running"
    await request({}, "cancel")
    await site.until_state(name, "stopped")
    assert (await retained("stopped"))["to"] == "stopped"
