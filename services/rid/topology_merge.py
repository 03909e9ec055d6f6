"""Answers of several miniclouds into one: the same nodes in the same order as one index over all of them.

Each has sent its own best ``limit`` nodes, and the best of all are among those. Sorted by the query's keys
as every engine does it (missing values last either way), ties by name, then by minicloud; then cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from schemas.attributes import Kind, kind_of
from schemas.query import Answer, Query
from services.rid.rows import sort_key
from services.rid.topology import MINICLOUD, Part

_TYPES: Final[dict[Kind, tuple[type, ...]]] = {
    "number": (int, float),
    "string": (str,),
    "bool": (bool,),
    "set": (list,),
    "version": (str,),
}


def merged(query: Query, parts: Sequence[Part], *, revision: int, took: float) -> Answer:
    """One answer.

    Args:
        query: what was asked.
        parts: of each minicloud; their nodes are taken over.
        revision: of our own resource-change log.
        took: seconds.
    """
    nodes: list[dict[str, Any]] = []
    rejected = []
    total = 0
    for part in parts:
        if part.answer is None:
            continue
        # Whoever answers speaks for its own nodes, whatever they call themselves.
        name = part.coverage.minicloud
        nodes += [{**node, MINICLOUD: name} for node in part.answer.nodes]
        rejected += [group.model_copy(update={MINICLOUD: name}) for group in part.answer.rejected]
        total += part.answer.total
    nodes = ordered(nodes, query.order)[: query.limit]
    if query.fields is not None:
        asked = {"name", MINICLOUD, *query.fields}
        nodes = [{name: value for name, value in node.items() if name in asked} for node in nodes]
    return Answer(
        nodes=nodes,
        total=total,
        revision=revision,
        coverage=[part.coverage for part in parts],
        took=took,
        rejected=rejected,
    )


def ordered(nodes: list[dict[str, Any]], order: Sequence[tuple[str, bool]]) -> list[dict[str, Any]]:
    """Nodes of several miniclouds by the sort keys, ``(attribute, descending)``."""
    nodes = sorted(nodes, key=lambda node: (node["name"], node[MINICLOUD]))
    # Sorting is stable, descending too, so the least important key goes first.
    for name, descending in reversed(order):
        key, types = sort_key(name), _TYPES[kind_of(name)]
        having = [node for node in nodes if isinstance(node.get(name), types)]
        missing = [node for node in nodes if not isinstance(node.get(name), types)]
        having.sort(key=lambda node, name=name, key=key: key(node[name]), reverse=descending)  # type: ignore[misc]
        nodes = having + missing
    return nodes
