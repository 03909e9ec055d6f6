"""The OpenAPI 3.1 document of the monitor's HTTP, from the models; served, and written by ``docs/generate.py``."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from schemas.verbs import ErrorDocument
from services.monitor.tosca import MEDIA_TYPE
from services.monitor.views import (
    DeploymentView,
    Impacts,
    ImpactView,
    Namespaces,
    Nodes,
    NodeView,
    NodeWindow,
    NodeWindows,
    PastOfNode,
    Targets,
    Workloads,
)

_JSON: Final = "application/json"
_MODELS: Final = (
    Nodes,
    NodeView,
    PastOfNode,
    NodeWindow,
    NodeWindows,
    Workloads,
    Namespaces,
    Impacts,
    ImpactView,
    DeploymentView,
    Targets,
    ErrorDocument,
)
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "metric": {
        "description": "which layer: of machines, or of what runs on them",
        "schema": {"enum": ["physical_metrics", "virtual_metrics"]},
    },
    "namespace": {
        "description": "of pods; the minicloud's own workloads are in the one called as it is",
        "schema": {"type": "string", "maxLength": 253},
    },
    "format": {"description": "json by default", "schema": {"enum": ["json", "tosca"]}},
    "after": {
        "description": "begin after this one: `next` of the page before",
        "schema": {"type": "string"},
    },
    "before": {
        "description": "only what was said before this moment: `next` of the page before",
        "schema": {"type": "string", "format": "date-time"},
    },
    "limit": {
        "description": "so many at most",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    },
    "window": {
        "description": "how long",
        "schema": {"enum": ["5m", "10m", "15m"], "default": "5m"},
    },
    "port": {
        "description": "of the exporter of nodes whose label exporter.port says none; none: they are left out",
        "schema": {"type": "integer", "minimum": 1, "maximum": 65535},
    },
}
_PATH: Final = {"node": "its name or its agent's id", "deployment": "its id"}
_REFUSALS: Final = {
    "400": "the question is wrong; the answer says where and what would be right",
    "401": "the secret is missing or wrong",
    "404": "there is no such thing",
    "503": "the present state is still being read, or who keeps the answer is away",
}
_SILENT: Final = {
    "Minicloud-Silent": {
        "description": "why a part of the document is empty, by its name",
        "schema": {"type": "string"},
    }
}


@cache
def document() -> dict[str, Any]:
    """The document."""
    _, definitions = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    anything = {_JSON: {"schema": {"type": "object"}}}
    page = ("after", "limit")
    targets = {_JSON: {"schema": {"type": "array", "items": _model("Targets")}}}
    told = {_JSON: {"schema": {"type": "array", "items": {"type": "object"}}}}
    yaml = {MEDIA_TYPE: {"schema": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Minicloud monitor",
            "version": "1",
            "description": "What every node is and how it does, what runs on it, and what is wrong.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"basic": []}],
        "paths": {
            "/monitoring": _get(
                "monitoring",
                "How nodes do, or what runs on them, as in Figures 9 to 11 of the seed.",
                anything,
                ("metric", "namespace"),
                headers=_SILENT,
            ),
            "/characterization": _get(
                "characterization",
                "What every node is, as in Figure 12 of the seed, or as TOSCA.",
                told | yaml,
                ("format",),
            ),
            "/v1/nodes": _get("nodes", "Nodes by name: what they are and how they do.", "Nodes", page),
            "/v1/nodes/{node}": _get("node", "One node.", "NodeView"),
            "/v1/nodes/{node}/characterizations": _get(
                "past", "What the node was, the newest first.", "PastOfNode", ("before", "limit")
            ),
            "/v1/nodes/{node}/windows": _get(
                "nodeWindows", "Means, maxima and rates of its metrics.", "NodeWindow", ("window",)
            ),
            "/v1/nodes/{node}/impact": _get(
                "impact", "What is wrong with the node, and which deployments suffer.", "ImpactView"
            ),
            "/v1/windows": _get(
                "windows", "Means, maxima and rates of all nodes.", "NodeWindows", ("window", *page)
            ),
            "/v1/workloads": _get(
                "workloads", "What runs: workloads and pods.", "Workloads", ("namespace", *page)
            ),
            "/v1/namespaces": _get("namespaces", "What each namespace takes.", "Namespaces"),
            "/v1/impacts": _get(
                "impacts", "Nodes in trouble, and which deployments suffer.", "Impacts", page
            ),
            "/v1/deployments/{deployment}": _get(
                "deployment", "What the nodes of a deployment are doing.", "DeploymentView"
            ),
            "/v1/tosca": _get("tosca", "Cluster and devices as TOSCA Simple Profile 1.3.", yaml),
            "/v1/targets": _get(
                "targets", "The nodes' exporters, for Prometheus' http_sd_configs.", targets, ("port",)
            ),
            "/metrics": _get(
                "metrics",
                "The last sample of every node, for Prometheus.",
                {"text/plain": {"schema": {"type": "string"}}},
            ),
            "/openapi.json": _get("openapi", "This document.", anything),
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _model(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _get(
    name: str,
    summary: str,
    answer: str | dict[str, Any],
    parameters: tuple[str, ...] = (),
    *,
    headers: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One path; ``answer`` is a model, or the content by media type."""
    problem = {_JSON: {"schema": _model("ErrorDocument")}}
    succeeded: dict[str, Any] = {
        "description": "the answer",
        "content": answer if isinstance(answer, dict) else {_JSON: {"schema": _model(answer)}},
    }
    if headers:
        succeeded["headers"] = headers
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": succeeded,
            **{status: {"description": why, "content": problem} for status, why in _REFUSALS.items()},
        },
    }
    if parameters:
        operation["parameters"] = [{"name": one, "in": "query", **_PARAMETERS[one]} for one in parameters]
    in_path = {
        "impact": "node",
        "node": "node",
        "past": "node",
        "nodeWindows": "node",
        "deployment": "deployment",
    }.get(name)
    if in_path is None:
        return {"get": operation}
    where = {"name": in_path, "in": "path", "required": True, "description": _PATH[in_path]}
    return {"get": operation, "parameters": [{**where, "schema": {"type": "string"}}]}
