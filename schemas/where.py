"""``where``: a strict subset of MongoDB's operators in, a typed predicate out.

Values are checked against the attribute's kind and brought to its base unit (``"4GiB"`` of memory,
``"250m"`` of CPU). Whatever is unknown is named together with its nearest neighbour. Label selectors
of Kubernetes may stand among the conditions (``schemas/selector.py``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from typing import Any, Final

from schemas.attributes import Attribute, lookup, nearest
from schemas.errors import InvalidQuantity, InvalidQuery
from schemas.predicate import Condition, Op, Predicate, Some, every, negate, whole_number
from schemas.quantities import parse_bytes, parse_cores, parse_duration
from schemas.selector import SELECTORS, from_selector

_OPERATORS: Final[dict[str, Op]] = {
    "$eq": "eq",
    "$ne": "ne",
    "$lt": "lt",
    "$lte": "lte",
    "$gt": "gt",
    "$gte": "gte",
    "$in": "in",
    "$nin": "nin",
    "$exists": "exists",
}
_JOINING: Final = ("$and", "$or", "$not")
_ORDERED: Final = ("number", "version")
_LABEL: Final = "label."
_PARSERS: Final[dict[str, Callable[[Any], float]]] = {
    "B": parse_bytes,
    "B/s": parse_bytes,
    "cores": parse_cores,
    "s": parse_duration,
}
_DEEPEST: Final = 16
#: How many conditions one query may have.
MOST_CONDITIONS: Final = 256
_LONGEST_LIST: Final = 1000
_LONGEST_TEXT: Final = 512


def attribute(name: str, where: str, seen: Collection[str] = ()) -> Attribute:
    """The attribute called ``name``.

    Raises:
        InvalidQuery: there is none; names its nearest neighbour.
    """
    found = lookup(name, seen)
    if found is None:
        selector = difflib.get_close_matches(name, SELECTORS, 1, cutoff=0.8)
        raise InvalidQuery(
            f"no attribute is named {name[:80]!r}",
            field=where,
            expected=(selector[0] if selector else nearest(name, seen))
            or "an attribute of a node, such as cpu.arch",
        )
    return found


def parse_where(document: Any, seen: Collection[str] = ()) -> Predicate:
    """The predicate of a ``where`` document.

    Args:
        document: ``{"cpu.arch": "x86_64", "memory.available": {"$gte": "4GiB"}}``.
        seen: names of metrics that arrived though nobody foresaw them.

    Raises:
        InvalidQuery: names the field or operator, what is wrong and what would be right.
    """
    return _Parser(seen).document(document, "where", 0)


class _Parser:
    """One ``where`` while it is read; counts what it holds."""

    def __init__(self, seen: Collection[str]) -> None:
        self._seen = seen
        self._count = 0

    def document(self, document: Any, path: str, depth: int) -> Predicate:
        """A mapping of attributes and joining operators: all of them must hold."""
        if not isinstance(document, dict):
            raise InvalidQuery(
                f"{_show(document)} is not a condition", field=path, expected="an object of attributes"
            )
        if depth > _DEEPEST:
            raise InvalidQuery("nested too deep", field=path, expected=f"at most {_DEEPEST} levels")
        return every(*(self._entry(str(name), value, path, depth) for name, value in document.items()))

    def _entry(self, name: str, value: Any, path: str, depth: int) -> Predicate:
        here = f"{path}.{name}"
        if name in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise InvalidQuery(
                    f"{_show(value)} is not a list of conditions",
                    field=here,
                    expected=f'{{"{name}": [{{...}}, {{...}}]}}',
                )
            parts = [self.document(part, f"{here}.{at}", depth + 1) for at, part in enumerate(value)]
            return every(*parts) if name == "$and" else Some(tuple(parts))
        if name == "$not":
            return negate(self.document(value, here, depth + 1))
        if name in SELECTORS:
            return self.document(from_selector({name: value}, path), path, depth + 1)
        if name.startswith("$"):
            raise _unknown_operator(name, here, _JOINING)
        return self._conditions(attribute(name, here, self._seen), value, here, depth)

    def _conditions(self, about: Attribute, value: Any, path: str, depth: int) -> Predicate:
        if not isinstance(value, dict):
            return self._condition(about, "eq", value, path)
        if not value:
            raise InvalidQuery("says nothing", field=path, expected='a value or {"$gte": ...}')
        if depth > _DEEPEST:
            raise InvalidQuery("nested too deep", field=path, expected=f"at most {_DEEPEST} levels")
        parts: list[Predicate] = []
        for operator, operand in value.items():
            here = f"{path}.{operator}"
            if operator == "$not":
                parts.append(negate(self._conditions(about, operand, here, depth + 1)))
            elif operator in _OPERATORS:
                parts.append(self._condition(about, _OPERATORS[operator], operand, here))
            else:
                raise _unknown_operator(str(operator), here, ("$not",))
        return every(*parts)

    def _condition(self, about: Attribute, op: Op, value: Any, path: str) -> Condition:
        self._count += 1
        if self._count > MOST_CONDITIONS:
            raise InvalidQuery("too many conditions", field=path, expected=f"at most {MOST_CONDITIONS}")
        if op == "exists":
            if not isinstance(value, bool):
                raise InvalidQuery(f"{_show(value)} is neither", field=path, expected="true or false")
            return Condition(about.name, about.kind, op, value)
        if op in ("in", "nin"):
            if not isinstance(value, list) or len(value) > _LONGEST_LIST:
                raise InvalidQuery(
                    f"{_show(value)} is not a list of at most {_LONGEST_LIST}",
                    field=path,
                    expected="a list of values",
                )
            return Condition(about.name, about.kind, op, tuple(_value(about, one, path) for one in value))
        if op not in ("eq", "ne") and about.name.startswith(_LABEL):
            return Condition(about.name, about.kind, op, _whole_number(value, path))
        if op not in ("eq", "ne") and about.kind not in _ORDERED:
            raise InvalidQuery(
                f"{about.name} is a {about.kind} and has no order",
                field=path,
                expected="$eq, $ne, $in, $nin or $exists",
            )
        return Condition(about.name, about.kind, op, _value(about, value, path))


def _value(about: Attribute, value: Any, path: str) -> Any:
    """``value`` in the attribute's kind and base unit."""
    match about.kind:
        case "number":
            return _number(about, value, path)
        case "bool":
            if not isinstance(value, bool):
                raise InvalidQuery(
                    f"{about.name} is a bool, {_show(value)} is not", field=path, expected="true or false"
                )
            return value
        case "version" if isinstance(value, (int, float)) and not isinstance(value, bool):
            return f"{value}"
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise InvalidQuery(
            f"{about.name} is a {about.kind} of text, {_show(value)} does not compare with it",
            field=path,
            expected=f"text of at most {_LONGEST_TEXT} characters",
        )
    return value


def _number(about: Attribute, value: Any, path: str) -> float:
    parse = _PARSERS.get(about.unit or "", _plain_number)
    try:
        return parse(value)
    except InvalidQuantity as error:
        raise InvalidQuery(error.message, field=path, expected=error.expected) from None


def _whole_number(value: Any, path: str) -> int:
    """What a label is ordered by; as in Kubernetes only whole numbers have an order."""
    number = None if isinstance(value, bool) else whole_number(str(value))
    if number is None or not isinstance(value, (int, str)):
        raise InvalidQuery(
            f"a label is ordered as a whole number, {_show(value)} is none", field=path, expected="such as 4"
        )
    return number


def _plain_number(value: Any) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise InvalidQuantity(f"{_show(value)} is not a number", expected="a number")


def _unknown_operator(name: str, path: str, also: tuple[str, ...]) -> InvalidQuery:
    known = [*_OPERATORS, *also] if also == ("$not",) else list(also)
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return InvalidQuery(
        f"no operator is named {name[:80]!r}", field=path, expected=close[0] if close else ", ".join(known)
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
