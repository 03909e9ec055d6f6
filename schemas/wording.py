"""Conditions and values in words, for people: what was wanted, and what a node had instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from schemas.attributes import lookup
from schemas.predicate import Condition, Every, Predicate, Some
from schemas.quantities import format_bytes, format_cores

T = TypeVar("T")
#: How many names an explanation holds in all; beyond, nodes are only counted.
_MOST_NAMES: Final = 2000
_FAILED: Final = {"lt": ">=", "lte": ">", "gt": "<=", "gte": "<"}
_SIGNS: Final = {"eq": "=", "ne": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


def reason(about: str | None, wanted: str, had: str | None) -> str:
    """Why a node that had ``had`` of an attribute fails the condition that wanted ``wanted``."""
    if about is None:
        return f"not {wanted}"
    if had is None:
        return f"{about} is not known, wanted {wanted}"
    sign, _, value = wanted.partition(" ")
    failed = _FAILED.get(next((op for op, text in _SIGNS.items() if text == sign), ""))
    return f"{about} {had} {failed} {value}" if failed else f"{about} is {had}, wanted {wanted}"


class Failing(NamedTuple):
    """Nodes that fail the same condition and have the same instead."""

    attribute: str | None
    wanted: str
    had: str | None
    names: list[str]


def rejected(groups: Sequence[Failing], told: Callable[..., T]) -> list[T]:
    """Every group with its reason and as many names as there is room for.

    Whoever failed the last condition was the nearest: where not all can be named, those are.

    Args:
        groups: in the order of the conditions.
        told: makes what is told of a group.
    """
    room = _MOST_NAMES
    found: list[T] = []
    for group in reversed(groups):
        about, wanted, had, names = group
        why = reason(about, wanted, had)
        found.append(
            told(reason=why, attribute=about, wanted=wanted, had=had, nodes=names[:room], count=len(names))
        )
        room = max(0, room - len(names))
    return found[::-1]


def describe(predicate: Predicate) -> str:
    """A predicate for people; of a single condition, what its attribute should be."""
    match predicate:
        case Condition(attribute, _, "exists", value):
            return "present" if value else "absent"
        case Condition(attribute, _, "in" | "nin" as op, values):
            listed = ", ".join(show(attribute, value) for value in values)
            return f"{'one' if op == 'in' else 'none'} of {listed}"
        case Condition(attribute, "set", "eq" | "ne" as op, value):
            return f"{'with' if op == 'eq' else 'without'} {value}"
        case Condition(attribute, _, "eq", value):
            return show(attribute, value)
        case Condition(attribute, _, op, value):
            return f"{_SIGNS[op]} {show(attribute, value)}"
        case Every(parts):
            return f"({' and '.join(_whole(part) for part in parts)})"
        case Some(parts):
            return f"({' or '.join(_whole(part) for part in parts)})"


def _whole(part: Predicate) -> str:
    return f"{part.attribute} {describe(part)}" if isinstance(part, Condition) else describe(part)


def show(name: str, value: Any, *, rounded: bool = False) -> str:
    """A value for people, in its attribute's unit; rounded to two digits so that like nodes are told once."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if not isinstance(value, (int, float)):
        return str(value)
    number = float(f"{value:.2g}") if rounded else value
    about = lookup(name)
    unit = about.unit if about else None
    match unit:
        case "B" | "B/s":
            return _bytes(value, rounded=rounded) + ("/s" if unit == "B/s" else "")
        case "cores":
            return format_cores(number)
        case None:
            return f"{number:g}"
        case _:
            return f"{number:g}{unit}"


def _bytes(value: float, *, rounded: bool) -> str:
    text = format_bytes(abs(value))
    if rounded:
        digits = text.rstrip("KMGTPEiB")
        text = f"{float(f'{float(digits):.2g}'):g}{text[len(digits) :]}"
    return f"-{text}" if value < 0 else text
