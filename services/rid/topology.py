"""The port between a query and the miniclouds that answer it: ``QueryMapper`` and ``TopologyManager``.

The seed (2.3, Figure 4) has a query mapping component that turns a query into what travels, and a topology
manager that executes it in the distributed topology. Two managers stand behind the port: ``Replicate``
(``topology_replicate.py``) answers from copies that are here, ``Scatter`` (``topology_scatter.py``) asks
the rids of the others. Either returns one part a minicloud, which ``topology_merge.py`` joins.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.attributes import lookup
from schemas.predicate import Condition, conditions, conjuncts
from schemas.query import Answer, Coverage, Query

MINICLOUD = "minicloud"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A query as each minicloud's index is asked it.

    Attributes:
        query: as it was asked.
        document: for one index: of its own nodes only, with what merging needs among the fields.
        seen: attributes in it that nobody foresaw.
        named: miniclouds that the query speaks of by name; None for all that are known.
    """

    query: Query
    document: dict[str, Any]
    seen: list[str]
    named: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Part:
    """What one minicloud said, or why it said nothing.

    Attributes:
        coverage: who, and how it went.
        answer: its own best, up to the query's limit; None where it did not answer.
    """

    coverage: Coverage
    answer: Answer | None = None


class TopologyManager(Protocol):
    """One way to have a query answered by other miniclouds."""

    def covers(self, minicloud: str, query: Query) -> bool:
        """Whether this way is good enough for a query to this minicloud now, by the rule of ``auto``."""

    async def execute(self, mapped: Mapped, miniclouds: Sequence[str]) -> list[Part]:
        """One part for each of the miniclouds, within the query's deadline, whatever happens."""


class QueryMapper:
    """A query into what each index is asked."""

    def map(self, query: Query, document: dict[str, Any]) -> Mapped:
        """Map a query.

        Args:
            query: parsed.
            document: as it came.
        """
        wanted = {part: value for part, value in document.items() if part not in ("scope", "fields")}
        if query.fields is not None:
            wanted["fields"] = list(dict.fromkeys([*query.fields, *(name for name, _ in query.order)]))
        wanted["scope"] = {"mode": "local"}
        if query.scope.max_age is not None:
            wanted["scope"]["maxAge"] = query.scope.max_age
        return Mapped(query, wanted, _unforeseen(query), _named(query))


def _unforeseen(query: Query) -> list[str]:
    named = [condition.attribute for condition in conditions(query.predicate)]
    named += [name for name, _ in query.order]
    named += query.fields or []
    return [name for name in dict.fromkeys(named) if lookup(name) is None]


def _named(query: Query) -> tuple[str, ...] | None:
    """Whom the scope names; a condition on ``minicloud`` narrows it, since nobody else has such nodes."""
    scope: Collection[str] | None = None if "*" in query.scope.miniclouds else query.scope.miniclouds
    for part in conjuncts(query.predicate):
        if isinstance(part, Condition) and part.attribute == MINICLOUD and part.op in ("eq", "in"):
            values = part.value if part.op == "in" else (part.value,)
            scope = [name for name in values if scope is None or name in scope]
    return None if scope is None else tuple(dict.fromkeys(scope))
