"""The short form of a query for the command line, a superset of Kubernetes selectors.

``cpu.arch=x86_64,memory.available>=4GiB,region.city in (Athens,Pisa),gpu,!battery`` in, the same
as a ``where`` document out. A bare name means that a bool is true, and of anything else that the
node has it; ``!name`` is the opposite.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from schemas.attributes import NAME
from schemas.errors import InvalidQuery
from schemas.where import MOST_CONDITIONS, attribute

_OPERATORS: Final = {
    "=": "$eq",
    "==": "$eq",
    "!=": "$ne",
    ">=": "$gte",
    "<=": "$lte",
    ">": "$gt",
    "<": "$lt",
}
_COMPARISON: Final = re.compile(rf"({NAME.pattern})\s*(==|!=|>=|<=|=|>|<)\s*(\S.*)?", re.DOTALL)
_MEMBERSHIP: Final = re.compile(rf"({NAME.pattern})\s+(in|notin)\s*\((.*)\)", re.DOTALL)
_PRESENCE: Final = re.compile(rf"(!?)\s*({NAME.pattern})")
_SIGN: Final = re.compile(r"[,()]")
_FORMS: Final = "name, !name, name=value, name!=value, name>=value, name in (a,b), joined by commas"


def parse_shortform(text: str, seen: Collection[str] = ()) -> dict[str, Any]:
    """The ``where`` document of a short form; empty text asks for everything.

    Args:
        text: conditions joined by commas; all must hold.
        seen: names of metrics that arrived though nobody foresaw them.

    Raises:
        InvalidQuery: names the part that cannot be read.
    """
    if not text.strip():
        return {}
    parts = _split(text)
    if len(parts) > MOST_CONDITIONS:
        raise InvalidQuery("too many conditions", field="where", expected=f"at most {MOST_CONDITIONS}")
    conditions = [_condition(part.strip(), seen) for part in parts]
    return conditions[0] if len(conditions) == 1 else {"$and": conditions}


def _split(text: str) -> list[str]:
    """At the commas that no parenthesis holds: to their right none closes before one opens.

    From the right, so that text of any size is read once.
    """
    parts: list[str] = []
    end, held = len(text), False
    for sign in reversed(list(_SIGN.finditer(text))):
        if sign[0] != ",":
            held = sign[0] == ")"
        elif not held:
            parts.append(text[sign.end() : end])
            end = sign.start()
    parts.append(text[:end])
    return parts[::-1]


def _condition(part: str, seen: Collection[str]) -> dict[str, Any]:
    if found := _COMPARISON.fullmatch(part):
        name, operator, value = found.groups()
        return {name: {_OPERATORS[operator]: _value(name, (value or "").strip(), seen)}}
    if found := _MEMBERSHIP.fullmatch(part):
        name, operator, values = found.groups()
        listed = [_value(name, value.strip(), seen) for value in values.split(",")]
        return {name: {"$in" if operator == "in" else "$nin": listed}}
    if found := _PRESENCE.fullmatch(part):
        absent, name = found.groups()
        if attribute(name, "where", seen).kind == "bool":
            return {name: not absent}
        return {name: {"$exists": not absent}}
    raise InvalidQuery(f"{part[:80]!r} is not a condition", field="where", expected=_FORMS)


def _value(name: str, text: str, seen: Collection[str]) -> Any:
    """A bool where the attribute is one; all else is text, read by the attribute's kind later."""
    if attribute(name, "where", seen).kind != "bool":
        return text
    if text.lower() not in ("true", "false"):
        raise InvalidQuery(f"{name} is a bool, {text[:40]!r} is not", field="where", expected="true or false")
    return text.lower() == "true"
