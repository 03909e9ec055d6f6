"""The OpenAPI 3.1 document of rid's HTTP, made from the models; served, and written by ``docs/generate.py``."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from schemas.explained import AttributesSeen, Explanation
from schemas.query import Answer, Query
from schemas.standing import StandingItem
from schemas.verbs import ErrorDocument

_VERSION: Final = "1"
_JSON: Final = "application/json"
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "where": {
        "description": "conditions in the short form, joined by commas; none for every node",
        "schema": {"type": "string"},
        "example": "cpu.arch=x86_64,memory.available>=4GiB,!battery",
    },
    "fields": {
        "description": "attributes to answer with, separated by commas; all by default",
        "schema": {"type": "string"},
        "example": "name,load.1m",
    },
    "sort": {
        "description": "attributes to sort by, separated by commas, each with :asc or :desc",
        "schema": {"type": "string"},
        "example": "load.1m:asc",
    },
    "limit": {"description": "how many nodes at most", "schema": {"type": "integer", "minimum": 1}},
    "explain": {"description": "also say why the other nodes do not match", "schema": {"type": "boolean"}},
    "at": {
        "description": "as of a past moment: RFC 3339, a time ago, or a revision of the change log",
        "schema": {"type": "string"},
        "example": "-10m",
    },
    "since": {
        "description": "resume after this revision; the header Last-Event-ID says the same",
        "schema": {"type": "integer", "minimum": 0},
    },
    "format": {
        "description": "how it is told; by the header Accept if it is not said here",
        "schema": {"enum": ["sse", "ndjson"]},
    },
}
_URL: Final = ("where", "sort", "fields", "limit", "explain", "at")
_REFUSALS: Final = {
    "400": "the question is wrong; the answer says where and what would be right",
    "404": "there is no such node",
    "410": "the revision or moment is no longer kept",
    "413": "the question is too large",
    "503": "the index is still being read back",
}


@cache
def document() -> dict[str, Any]:
    """The document."""
    _, definitions = models_json_schema(
        [
            (Query, "validation"),
            (Answer, "serialization"),
            (AttributesSeen, "serialization"),
            (Explanation, "serialization"),
            (StandingItem, "serialization"),
            (ErrorDocument, "serialization"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    item = {"schema": _model("StandingItem")}
    stream = {
        "application/x-ndjson": {**item, "example": '{"kind":"SYNC","revision":7}'},
        "text/event-stream": {
            **item,
            "example": 'id: 7\nevent: SYNC\ndata: {"kind":"SYNC","revision":7}\n\n',
        },
    }
    asked = {"required": True, "content": {_JSON: {"schema": _model("Query"), "example": _EXAMPLE}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Minicloud resource index",
            "version": _VERSION,
            "description": "Which nodes are there, which of them match, and how that changes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/query": {
                "post": _operation(
                    "query", "The nodes that match.", "Answer", body=asked, refuses=("400", "410", "413")
                )
            },
            "/v1/nodes": {
                "get": _operation(
                    "nodes", "The same, asked in the URL.", "Answer", _URL, refuses=("400", "410")
                )
            },
            "/v1/nodes/{which}": {
                "get": _operation("node", "All attributes of one node.", None, refuses=("404",)),
                "parameters": [
                    {
                        "name": "which",
                        "in": "path",
                        "required": True,
                        "description": "its name or id",
                        "schema": {"type": "string"},
                    }
                ],
            },
            "/v1/attributes": {
                "get": _operation(
                    "attributes", "What can be asked, and which values were seen.", "AttributesSeen"
                )
            },
            "/v1/explain": {
                "get": _operation(
                    "explain", "How a query is executed.", "Explanation", _URL, refuses=("400",)
                ),
                "post": _operation(
                    "explainQuery",
                    "How a query is executed.",
                    "Explanation",
                    body=asked,
                    refuses=("400", "413"),
                ),
            },
            "/v1/watch": {
                "get": _operation(
                    "watch",
                    "A standing query: the nodes that match, then what comes, changes and goes.",
                    stream,
                    ("where", "fields", "since", "format"),
                    refuses=("400", "410"),
                ),
                "post": _operation(
                    "watchQuery",
                    "The same, asked by a query document without sort, limit and explain.",
                    stream,
                    ("since", "format"),
                    body=asked,
                    refuses=("400", "410", "413"),
                ),
            },
            "/openapi.json": {"get": _operation("openapi", "This document.", None, refuses=())},
        },
        "components": {"schemas": definitions["$defs"]},
    }


_EXAMPLE: Final = {
    "where": {"cpu.arch": "x86_64", "memory.available": {"$gte": "4GiB"}, "load.5m": {"$lt": 1.5}},
    "fields": ["name", "memory.available"],
}


def _model(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(
    name: str,
    summary: str,
    answer: str | dict[str, Any] | None,
    parameters: tuple[str, ...] = (),
    *,
    body: dict[str, Any] | None = None,
    refuses: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One operation; ``answer`` is a model, the content by media type, or None for any JSON object."""
    content = answer
    if not isinstance(answer, dict):
        content = {_JSON: {"schema": _model(answer) if answer else {"type": "object"}}}
    problem = {_JSON: {"schema": _model("ErrorDocument")}}
    refused = {status: {"description": _REFUSALS[status], "content": problem} for status in (*refuses, "503")}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "the answer", "content": content}, **refused},
    }
    if parameters:
        operation["parameters"] = [{"name": one, "in": "query", **_PARAMETERS[one]} for one in parameters]
    if body:
        operation["requestBody"] = body
    return operation
