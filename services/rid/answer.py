"""A query in, an answer out: what matches now, how fresh and how complete that is.

Nodes that are lost are left out unless the query itself speaks of ``state``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from schemas.attributes import MEANS, WINDOWS, lookup
from schemas.errors import NotFound
from schemas.explained import AttributeSeen, AttributesSeen
from schemas.predicate import Condition, Predicate, conditions, conjuncts, every
from schemas.query import Answer, Coverage, Query, parse_query
from services.rid.explain import explain
from services.rid.fresh import HEARD, aged, rewritten, rewritten_fields, rewritten_order
from services.rid.index import Index

_NOT_LOST = Condition("state", "string", "ne", "lost")
_LONGEST_MEAN = 60.0 * max(WINDOWS.values())
_NOTHING = Condition("name", "string", "in", ())


class Answers:
    """Answers from one index.

    Args:
        index: the nodes.
        minicloud: whose they are.
        heard: when anything was last heard from any of them, seconds since the epoch.
        revision: the last revision of the resource-change log that is part of the index.
        clock: seconds since the epoch.
        began: when the running means began, seconds since the epoch; None where there are none.
    """

    def __init__(
        self,
        index: Index,
        minicloud: str,
        heard: Callable[[], float | None],
        revision: Callable[[], int],
        clock: Callable[[], float] = time.time,
        began: float | None = None,
    ) -> None:
        self._began = began
        self._index = index
        self._minicloud = minicloud
        self._heard = heard
        self._revision = revision
        self._clock = clock

    @property
    def index(self) -> Index:
        """Where the answers are from."""
        return self._index

    def query(self, document: Any, seen: Collection[str] = ()) -> Answer:
        """Answer a query document.

        Args:
            document: the query.
            seen: attributes that nobody foresaw and that nodes elsewhere have, so they may be asked for.

        Raises:
            InvalidQuery: names what is wrong with it.
        """
        begun = time.perf_counter()
        names = self._index.names()
        query = parse_query(document, {*names, *seen} if seen else names)
        now = self._clock()
        predicate = self.whole(query)
        ours = {"*", self._minicloud} & set(query.scope.miniclouds)
        found = self._index.select(
            rewritten(predicate, now) if ours else _NOTHING,
            order=rewritten_order(query.order),
            limit=query.limit,
            fields=rewritten_fields(query.fields),
        )
        rejected = []
        if query.explain and ours:
            rejected = explain(conjuncts(predicate), lambda part, fields: self._all(part, fields, now))
        return Answer(
            nodes=[aged(node, now) for node in found.nodes],
            total=found.total,
            revision=self._revision(),
            coverage=self._coverage(query),
            took=round(time.perf_counter() - begun, 6),
            rejected=rejected,
        )

    def coverage(self) -> Coverage:
        """How fresh the index is and how many nodes it has."""
        heard = self._heard()
        return Coverage(
            minicloud=self._minicloud,
            age=None if heard is None else max(0.0, round(self._clock() - heard, 3)),
            nodes=len(self._index),
            via="index",
        )

    def node(self, which: str) -> dict[str, Any]:
        """All attributes of the node with this name or id.

        Raises:
            NotFound: there is none.
        """
        found = self._index.get(which)
        if found is None:
            by_id = self._index.select(Condition("id", "string", "eq", which), limit=1).nodes
            if not by_id:
                raise NotFound(
                    f"no node has the name or id {which[:80]!r}", expected="one that a query lists"
                )
            found = by_id[0]
        return aged(found, self._clock())

    def attributes(self) -> AttributesSeen:
        """What can be asked of the nodes that are there, with the values that were seen."""
        listed = []
        seen, now = self._index.names(), self._clock()
        for held, count in sorted(self._index.attributes().items()):
            name = "age" if held == HEARD else held
            about, span = lookup(name, seen), self._index.span(held)
            if about is None or span is None:
                continue
            least, most = span.least, span.most
            if held == HEARD and least is not None and most is not None:
                least, most = max(0.0, round(now - most, 3)), max(0.0, round(now - least, 3))
            listed.append(
                AttributeSeen(
                    name=name,
                    kind=about.kind,
                    unit=about.unit,
                    dynamic=about.dynamic,
                    meaning=about.meaning,
                    nodes=count,
                    least=least,
                    most=most,
                    distinct=span.distinct,
                    values=list(span.values),
                )
            )
        return AttributesSeen(attributes=listed)

    def whole(self, query: Query) -> Predicate:
        """Its predicate, with what goes without saying: fresh enough, and not lost unless it asks for that."""
        parts = [query.predicate]
        if query.scope.max_age is not None:
            parts.append(Condition("age", "number", "lte", query.scope.max_age))
        if all(condition.attribute != "state" for condition in conditions(query.predicate)):
            parts.append(_NOT_LOST)
        return every(*parts)

    def _all(self, predicate: Predicate, fields: Iterable[str], now: float) -> list[dict[str, Any]]:
        asked = rewritten_fields(fields)
        return [aged(node, now) for node in self._index.select(rewritten(predicate, now), fields=asked).nodes]

    def _coverage(self, query: Query) -> list[Coverage]:
        own = self.coverage()
        if self._began is not None and _asks_for_means(query):
            reach = max(0.0, round(self._clock() - self._began, 3))
            own.means = reach if reach < _LONGEST_MEAN else None
        others = [
            Coverage(minicloud=name, asked=False, answered=False, reason="no other minicloud is linked")
            for name in dict.fromkeys(query.scope.miniclouds)
            if name not in ("*", self._minicloud)
        ]
        return [own, *others] if len(others) < len(set(query.scope.miniclouds)) else others


def _asks_for_means(query: Query) -> bool:
    """Whether a query names a running mean."""
    asked = {condition.attribute for condition in conditions(query.predicate)}
    return not MEANS.isdisjoint((*asked, *(name for name, _ in query.order), *(query.fields or ())))
