"""The columns of the index: one attribute of all nodes in one array.

Numbers are float64 with NaN for missing, which no comparison matches. Strings, versions and sets are
codes into a table of the distinct values, so that a condition is asked once a distinct value and then
looked up; bools are codes, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from copy import copy
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from schemas.attributes import Kind, Value
from schemas.predicate import Condition
from services.rid.index import Span
from services.rid.rows import common, sort_key

Rows = npt.NDArray[np.intp] | slice
Mask = npt.NDArray[np.bool_]

_ABSENT: Final = -1
#: Up to so many codes are compared one by one, which is faster than looking each row up.
_FEW_CODES: Final = 10


class Column(Protocol):
    """One attribute of all rows."""

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""

    def write(self, row: int, value: Value | None) -> None:
        """Change one row; None is absence."""

    def read(self, row: int) -> Value | None:
        """The value of one row."""

    def values(self, rows: npt.NDArray[np.intp]) -> list[Any]:
        """The values of some rows, None for absent ones."""

    def test(self, condition: Condition, rows: Rows) -> Mask:
        """Which of ``rows`` match a condition."""

    def keys(self, rows: Rows) -> npt.NDArray[np.float64]:
        """What some rows sort by, NaN where absent."""

    def count(self) -> int:
        """How many rows have a value."""

    def span(self) -> Span | None:
        """Which values there are; None where there is none."""

    def taken(self, rows: npt.NDArray[np.intp]) -> Column:
        """A copy of some rows, for many tests of the same ones."""


class Numbers:
    """A numeric attribute. Whole numbers that came as such are given back as such.

    Args:
        capacity: room for so many rows.
        narrow: in four bytes a row instead of eight, for what is no exact number anyway.
    """

    def __init__(self, capacity: int, *, narrow: bool = False) -> None:
        self._values: npt.NDArray[Any] = np.full(capacity, np.nan, np.float32 if narrow else np.float64)
        # Setting one item through a memoryview costs half of what it costs through the array.
        self._view: Any = self._values.data
        self._whole = not narrow
        self.narrow = narrow

    def assign(self, values: npt.NDArray[Any]) -> None:
        """Change the first rows all at once; NaN is absence."""
        self._values[: len(values)] = values

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        grown = np.full(capacity, np.nan, self._values.dtype)
        grown[: len(self._values)] = self._values
        self._values = grown
        self._view = grown.data

    def write(self, row: int, value: Value | None) -> None:
        """Change one row; None is absence."""
        if value is None:
            self._view[row] = math.nan
            return
        if self._whole and value.__class__ is not int:
            self._whole = False
        self._view[row] = value

    def read(self, row: int) -> Value | None:
        """The value of one row."""
        value: float = self._view[row]
        if value != value:  # noqa: PLR0124 - NaN is what differs from itself
            return None
        return int(value) if self._whole else value

    def values(self, rows: npt.NDArray[np.intp]) -> list[Any]:
        """The values of some rows, None for absent ones."""
        found = self._values[rows].tolist()
        if self._whole:
            return [int(value) if value == value else None for value in found]  # noqa: PLR0124
        return [value if value == value else None for value in found]  # noqa: PLR0124

    def test(self, condition: Condition, rows: Rows) -> Mask:
        """Which of ``rows`` match a condition."""
        values, op, wanted = self._values[rows], condition.op, condition.value
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

    def keys(self, rows: Rows) -> npt.NDArray[np.float64]:
        """What some rows sort by, NaN where absent."""
        keys: npt.NDArray[np.float64] = self._values[rows].astype(np.float64, copy=False)
        return keys

    def count(self) -> int:
        """How many rows have a value."""
        return int(np.count_nonzero(~np.isnan(self._values)))

    def span(self) -> Span | None:
        """Which values there are."""
        held = self._values[~np.isnan(self._values)]
        return Span(held.min().item(), held.max().item()) if len(held) else None

    def taken(self, rows: npt.NDArray[np.intp]) -> Numbers:
        """A copy of some rows, for many tests of the same ones."""
        made = copy(self)
        made._values = self._values[rows]  # noqa: SLF001 - our own kind
        return made


_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "eq": np.equal,
    "lt": np.less,
    "lte": np.less_equal,
    "gt": np.greater,
    "gte": np.greater_equal,
}


class Codes:
    """An attribute of few or many distinct values: strings, versions, sets, bools."""

    def __init__(self, capacity: int, name: str, kind: Kind) -> None:
        self._kind = kind
        self._key = sort_key(name)
        self._codes: npt.NDArray[Any] = np.full(capacity, _ABSENT, np.int8)
        self._view: Any = self._codes.data
        self._table: list[Any] = []
        self._uses: list[int] = []
        self._code_of: dict[Any, int] = {}
        self._members: dict[str, set[int]] = {}
        self._free: list[int] = []

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        grown = np.full(capacity, _ABSENT, self._codes.dtype)
        grown[: len(self._codes)] = self._codes
        self._codes = grown
        self._view = grown.data

    def write(self, row: int, value: Value | None) -> None:
        """Change one row; None is absence."""
        before = self._view[row]
        code = _ABSENT if value is None else self._code(value)
        if code == before:
            return
        if code != _ABSENT:
            self._uses[code] += 1
        self._view[row] = code
        if before != _ABSENT:
            self._uses[before] -= 1
            if not self._uses[before]:
                self._forget(before)

    def read(self, row: int) -> Value | None:
        """The value of one row."""
        code = self._view[row]
        return None if code == _ABSENT else self._value(code)

    def values(self, rows: npt.NDArray[np.intp]) -> list[Any]:
        """The values of some rows, None for absent ones."""
        codes = self._codes[rows].tolist()
        if self._kind == "set":
            return [None if code == _ABSENT else self._value(code) for code in codes]
        table = self._table
        return [None if code == _ABSENT else table[code] for code in codes]

    def test(self, condition: Condition, rows: Rows) -> Mask:
        """Which of ``rows`` match a condition."""
        codes, op = self._codes[rows], condition.op
        if op == "exists":
            return np.asarray((codes != _ABSENT) if condition.value else (codes == _ABSENT))
        if self._kind != "version" and op in ("eq", "ne", "in", "nin"):
            wanted = condition.value if op in ("in", "nin") else (condition.value,)
            return self._among(codes, wanted, negated=op in ("ne", "nin"))
        return self._any_of(codes, {code for key, code in self._code_of.items() if condition.admits(key)})

    def keys(self, rows: Rows) -> npt.NDArray[np.float64]:
        """What some rows sort by, NaN where absent."""
        codes, at = np.unique(self._codes[rows], return_inverse=True)
        ranks = np.full(len(codes), np.nan)
        values = [None if code == _ABSENT else self._key(self._value(code)) for code in codes.tolist()]
        distinct = {key: rank for rank, key in enumerate(sorted({v for v in values if v is not None}))}
        for place, key in enumerate(values):
            if key is not None:
                ranks[place] = distinct[key]
        return ranks[at]

    def count(self) -> int:
        """How many rows have a value."""
        return sum(self._uses)

    def span(self) -> Span | None:
        """Which values there are."""
        counted: Counter[Any] = Counter()
        for key, code in self._code_of.items():
            for one in key if self._kind == "set" else (key,):
                counted[one] += self._uses[code]
        return Span(distinct=len(counted), values=common(counted)) if self._code_of else None

    def taken(self, rows: npt.NDArray[np.intp]) -> Codes:
        """A copy of some rows, for many tests of the same ones; the values are shared."""
        made = copy(self)
        made._codes = self._codes[rows]  # noqa: SLF001 - our own kind
        return made

    def _among(self, codes: npt.NDArray[Any], wanted: tuple[Any, ...], *, negated: bool) -> Mask:
        matching: set[int] = set()
        for value in wanted:
            if self._kind == "set":
                matching |= self._members.get(value, set())
            elif (code := self._code_of.get(value)) is not None:
                matching.add(code)
        mask = self._any_of(codes, matching)
        return (~mask & (codes != _ABSENT)) if negated else mask

    def _any_of(self, codes: npt.NDArray[Any], matching: set[int]) -> Mask:
        if not matching:
            return np.zeros(len(codes), np.bool_)
        if len(matching) <= _FEW_CODES:
            first, *more = matching
            mask = np.asarray(codes == first)
            for code in more:
                mask |= codes == code
            return mask
        # One more place at the end: code -1 looks itself up there and finds that absence never matches.
        chosen = np.zeros(len(self._table) + 1, np.bool_)
        chosen[list(matching)] = True
        return np.asarray(chosen[codes])

    def _code(self, value: Value) -> int:
        key: Any = tuple(value) if isinstance(value, list) else value
        code = self._code_of.get(key)
        if code is not None:
            return code
        if self._free:
            code = self._free.pop()
            self._table[code] = key
        else:
            code = len(self._table)
            self._table.append(key)
            self._uses.append(0)
            if code > np.iinfo(self._codes.dtype).max:
                self._widen()
        self._code_of[key] = code
        if self._kind == "set":
            for member in key:
                self._members.setdefault(member, set()).add(code)
        return code

    def _widen(self) -> None:
        """Few values need one byte a row, which scans four times faster than four."""
        self._codes = self._codes.astype(np.int16 if self._codes.itemsize == 1 else np.int32)
        self._view = self._codes.data

    def _forget(self, code: int) -> None:
        key = self._table[code]
        del self._code_of[key]
        self._free.append(code)
        if self._kind == "set":
            for member in key:
                self._members[member].discard(code)
                if not self._members[member]:
                    del self._members[member]

    def _value(self, code: int) -> Any:
        value = self._table[code]
        return list(value) if self._kind == "set" else value


def column(name: str, kind: Kind, capacity: int) -> Column:
    """A column for an attribute."""
    return Numbers(capacity) if kind == "number" else Codes(capacity, name, kind)
