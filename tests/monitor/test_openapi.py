"""The OpenAPI document: committed as it is made, whole in itself, and true to what the monitor's HTTP does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from services.monitor.openapi import document
from tests.monitor.conftest import TOKEN, Site, observed
from tests.openapi import check_whole, described
from tests.rid import nodes
from tests.rid.nodes import until

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "monitor-openapi.json"


def test_the_committed_document_is_what_is_made_now() -> None:
    committed = json.loads(COMMITTED.read_text())
    assert committed.pop("x-generated")
    assert committed == document(), "stale: make docs"


def test_the_document_is_whole() -> None:
    check_whole(document())


def _check(schema: dict[str, Any], told: Any) -> None:
    jsonschema.validate(told, {**schema, "components": document()["components"]})


async def test_every_route_is_described_and_answers_as_described(site: Site) -> None:
    async with site.monitor(hot=80) as (monitor, http):
        served = {
            (route.path, method.lower())
            for route in monitor.frame.routes
            for method in (route.methods or set()) - {"HEAD"}
        }
        whole = (await http.get("/openapi.json")).json()
        assert whole == document()
        assert served == described(whole)
        gpus = [{"name": "V3D"}]
        await site.say(
            nodes.characterization("a", site.mc, gpus=gpus, labels={"exporter.port": "9100"}),
            nodes.presence("a"), observed("a"), nodes.measurement("a", temperature=90, load_1m=1),
        )  # fmt: skip
        await until(lambda: monitor.troubles.of("a"), "it is hot")
        await until(lambda: list(monitor.fleet.workloads()), "the workload")
        needed = {"/monitoring": "?namespace=all"}
        for path, item in whole["paths"].items():
            url = path.replace("{node}", "a").replace("{deployment}", "hello") + needed.get(path, "")
            answer = await http.get(url)
            assert answer.status_code == 200, url
            content = item["get"]["responses"]["200"]["content"]
            kind = answer.headers["content-type"].split(";")[0]
            assert kind in content
            if kind == "application/json":
                assert answer.json(), url
                _check(content[kind]["schema"], answer.json())
        error = {"$ref": "#/components/schemas/ErrorDocument"}
        _check(error, (await http.get("/v1/nodes/z")).json())
        _check(error, (await http.get("/v1/nodes?limit=x")).json())
        http.auth = None
        _check(error, (await http.get("/v1/nodes")).json())
        assert (await http.get("/v1/nodes", headers={"Authorization": f"Bearer {TOKEN}"})).json()["nodes"]
        with pytest.raises(jsonschema.ValidationError):
            _check({"$ref": "#/components/schemas/Nodes"}, {"nodes": "none"})
