"""The condition of a query as a typed tree, and what it means for one node's attributes.

A leaf is a :class:`Condition` on one attribute; :class:`Every` and :class:`Some` join. There is no
negation: it is pushed into the leaves, since an attribute that a node lacks never matches, negated
or not; only ``exists: false`` asks for absence.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from schemas.attributes import Kind, Value
from schemas.version import version_key

Op = Literal["eq", "ne", "lt", "lte", "gt", "gte", "in", "nin", "exists"]

_NEGATED: Final[dict[Op, Op]] = {
    "eq": "ne",
    "ne": "eq",
    "lt": "gte",
    "gte": "lt",
    "gt": "lte",
    "lte": "gt",
    "in": "nin",
    "nin": "in",
}
ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_ORDERING: Final = frozenset({"lt", "lte", "gt", "gte"})
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")


def whole_number(text: str) -> int | None:
    """The whole number that ``text`` is, in the digits that Kubernetes reads; None where it is none."""
    return int(text) if _WHOLE.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute against one value.

    Attributes:
        attribute: its name.
        kind: how it compares.
        op: the comparison.
        value: a number in the base unit, a string, a bool, or a tuple of them for ``in`` and ``nin``. A
            string has an order only among those that are whole numbers, so there it is one.
    """

    attribute: str
    kind: Kind
    op: Op
    value: Any

    def admits(self, had: Value) -> bool:
        """Whether a node that has this value matches."""
        if self.op == "exists":
            return bool(self.value)
        if self.kind == "set":
            members = had if isinstance(had, list) else [had]
            wanted = self.value if self.op in ("in", "nin") else (self.value,)
            return any(value in members for value in wanted) is (self.op in ("eq", "in"))
        if self.kind == "version":
            key = version_key(str(had))
            if self.op in ("in", "nin"):
                return (key in {version_key(value) for value in self.value}) is (self.op == "in")
            return ORDER[self.op](key, version_key(self.value))
        if self.kind == "string" and self.op in _ORDERING:
            number = whole_number(str(had))
            return number is not None and ORDER[self.op](number, self.value)
        if self.op in ("in", "nin"):
            return (had in self.value) is (self.op == "in")
        return ORDER[self.op](had, self.value)


@dataclass(frozen=True, slots=True)
class Every:
    """All parts hold; without parts, always."""

    parts: tuple[Predicate, ...] = ()


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds; without parts, never."""

    parts: tuple[Predicate, ...] = ()


Predicate = Condition | Every | Some


def every(*parts: Predicate) -> Predicate:
    """The conjunction, flat: an ``Every`` among the parts gives its own parts."""
    flat: list[Predicate] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Every) else (part,))
    return flat[0] if len(flat) == 1 else Every(tuple(flat))


def conjuncts(predicate: Predicate) -> tuple[Predicate, ...]:
    """The parts that must all hold."""
    return predicate.parts if isinstance(predicate, Every) else (predicate,)


def negate(predicate: Predicate) -> Predicate:
    """The opposite, among the nodes that have the attributes."""
    match predicate:
        case Every(parts):
            return Some(tuple(negate(part) for part in parts))
        case Some(parts):
            return every(*(negate(part) for part in parts))
        case Condition(attribute, kind, "exists", value):
            return Condition(attribute, kind, "exists", not value)
        case Condition(attribute, kind, op, value):
            return Condition(attribute, kind, _NEGATED[op], value)


def conditions(predicate: Predicate) -> Iterator[Condition]:
    """Every leaf, in the order written."""
    if isinstance(predicate, Condition):
        yield predicate
    else:
        for part in predicate.parts:
            yield from conditions(part)


def matches(predicate: Predicate, attributes: Mapping[str, Value]) -> bool:
    """Whether a node with these attributes matches: the meaning that every engine is held to."""
    match predicate:
        case Every(parts):
            return all(matches(part, attributes) for part in parts)
        case Some(parts):
            return any(matches(part, attributes) for part in parts)
        case Condition(attribute, _, op, value):
            had = attributes.get(attribute)
            if had is None:
                return op == "exists" and not value
            return predicate.admits(had)
