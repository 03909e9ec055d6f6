"""The OpenAPI document: committed as it is made, whole in itself, and true to what rid's HTTP does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from services.rid.api import routes
from services.rid.openapi import document
from tests.openapi import check_whole, described
from tests.rid import nodes
from tests.rid.nodes import until
from tests.rid.test_service import Site, site
from tests.rid.test_watch import Http

__all__ = ["site"]

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "rid-openapi.json"


def test_the_committed_document_is_what_is_made_now() -> None:
    committed = json.loads(COMMITTED.read_text())
    assert committed.pop("x-generated")
    assert committed == document(), "stale: make docs"


def test_the_document_is_whole() -> None:
    check_whole(document())


def test_every_route_is_described_and_nothing_else() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError

    served = {
        (route.path, method.lower())
        for route in routes(None, never, never, bool)  # type: ignore[arg-type]
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == described(document())


def _check(name: str, told: Any) -> None:
    whole = document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": whole["components"]}
    jsonschema.validate(told, schema)


async def test_what_is_answered_and_refused_is_as_described(site: Site) -> None:
    async with Http(site) as (rid, http):
        await site.say(nodes.characterization("a", site.mc), nodes.measurement("a", load_1m=0.5))
        await until(lambda: rid.answers.query({"where": "load.1m<1"}).total == 1, "a")
        await until(lambda: rid.changes.revision > 0, "logged")
        whole = (await http.get("/openapi.json")).json()
        assert whole == document()
        example = whole["paths"]["/v1/query"]["post"]["requestBody"]["content"]["application/json"]["example"]
        _check("Query", example)
        parameters = {
            one["name"]: one["example"]
            for one in whole["paths"]["/v1/nodes"]["get"]["parameters"]
            if "example" in one and one["name"] != "at"
        }
        _check("Answer", (await http.post("/v1/query", json={**example, "explain": True})).json())
        _check("Answer", (await http.post("/v1/query", json={"at": rid.changes.revision})).json())
        answer = await http.get("/v1/nodes", params={**parameters, "limit": 1, "explain": "true"})
        _check("Answer", answer.json())
        assert (await http.get("/v1/nodes/a")).json()["name"] == "a"
        _check("AttributesSeen", (await http.get("/v1/attributes")).json())
        _check("Explanation", (await http.get("/v1/explain", params=parameters)).json())
        _check("Explanation", (await http.post("/v1/explain", json=example)).json())
        for method, ask in (
            ("GET", {"params": {"where": "load.1m<1"}}),
            ("POST", {"json": {"where": "gpu=false"}}),
        ):
            async with http.stream(method, "/v1/watch", **ask) as stream:
                lines = stream.aiter_lines()
                for kind in ("ITEM", "SYNC"):
                    item = json.loads(await anext(lines))
                    assert item["kind"] == kind
                    _check("StandingItem", item)
        for refused, status in (
            (await http.post("/v1/query", json={"where": {"lod.1m": 1}}), 400),
            (await http.get("/v1/nodes/z"), 404),
            (await http.get("/v1/watch", params={"since": 10_000}), 410),
            (await http.post("/v1/explain", content=b"x" * 2_000_000), 413),
        ):
            assert refused.status_code == status
            _check("ErrorDocument", refused.json())
        with pytest.raises(jsonschema.ValidationError):
            _check("Answer", {"nodes": "none"})
