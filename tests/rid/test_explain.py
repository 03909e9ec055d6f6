"""Why nodes are not in an answer, where there are more of them than can be named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.predicate import Condition, Every, Predicate
from services.rid.explain import explain

NODES = [{"name": f"n{at}", "gpu": False, "rack": "r1"} for at in range(3000)] + [
    {"name": "near", "gpu": True, "rack": "r2"}
]


def test_of_very_many_nodes_the_nearest_misses_are_named() -> None:
    parts = [Condition("gpu", "boolean", op="eq", value=True), Condition("rack", "string", "eq", "r1")]

    def select(predicate: Predicate, _: Iterable[str]) -> list[dict[str, Any]]:
        return [node for node in NODES if _holds(predicate, node)]

    far, near = explain(parts, select)
    assert (near.attribute, near.nodes, near.count) == ("rack", ["near"], 1)
    assert (far.attribute, len(far.nodes), far.count) == ("gpu", 1999, 3000)


def _holds(predicate: Predicate, node: dict[str, Any]) -> bool:
    if isinstance(predicate, Condition):
        return bool(node[predicate.attribute] == predicate.value)
    assert isinstance(predicate, Every)
    return all(_holds(part, node) for part in predicate.parts)
