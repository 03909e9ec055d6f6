"""vim's HTTP on a real bus: what is answered and refused, and what a wish becomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from schemas.decision import DeploymentStatus
from schemas.event import now
from schemas.verbs import WhichDeployment
from services.vim.api import routes
from services.vim.openapi import document
from services.vim.service import Vim
from tests.openapi import check_whole, described
from tests.vim.site import GIB, Site

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "vim-openapi.json"
FROM_ELSEWHERE = {"Origin": "http://elsewhere.example"}


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.stack.http, timeout=20) as client:
        yield client


def at(site: Site, path: str = "", word: str = "d") -> str:
    return f"/v1/deployments/{site.name(word)}{path}"


def _check(name: str, told: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    jsonschema.validate(told, schema)


def refused(answer: httpx.Response, status: int, *, field: str | None = None) -> dict[str, Any]:
    told: dict[str, Any] = answer.json()
    assert answer.status_code == status, told
    _check("ErrorDocument", told)
    if field is not None:
        assert told["field"] == field, told
    return told


# -- the document ----------------------------------------------------------------------------------


def test_the_committed_document_is_what_is_made_now() -> None:
    committed = json.loads(COMMITTED.read_text())
    assert committed.pop("x-generated")
    assert committed == document(), "stale: make docs"


def test_the_document_is_whole() -> None:
    check_whole(document())


def test_every_route_is_described_and_nothing_else() -> None:
    served = {
        (route.path, method.lower())
        for route in routes(None, None)  # type: ignore[arg-type]
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == described(document())


# -- from create to cancel -------------------------------------------------------------------------


async def test_a_deployment_from_create_to_cancel(site: Site, http: httpx.AsyncClient) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = site.name()
    created = await http.post("/v1/deployments", json=site.request(name=name))
    assert created.status_code == 202
    _check("Wished", created.json())
    assert created.headers["location"] == at(site)
    assert created.json() == {"deployment": name, "changed": True, "revision": created.json()["revision"]}
    running = await site.until_state(name, "running")

    known = await http.get(created.headers["location"])
    _check("DeploymentDetail", known.json())
    assert known.json()["state"] == "running"
    assert known.json()["revision"] == created.json()["revision"]
    assert known.headers["etag"] == f'"{created.json()["revision"]}"'
    why = (await http.get(at(site, "/why"))).json()
    _check("Decision", why)
    assert [placement["node"] for placement in why["placements"]] == [running.node]

    again = await http.post("/v1/deployments", json=site.request(name=name))
    assert (again.status_code, again.json()["changed"]) == (200, False)
    assert again.json()["revision"] == created.json()["revision"]
    other = await http.post("/v1/deployments", json=site.request(name=name, env={"A": "b"}))
    assert "put it" in refused(other, 409, field="name")["expected"]

    ended = await http.delete(at(site), params={"reason": "enough"})
    assert ended.status_code == 202
    stopped = await site.until_state(name, "stopped")
    assert stopped.message == "enough"
    assert (await http.delete(at(site))).status_code == 200
    assert (
        await http.post("/v1/deployments", json=site.request(name=name, env={"A": "b"}))
    ).status_code == 202
    assert (await site.until_state(name, "running")).generation == 2


async def test_a_put_with_an_etag_changes_only_what_was_read(site: Site, http: httpx.AsyncClient) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = site.name()
    first = await http.put(at(site), json=site.request(env={"A": "1"}), headers={"If-None-Match": "*"})
    assert first.status_code == 202
    await site.until_state(name, "running")
    taken = await http.put(at(site), json=site.request(env={"A": "0"}), headers={"If-None-Match": "*"})
    refused(taken, 409, field="If-Match")
    etag = (await http.get(at(site))).headers["etag"]
    second = await http.put(at(site), json=site.request(env={"A": "2"}), headers={"If-Match": etag})
    assert second.status_code == 202
    late = await http.put(at(site), json=site.request(env={"A": "3"}), headers={"If-Match": etag})
    assert str(second.json()["revision"]) in refused(late, 409, field="If-Match")["message"]
    running = await site.until_state(name, "running", generation=2)
    assert site.nodes.running[str(running.node), f"{name}-0"].env == {"A": "2"}


async def test_deployments_are_listed_in_pages(site: Site, http: httpx.AsyncClient) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    mine = sorted([await site.deploy(f"page{number}") for number in range(5)])
    for name in mine:
        await site.until_state(name, "running")
    names: list[str] = []
    after = ""
    while after is not None:
        page = (await http.get("/v1/deployments", params={"after": after, "limit": 2})).json()
        _check("Deployments", page)
        assert len(page["deployments"]) <= 2
        names += [each["deployment"] for each in page["deployments"]]
        after = page["next"]
    assert [name for name in names if name in mine] == mine
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("method", "path", "ask", "status", "field"),
    [
        ("POST", "", {"json": {"runtimes": ["proces"], "images": {}}}, 400, "runtimes.0"),
        ("POST", "", {"json": {"runtimes": ["process"], "images": {"process": {"command": ["x"]}}}}, 400, "name"),
        ("POST", "", {"json": {"name": "x y"}}, 400, "name"),
        ("POST", "", {"content": b"{"}, 400, None),
        ("POST", "", {"content": b"[]"}, 400, None),
        ("POST", "", {"content": b" " * (4 * 1024 * 1024 + 1)}, 413, None),
        ("POST", "", {"json": {}, "headers": FROM_ELSEWHERE}, 403, "Origin"),
        ("POST", ":whatif", {"json": {"replicas": -1}}, 400, None),
        ("GET", "", {"params": {"limit": "0"}}, 400, "limit"),
        ("GET", "", {"params": {"page": "2"}}, 400, "page"),
        ("GET", "/no.token", {}, 400, "deployment"),
        ("GET", "/nobody", {}, 404, None),
        ("DELETE", "/nobody", {}, 404, None),
        ("DELETE", "/nobody", {"headers": FROM_ELSEWHERE}, 403, "Origin"),
        ("GET", "/nobody/why", {}, 404, None),
        ("GET", "/nobody/logs", {}, 404, None),
        ("GET", "/nobody/logs", {"params": {"follow": "true"}}, 404, None),
        ("GET", "/nobody/logs", {"params": {"follow": "yes"}}, 400, "follow"),
        ("GET", "/nobody/logs", {"params": {"follow": "true", "format": "json"}}, 400, "format"),
        ("GET", "/nobody/events", {}, 404, None),
        ("GET", "/nobody/events", {"params": {"kinds": "statuses"}}, 400, "kinds"),
        ("GET", "/nobody/events", {"headers": {"Last-Event-ID": "x"}}, 400, "since"),
        ("POST", "/nobody/scale", {"json": {"replicas": 2}}, 404, None),
        ("POST", "/nobody/scale", {"json": {"replicas": "two"}}, 400, "replicas"),
        ("POST", "/nobody/scale", {"json": {"replicas": 2, "deployment": "other"}}, 400, "deployment"),
        ("POST", "/nobody/scale", {"json": {"replica": 2}}, 400, None),
        ("POST", "/nobody/migrate", {"json": {"to": "a", "from": "a"}}, 400, "to"),
        ("POST", "/nobody/migrate", {"json": {}}, 404, None),
        ("POST", "/nobody/pause", {}, 404, None),
        ("POST", "/nobody/resume", {}, 404, None),
        ("PUT", "/nobody", {"json": {}, "headers": {"If-Match": "W/x"}}, 400, "If-Match"),
        ("PATCH", "/nobody", {}, 405, None),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_with_what_would_be_right(
    http: httpx.AsyncClient, method: str, path: str, ask: dict[str, Any], status: int, field: str | None
) -> None:
    told = refused(await http.request(method, f"/v1/deployments{path}", **ask), status, field=field)
    assert told["message"]


async def test_a_name_that_is_nearly_right_is_told(site: Site, http: httpx.AsyncClient) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy("nearly")
    await site.until_state(name, "running")
    for method, path, ask in (("GET", "", {}), ("DELETE", "", {}), ("POST", "/scale", {"replicas": 1})):
        answer = await http.request(method, f"/v1/deployments/{name}x{path}", json=ask or None)
        assert name in refused(answer, 404)["expected"]


# -- life ------------------------------------------------------------------------------------------


async def test_a_life_is_read_in_pages_and_followed(site: Site, http: httpx.AsyncClient) -> None:
    await site.nodes.join(*site.node("a"))
    await site.found(1)
    name = await site.deploy()
    running = await site.until_state(name, "running")
    whole = (await http.get(at(site, "/events"), params={"kinds": "request,decision,status,cancel"})).json()
    _check("DeploymentEvents", whole)
    assert not whole["more"]
    revisions = [event["revision"] for event in whole["events"]]
    assert revisions == sorted(set(revisions))
    assert whole["events"][0]["kind"] == "request"
    assert [event["kind"] for event in whole["events"]].count("decision") == 1
    statuses = [event["data"] for event in whole["events"] if event["kind"] == "status"]
    assert [status["sequence"] for status in statuses] == list(range(1, running.sequence + 1))
    assert statuses[-1]["to"] == "running"

    read: list[dict[str, Any]] = []
    page: dict[str, Any] = {"more": True, "next": None}
    while page["more"]:
        since = {} if page["next"] is None else {"since": page["next"]}
        page = (await http.get(at(site, "/events"), params={"limit": 2, **since})).json()
        assert len(page["events"]) <= 2
        read += page["events"]
    assert read == [event for event in whole["events"] if event["kind"] in ("status", "decision")]

    accept = {"Accept": "text/event-stream", "Last-Event-ID": str(read[-2]["revision"])}
    async with http.stream("GET", at(site, "/events"), headers=accept) as stream, asyncio.timeout(20):
        assert stream.headers["content-type"].startswith("text/event-stream")
        await site.cancel(name)
        told: list[dict[str, str]] = [{}]
        async for line in stream.aiter_lines():
            field, _, text = line.partition(": ")
            if field and not line.startswith(":"):
                told[-1][field] = text
            elif not line and told[-1]:
                if '"to":"stopped"' in told[-1]["data"]:
                    break
                told.append({})
    assert [event["event"] for event in told] == ["status"] * len(told)
    assert int(told[0]["id"]) == read[-1]["revision"]
    states = [json.loads(event["data"])["data"]["to"] for event in told]
    assert states == ["running", "stopping", "stopped"]
    for event in told:
        _check("DeploymentEvent", json.loads(event["data"]))

    async with http.stream(
        "GET", at(site, "/events"), params={"format": "ndjson", "kinds": "cancel"}
    ) as stream:
        first = json.loads(await anext(stream.aiter_lines()))
    assert (first["kind"], first["data"], first["time"]) == ("cancel", {"reason": ""}, None)
    refused(await http.get(at(site, "/events"), params={"since": 10**12}), 410)
    refused(await http.get(at(site, "/events"), params={"since": 10**12, "format": "sse"}), 410)


# -- what would be decided -------------------------------------------------------------------------


async def test_whatif_decides_with_what_is_reserved_and_does_nothing(
    site: Site, http: httpx.AsyncClient
) -> None:
    small, large = site.node("small", "large")
    await site.nodes.join(small, memory={"total": GIB})
    await site.nodes.join(large, memory={"total": 4 * GIB})
    await site.found(2)
    held = await site.deploy("held", resources={"memory": "3584MiB"})
    await site.until_state(held, "running")
    heard = len(site.heard)
    asked = site.request(name=site.name(), resources={"memory": "1GiB"})
    answer = await http.post("/v1/deployments:whatif", json=asked)
    assert answer.status_code == 200
    decision = answer.json()
    _check("Decision", decision)
    assert decision["outcome"] == "scheduled"
    assert [placement["node"] for placement in decision["placements"]] == [small]
    assert [candidate["node"] for candidate in decision["candidates"]] == [small]
    assert decision["candidates"][0]["scores"]
    (full,) = [group for group in decision["rejected"] if group["nodes"] == [large]]
    assert full["reason"] == "memory 512MiB unreserved < 1GiB"
    assert {one["field"] for one in decision["enforced"]} >= {"where", "resources.memory"}

    # As often as one likes: nothing of it is held, and what is really asked for gets the place.
    for _ in range(3):
        again = (await http.post("/v1/deployments:whatif", json=asked)).json()
        assert again["placements"] == decision["placements"]
    unnamed = {field: value for field, value in asked.items() if field != "name"}
    assert (await http.post("/v1/deployments:whatif", json=unnamed)).json()["outcome"] == "scheduled"
    three = (await http.post("/v1/deployments:whatif", json={**asked, "replicas": 3})).json()
    assert three["outcome"] == "unschedulable"
    assert len(three["placements"]) == 1, "the most that can be had"
    refused(await http.get(at(site)), 404)
    real = await site.deploy(resources={"memory": "1GiB"})
    assert (await site.until_state(real, "running")).node == small
    assert {one.deployment for one in site.heard[heard:]} == {real}

    # Of what runs it is an update, to which its own room is free.
    update = (await http.post("/v1/deployments:whatif", json={**asked, "env": {"A": "b"}})).json()
    assert (update["generation"], update["placements"][0]["node"]) == (2, small)
    assert update["placements"][0]["reason"] == "kept"


async def test_whatif_refuses_what_nothing_enforces(site: Site, http: httpx.AsyncClient) -> None:
    asked = site.request(name=site.name(), data=[{"bucket": "photos"}], prefer=[{"near": {"bucket": "x"}}])
    told = refused(await http.post("/v1/deployments:whatif", json=asked), 400)
    assert {problem["field"] for problem in told["problems"]} == {"data", "prefer.0"}
    misspelt = site.request(where={"cpu.coers": 1})
    told = refused(await http.post("/v1/deployments:whatif", json=misspelt), 400)
    assert "cpu.cores" in told["expected"]


# -- several vims ----------------------------------------------------------------------------------


async def test_a_vim_that_stands_by_answers_too_and_says_when_nobody_acts(own: Site) -> None:
    own.stack.rid()
    acting = own.stack.vim("vim-1")
    first = own.stack.http
    await own.nodes.join(*own.node("a"))
    await own.found(1)
    name = await own.deploy()
    await own.until_state(name, "running")
    own.stack.vim("vim-2")
    assert own.stack.http != first
    async with httpx.AsyncClient(base_url=own.stack.http, timeout=20) as http:
        await _answers(http)
        assert (await http.get("/readyz")).status_code == 503, "it does not act"
        assert (await http.get(at(own))).json()["state"] == "running"
        other = own.request(name=own.name("other"))
        assert (await http.post("/v1/deployments", json=other)).status_code == 202
        await own.until_state(own.name("other"), "running")
        acting.kill()
        # Wishes are levels: they are taken down while nobody acts, and made so by whoever does next.
        third = own.request(name=own.name("third"))
        assert (await http.post("/v1/deployments", json=third)).status_code == 202
        scaled = await http.post(at(own, "/scale"), json={"replicas": 2})
        assert (scaled.status_code, scaled.json()["changed"]) == (202, True)
        life = {"kinds": "request", "format": "ndjson"}  # to be followed before anybody has looked at it
        async with http.stream("GET", at(own, "/events", word="third"), params=life) as told:
            assert told.status_code == 200
            async for line in told.aiter_lines():
                assert json.loads(line)["kind"] == "request"
                break
        await own.until_state(own.name("third"), "running", seconds=40)
        await own.until(
            lambda: (s := own.last(name)) and s.state == "running" and len(s.replicas) == 2, "two"
        )
        assert (await http.get("/readyz")).status_code == 200


async def test_vim_tells_what_others_have_heard_before_it_hears_it_itself(own: Site) -> None:
    await own.bus.ensure_streams()
    behind = Vim(own.bus, None, lambda: True)  # type: ignore[arg-type]  # it follows nothing
    creating = DeploymentStatus(
        deployment="d", generation=1, sequence=1, state="creating", reason="Placed", observed_at=now()
    )
    behind.state.life("d").status = creating
    running = creating.model_copy(update={"sequence": 2, "state": "running"})
    await own.bus.publish(own.bus.subjects.status("d"), running, about="d")
    told = await behind._get(WhichDeployment(deployment="d"))
    assert (told["state"], told["status"]["sequence"]) == ("running", 2)


async def _answers(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if (await http.get("/openapi.json")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)
