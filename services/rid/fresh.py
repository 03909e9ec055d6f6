"""``age`` without a write a second: the index keeps when a node was heard, a query asks for its age.

Conditions and sort keys on ``age`` become such on the time heard, and answers are turned back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from schemas.attributes import MEANS, Value
from schemas.predicate import Condition, Every, Op, Predicate, Some

#: The attribute under which the index keeps when a node was heard; no metric may be called so.
HEARD: Final = "@heard"
_AGE: Final = "age"
_PASSING: Final = MEANS | {HEARD}
_MIRRORED: Final[dict[Op, Op]] = {"lt": "gt", "lte": "gte", "gt": "lt", "gte": "lte"}


def rewritten(predicate: Predicate, now: float) -> Predicate:
    """The predicate with every condition on ``age`` as one on the time heard."""
    match predicate:
        case Every(parts):
            return Every(tuple(rewritten(part, now) for part in parts))
        case Some(parts):
            return Some(tuple(rewritten(part, now) for part in parts))
        case Condition(attribute, _, op, value) if attribute == _AGE:
            if op in ("in", "nin"):
                value = tuple(now - one for one in value)
            elif op != "exists":
                value = now - value
            return replace(predicate, attribute=HEARD, op=_MIRRORED.get(op, op), value=value)
        case _:
            return predicate


def rewritten_order(order: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The sort keys with ``age`` as the time heard, the other way round."""
    return [(HEARD, not descending) if name == _AGE else (name, descending) for name, descending in order]


def rewritten_fields(fields: Iterable[str] | None) -> list[str] | None:
    """The fields with ``age`` as the time heard."""
    return None if fields is None else [HEARD if name == _AGE else name for name in fields]


def aged(document: Mapping[str, Any], now: float) -> dict[str, Any]:
    """An answer's document with ``age`` in seconds for the time heard."""
    public = dict(document)
    heard = public.pop(HEARD, None)
    if heard is not None:
        public[_AGE] = max(0.0, round(now - heard, 3))
    return public


def lasting(document: Mapping[str, Value]) -> dict[str, Value]:
    """A document without what changes by the mere passing of time: when it was heard, and means."""
    return {name: value for name, value in document.items() if name not in _PASSING}
