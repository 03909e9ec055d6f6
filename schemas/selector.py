"""Selectors of Kubernetes and Open Cluster Management, as the conditions that mean the same here.

``matchLabels``, ``matchExpressions`` and ``nodeSelectorTerms`` in, a ``where`` document out; a label
``k`` is the attribute ``label.k``. One meaning differs and is kept: there, ``NotIn`` and ``DoesNotExist``
match what lacks the label; here absence never matches unless it is asked for, so it is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from schemas.attributes import NAME
from schemas.errors import InvalidQuery
from schemas.predicate import whole_number

#: What a ``where`` document may hold beside attributes and joining operators.
SELECTORS: Final = ("matchLabels", "matchExpressions", "nodeSelectorTerms")

_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_PARTS: Final = ("key", "operator", "values")
_EXAMPLE: Final = '{"key": "zone", "operator": "In", "values": ["kitchen"]}'


def from_selector(selector: Mapping[str, Any], field: str = "where") -> dict[str, Any]:
    """The ``where`` document of a selector; an empty selector asks for everything.

    Args:
        selector: any of ``matchLabels``, ``matchExpressions`` and ``nodeSelectorTerms``; all must hold.
        field: where it stands, for errors.

    Raises:
        InvalidQuery: names the part that is wrong and what would be right.
    """
    joined: list[dict[str, Any]] = []
    for name, value in selector.items():
        here = f"{field}.{name}"
        match name:
            case "matchLabels":
                joined += _labels(value, here)
            case "matchExpressions":
                joined += [_expression(one, f"{here}.{at}") for at, one in enumerate(_list(value, here))]
            case "nodeSelectorTerms":
                joined.append(_terms(value, here))
            case _:
                raise InvalidQuery(
                    f"a selector has no {name[:80]!r}",
                    field=here,
                    expected=_nearest(name, SELECTORS) or ", ".join(SELECTORS),
                )
    return joined[0] if len(joined) == 1 else {"$and": joined} if joined else {}


def _labels(value: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        raise InvalidQuery("not a mapping of labels", field=field, expected='{"zone": "kitchen"}')
    for key, wanted in value.items():
        if not isinstance(wanted, str):
            raise InvalidQuery("a label is text", field=f"{field}.{key}", expected=f'"{wanted}"')
    return [{_attribute(key, field): {"$eq": wanted}} for key, wanted in value.items()]


def _terms(value: Any, field: str) -> dict[str, Any]:
    """Any of the terms; as in Kubernetes, no terms and an empty term match nothing."""
    terms = []
    for at, term in enumerate(_list(value, field)):
        here = f"{field}.{at}"
        if not isinstance(term, dict) or term.keys() - {"matchExpressions"}:
            raise InvalidQuery("not a term", field=here, expected=f'{{"matchExpressions": [{_EXAMPLE}]}}')
        if term.get("matchExpressions"):
            terms.append(from_selector(term, here))
    return {"$or": terms} if terms else {"name": {"$in": []}}


def _expression(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        raise InvalidQuery("not an expression with a key", field=field, expected=_EXAMPLE)
    if unknown := value.keys() - set(_PARTS):
        name = min(map(str, unknown))
        raise InvalidQuery(
            f"an expression has no {name[:80]!r}",
            field=f"{field}.{name[:80]}",
            expected=_nearest(name, _PARTS) or ", ".join(_PARTS),
        )
    label = _attribute(value["key"], f"{field}.key")
    operator, values = value.get("operator"), value.get("values") or []
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise InvalidQuery("not a list of text", field=f"{field}.values", expected='["kitchen", "hall"]')
    match operator:
        case "In" | "NotIn" if not values:
            raise InvalidQuery(f"{operator} needs values", field=f"{field}.values", expected='["kitchen"]')
        case "Exists" | "DoesNotExist" if values:
            raise InvalidQuery(f"{operator} takes no values", field=f"{field}.values", expected="no values")
        case "Gt" | "Lt" if len(values) != 1 or whole_number(values[0]) is None:
            raise InvalidQuery(
                f"{operator} compares with one whole number", field=f"{field}.values", expected='["4"]'
            )
        case "In":
            return {label: {"$in": values}}
        case "NotIn":
            return {"$or": [{label: {"$nin": values}}, {label: {"$exists": False}}]}
        case "Exists":
            return {label: {"$exists": True}}
        case "DoesNotExist":
            return {label: {"$exists": False}}
        case "Gt":
            return {label: {"$gt": int(values[0])}}
        case "Lt":
            return {label: {"$lt": int(values[0])}}
    raise InvalidQuery(
        f"no operator is named {str(operator)[:80]!r}",
        field=f"{field}.operator",
        expected=_nearest(str(operator), _OPERATORS) or ", ".join(_OPERATORS),
    )


def _attribute(key: str, field: str) -> str:
    name = f"label.{key}"
    if not key or not NAME.fullmatch(name):
        raise InvalidQuery(
            f"{key[:80]!r} cannot be a label here",
            field=field,
            expected="at most 122 of A-Z a-z 0-9 _ . / @ + -",
        )
    return name


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidQuery("not a list", field=field, expected=f"[{_EXAMPLE}]")
    return value


def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 1, cutoff=0.5)
    return by_lower[close[0]] if close else None
