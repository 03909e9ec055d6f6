"""What every OpenAPI document of ours is: whole in itself, with each operation described once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def check_whole(whole: dict[str, Any]) -> None:
    """Every reference leads somewhere, every schema is one, every operation is described and named once."""
    assert whole["openapi"].startswith("3.1.")
    assert whole["info"]["title"]
    assert whole["info"]["version"]
    schemas = whole["components"]["schemas"]
    for part in _walk(whole):
        if isinstance(part.get("$ref"), str):
            prefix, _, name = part["$ref"].rpartition("/")
            assert prefix == "#/components/schemas"
            assert name in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    operations = []
    for path, item in whole["paths"].items():
        assert set(item) <= METHODS | {"parameters"}
        named = {one["name"] for one in item.get("parameters", []) if one["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        for method in METHODS & set(item):
            operation = item[method]
            operations.append(operation["operationId"])
            assert operation["responses"]["200"]["content"]
            for response in operation["responses"].values():
                assert response["description"]
            for parameter in operation.get("parameters", []):
                assert {"name", "in", "schema"} <= set(parameter)
                jsonschema.Draft202012Validator.check_schema(parameter["schema"])
            for told in operation.get("requestBody", {}).get("content", {}).values():
                jsonschema.validate(told["example"], {**told["schema"], "components": whole["components"]})
    assert len(operations) == len(set(operations))


def described(whole: dict[str, Any]) -> set[tuple[str, str]]:
    """Paths and methods."""
    return {(path, method) for path, item in whole["paths"].items() for method in METHODS & set(item)}


def _walk(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from _walk(value)
    elif isinstance(part, list):
        for value in part:
            yield from _walk(value)
