"""The OpenAPI 3.1 document of vim's HTTP, made from the models; served, and written by ``docs/generate.py``."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from schemas.decision import Decision
from schemas.deployment import DeploymentRequest
from schemas.verbs import (
    DeploymentDetail,
    DeploymentEvent,
    DeploymentEvents,
    Deployments,
    ErrorDocument,
    LogLine,
    MigrateDeployment,
    PrintedLines,
    ScaleDeployment,
    Wished,
)

_VERSION: Final = "1"
_JSON: Final = "application/json"
_LINES: Final = "application/x-ndjson"
_EVENTS: Final = "text/event-stream"
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "after": {
        "description": "begin after this name; what an answer calls `next`",
        "schema": {"type": "string", "maxLength": 64},
    },
    "limit": {
        "description": "so many at most",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000},
    },
    "reason": {
        "description": "why, for whoever reads the status",
        "schema": {"type": "string", "maxLength": 4096},
    },
    "replica": {
        "description": "only this one",
        "schema": {"type": "integer", "minimum": 0, "maximum": 1000},
    },
    "tail": {
        "description": "how many lines of each, counted from the last",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100},
    },
    "follow": {
        "description": "go on with what they say, until the deployment ends",
        "schema": {"type": "boolean", "default": False},
    },
    "kinds": {
        "description": "which events, separated by commas: status, decision, request, cancel, migrate",
        "schema": {"type": "string", "default": "status,decision"},
        "example": "status",
    },
    "since": {
        "description": "resume after this revision; the header Last-Event-ID says the same",
        "schema": {"type": "integer", "minimum": 0},
    },
    "format": {
        "description": "how it is told; by the header Accept if it is not said here. "
        "`json` ends, `sse` and `ndjson` go on with what comes",
        "schema": {"enum": ["json", "sse", "ndjson"]},
    },
}
_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "If-Match": {
        "description": "the ETag that the deployment must have still; else it is a conflict",
        "schema": {"type": "string"},
        "example": '"42"',
    },
    "If-None-Match": {
        "description": "`*`: only if nothing was requested under this id yet",
        "schema": {"enum": ["*"]},
    },
}
_REFUSALS: Final = {
    "400": "what is asked is wrong; the answer says every field, what was wrong and what would be right",
    "403": "a page of another site asks it",
    "404": "there is no such deployment, replica or node",
    "409": "somebody else changed it first, or it was cancelled",
    "410": "the revision is no longer kept",
    "413": "what is asked is too large",
    "503": "no vim acts at this moment, or what it needs does not answer; to be asked again",
    "504": "it was asked and did not answer in time",
}
_ALWAYS: Final = ("403", "503", "504")
_REQUEST: Final = {
    "name": "hello",
    "runtimes": ["process"],
    "images": {"process": {"command": ["python3", "-m", "http.server", "8080"]}},
    "resources": {"cpu": "250m", "memory": "64MiB"},
    "replicas": 2,
}
_STORED: Final = "it is stored on the bus; the deployment's events tell what becomes of it"


@cache
def document() -> dict[str, Any]:
    """The document."""
    _, definitions = models_json_schema(
        [
            (DeploymentRequest, "validation"),
            (ScaleDeployment, "validation"),
            (MigrateDeployment, "validation"),
            (Wished, "serialization"),
            (Deployments, "serialization"),
            (DeploymentDetail, "serialization"),
            (Decision, "serialization"),
            (DeploymentEvents, "serialization"),
            (DeploymentEvent, "serialization"),
            (PrintedLines, "serialization"),
            (LogLine, "serialization"),
            (ErrorDocument, "serialization"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    request = _body("DeploymentRequest-Input", definitions["$defs"], _REQUEST)
    one = {"parameters": [_in_the_path()]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Minicloud deployments",
            "version": _VERSION,
            "description": "What is to run and what does: requests, decisions, and the whole life as events. "
            "Any vim answers, also one that stands by.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/deployments": {
                "get": _operation(
                    "list", "Deployments by id.", _of("Deployments"), ("after", "limit"), refuses=("400",)
                ),
                "post": _wish("create", "Request a deployment.", request, refuses=("400", "409", "413")),
            },
            "/v1/deployments:whatif": {
                "post": _operation(
                    "whatif",
                    "What would be decided of a request now; nothing is done or reserved.",
                    _of("Decision"),
                    body=request,
                    refuses=("400", "413"),
                )
            },
            "/v1/deployments/{deployment}": {
                **one,
                "get": _operation(
                    "get",
                    "One deployment with its decision and status.",
                    _of("DeploymentDetail"),
                    refuses=("400", "404"),
                    headers={"ETag": "of its last request; for If-Match"},
                ),
                "put": _wish(
                    "put",
                    "Request a deployment under this id, or another content of one.",
                    request,
                    refuses=("400", "409", "413"),
                    asked=("If-Match", "If-None-Match"),
                ),
                "delete": _wish(
                    "cancel", "Have it end.", None, parameters=("reason",), refuses=("400", "404")
                ),
            },
            "/v1/deployments/{deployment}/why": {
                **one,
                "get": _operation(
                    "why",
                    "Its decision: every candidate's score, every rejection's reason.",
                    _of("Decision"),
                    refuses=("400", "404"),
                ),
            },
            "/v1/deployments/{deployment}/events": {
                **one,
                "get": _operation(
                    "events",
                    "Its life as it was told: as a document, or as a stream that goes on.",
                    {
                        _JSON: {"schema": _model("DeploymentEvents")},
                        **_streamed("DeploymentEvent", 'id: 7\nevent: status\ndata: {"revision":7}\n\n'),
                    },
                    ("kinds", "since", "limit", "format"),
                    refuses=("400", "404", "410"),
                ),
            },
            "/v1/deployments/{deployment}/logs": {
                **one,
                "get": _operation(
                    "logs",
                    "What its replicas printed last, and with `follow` what they say then.",
                    {
                        _JSON: {"schema": {"type": "array", "items": _model("PrintedLines")}},
                        **_streamed(
                            "LogLine", 'event: line\ndata: {"workload":"hello-0","line":"it is up"}\n\n'
                        ),
                    },
                    ("replica", "tail", "follow", "format"),
                    refuses=("400", "404"),
                ),
            },
            "/v1/deployments/{deployment}/scale": {
                **one,
                "post": _wish(
                    "scale",
                    "Another number of replicas; nothing else changes.",
                    _body("ScaleDeployment", definitions["$defs"], {"replicas": 3}, named=True),
                    refuses=("400", "404", "409", "413"),
                ),
            },
            "/v1/deployments/{deployment}/migrate": {
                **one,
                "post": _wish(
                    "migrate",
                    "Have a replica, or all, run on another node.",
                    _body(
                        "MigrateDeployment",
                        definitions["$defs"],
                        {"replica": 0, "to": "pi-4"},
                        named=True,
                    ),
                    refuses=("400", "404", "409", "413"),
                ),
            },
            "/v1/deployments/{deployment}/pause": {
                **one,
                "post": _wish(
                    "pause", "Have every replica stand still.", None, refuses=("400", "404", "409")
                ),
            },
            "/v1/deployments/{deployment}/resume": {
                **one,
                "post": _wish("resume", "Have them go on.", None, refuses=("400", "404", "409")),
            },
            "/openapi.json": {
                "get": _operation("openapi", "This document.", {_JSON: {"schema": {"type": "object"}}})
            },
        },
        "components": {"schemas": definitions["$defs"]},
    }


def _model(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _of(name: str) -> dict[str, Any]:
    return {_JSON: {"schema": _model(name)}}


def _streamed(name: str, example: str) -> dict[str, Any]:
    return {
        _LINES: {"schema": _model(name)},
        _EVENTS: {"schema": _model(name), "example": example},
    }


def _in_the_path() -> dict[str, Any]:
    return {
        "name": "deployment",
        "in": "path",
        "required": True,
        "description": "its id",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    }


def _body(
    name: str, models: dict[str, Any], example: dict[str, Any], *, named: bool = False
) -> dict[str, Any]:
    """A body that holds a model; where the path names the deployment, the body need not."""
    # Where a model is read and written alike, pydantic makes one of both.
    name = name if name in models else name.removesuffix("-Input")
    schema: dict[str, Any] = _model(name)
    if named:
        whole = models[name]
        schema = {**whole, "required": [field for field in whole["required"] if field != "deployment"]}
    return {"required": True, "content": {_JSON: {"schema": schema, "example": example}}}


def _operation(
    name: str,
    summary: str,
    content: dict[str, Any],
    parameters: tuple[str, ...] = (),
    *,
    body: dict[str, Any] | None = None,
    refuses: tuple[str, ...] = (),
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    problem = {_JSON: {"schema": _model("ErrorDocument")}}
    refused = {
        status: {"description": _REFUSALS[status], "content": problem}
        for status in sorted({*refuses, *_ALWAYS})
    }
    answer: dict[str, Any] = {"description": "the answer", "content": content}
    if headers:
        answer["headers"] = {
            header: {"description": about, "schema": {"type": "string"}} for header, about in headers.items()
        }
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": answer, **refused},
    }
    if parameters:
        operation["parameters"] = [{"name": one, "in": "query", **_PARAMETERS[one]} for one in parameters]
    if body:
        operation["requestBody"] = body
    return operation


def _wish(
    name: str,
    summary: str,
    body: dict[str, Any] | None,
    *,
    parameters: tuple[str, ...] = (),
    refuses: tuple[str, ...],
    asked: tuple[str, ...] = (),
) -> dict[str, Any]:
    """An operation that publishes something, or nothing where it was wished so already."""
    operation = _operation(name, summary, _of("Wished"), parameters, body=body, refuses=refuses)
    stored = {**operation["responses"]["200"], "description": _STORED}
    operation["responses"] = {
        "200": {**stored, "description": "it was wished so already"},
        "202": stored,
        **{status: said for status, said in operation["responses"].items() if status != "200"},
    }
    if asked:
        operation.setdefault("parameters", [])
        operation["parameters"] += [{"name": one, "in": "header", **_HEADERS[one]} for one in asked]
    return operation
