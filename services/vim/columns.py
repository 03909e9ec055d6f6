"""One attribute of all nodes in one array, for vim's own view of the fleet.

A condition is asked once a distinct value, of numbers once for all; absent values match nothing but ``exists:
false``. What it means is :meth:`schemas.predicate.Condition.admits`, to which the tests hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from schemas.attributes import kind_of
from schemas.predicate import Condition

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_REMEMBERED: Final = 64
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "eq": np.equal,
    "lt": np.less,
    "lte": np.less_equal,
    "gt": np.greater,
    "gte": np.greater_equal,
}


class Column(Protocol):
    """One attribute of all rows."""

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""

    def write(self, row: int, value: Any) -> None:
        """Change one row; None is absence."""

    def test(self, condition: Condition, used: int) -> Mask:
        """Which of the first rows match."""

    def distinct(self, rows: Rows) -> tuple[list[Any], npt.NDArray[np.intp]]:
        """The different values of some rows, None for absence, and which of them each row has."""


class Numbers:
    """A numeric attribute; absent values are NaN."""

    def __init__(self, capacity: int) -> None:
        self.values = np.full(capacity, np.nan)

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        grown = np.full(capacity, np.nan)
        grown[: len(self.values)] = self.values
        self.values = grown

    def write(self, row: int, value: Any) -> None:
        """Change one row; None is absence."""
        self.values[row] = math.nan if value is None else value

    def test(self, condition: Condition, used: int) -> Mask:
        """Which of the first rows match."""
        values, op, wanted = self.values[:used], condition.op, condition.value
        match op:
            case "exists":
                return np.asarray(np.isnan(values) ^ bool(wanted))
            case "in":
                return np.isin(values, wanted)
            case "nin":
                return np.asarray(~(np.isin(values, wanted) | np.isnan(values)))
            case "ne":
                return np.asarray((values != wanted) & ~np.isnan(values))
        mask: Mask = _COMPARE[op](values, wanted)
        return mask

    def distinct(self, rows: Rows) -> tuple[list[Any], npt.NDArray[np.intp]]:
        """The different values of some rows and which of them each row has."""
        values, at = np.unique(self.values[rows], return_inverse=True)
        told = [None if value != value else _number(value) for value in values.tolist()]  # noqa: PLR0124
        return told, at


class Codes:
    """An attribute of distinct values: strings, versions, sets, bools. Code 0 is absence."""

    def __init__(self, capacity: int) -> None:
        self.codes = np.zeros(capacity, np.int32)
        self.table: list[Any] = [None]
        self._code_of: dict[Any, int] = {None: 0}
        #: What conditions came to since anything changed here, which is seldom: the same ones are asked over and over.
        self._tested: dict[Condition, Mask] = {}

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        grown = np.zeros(capacity, np.int32)
        grown[: len(self.codes)] = self.codes
        self.codes = grown

    def write(self, row: int, value: Any) -> None:
        """Change one row; None is absence."""
        key = tuple(value) if isinstance(value, list) else value
        code = self._code_of.get(key)
        if code is None:
            code = self._code_of[key] = len(self.table)
            self.table.append(value)
        if code != self.codes[row]:
            self.codes[row] = code
            self._tested.clear()

    def test(self, condition: Condition, used: int) -> Mask:
        """Which of the first rows match; not to be written to."""
        mask = self._tested.get(condition)
        if mask is None or len(mask) != used:
            if len(self._tested) >= _REMEMBERED:
                self._tested.clear()
            mask = self._tested[condition] = self._test(condition, used)
        return mask

    def _test(self, condition: Condition, used: int) -> Mask:
        absent = condition.op == "exists" and not condition.value
        matching = [
            code
            for code, value in enumerate(self.table)
            if (absent if value is None else condition.admits(value))
        ]
        codes = self.codes[:used]
        if len(matching) == 1:
            return np.asarray(codes == matching[0])
        chosen = np.zeros(len(self.table), np.bool_)
        chosen[matching] = True
        return np.asarray(chosen[codes])

    def distinct(self, rows: Rows) -> tuple[list[Any], npt.NDArray[np.intp]]:
        """The different values of some rows and which of them each row has."""
        codes, at = np.unique(self.codes[rows], return_inverse=True)
        return [self.table[code] for code in codes.tolist()], at


def column(name: str, capacity: int) -> Column:
    """A column for an attribute."""
    return Numbers(capacity) if kind_of(name) == "number" else Codes(capacity)


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value
