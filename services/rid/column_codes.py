"""A column of few or many distinct values: strings, versions, sets, bools.

Each value is a code into a table of the distinct ones, so that a condition is asked once a distinct value
and then looked up.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.attributes import Kind, Value
from schemas.predicate import Condition
from services.rid.column import Mask, Rows
from services.rid.index import Span
from services.rid.rows import common, sort_key

_ABSENT: Final = -1
#: Up to so many codes are compared one by one, which is faster than looking each row up.
_FEW_CODES: Final = 10


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

    @property
    def width(self) -> int:
        """Bytes a row."""
        return self._codes.itemsize

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
        if _ABSENT in codes:
            return [None if code == _ABSENT else self._table[code] for code in codes]
        return list(map(self._table.__getitem__, codes))

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
        return chosen.take(codes)

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
