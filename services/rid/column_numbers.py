"""A column of numbers, in one, four or eight bytes a row: the fewest that hold every value exactly.

It begins with small whole numbers and widens with what is written; it never narrows. A bound of a condition
is moved to the nearest number that the width can hold, in the direction that changes no answer, so that no
array is converted for a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.attributes import Value
from schemas.predicate import Condition
from services.rid.column import Floats, Mask, Rows
from services.rid.index import Span

#: What stands for absence among whole numbers of one byte; among floats it is NaN, which matches nothing.
_ABSENT: Final = -128
#: Up to so many values are compared one by one, which is faster than a search for each row.
_FEW_VALUES: Final = 10
#: Beyond this, floats leave whole numbers out.
_EXACT: Final = 2**53
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "lt": np.less,
    "lte": np.less_equal,
    "gt": np.greater,
    "gte": np.greater_equal,
}


class Numbers:
    """A numeric attribute. Whole numbers that came as such are given back as such.

    Args:
        capacity: room for so many rows.
        narrow: in four bytes a row whatever comes, for what is no exact number anyway.
    """

    def __init__(self, capacity: int, *, narrow: bool = False) -> None:
        self.narrow = narrow
        self._whole = not narrow
        self._begin(np.full(capacity, math.nan if narrow else _ABSENT, np.float32 if narrow else np.int8))

    @property
    def width(self) -> int:
        """Bytes a row."""
        return self._values.itemsize

    def ready_for(self, kind: type) -> Any:
        """Where values of this type can be written by their row without a question; None where they cannot.

        It holds until the column grows or a value of another type is written.
        """
        return self._view if self._wide and kind is (int if self._whole else float) else None

    def assign(self, values: Floats) -> None:
        """Change the first rows of a narrow column all at once; NaN is absence."""
        self._values[: len(values)] = values

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        grown = np.full(capacity, self._absent, self._values.dtype)
        grown[: len(self._values)] = self._values
        self._begin(grown)

    def write(self, row: int, value: Value | None) -> None:
        """Change one row; None is absence."""
        if value is None:
            self._view[row] = self._absent
            return
        if self._whole and value.__class__ is not int:
            self._whole = False
        if self._wide or self.narrow:
            self._view[row] = value
            return
        while not self._hold(row, value):
            self._widen()

    def read(self, row: int) -> Value | None:
        """The value of one row."""
        return self._told(self._view[row])

    def values(self, rows: npt.NDArray[np.intp]) -> list[Any]:
        """The values of some rows, None for absent ones."""
        found = self._values[rows]
        if not self._whole:
            return [value if value == value else None for value in found.tolist()]  # noqa: PLR0124 - not NaN
        if self._wide and len(found) > _FEW_VALUES and np.abs(found).max() < _EXACT:
            return list(found.astype(np.int64).tolist())  # none is absent: NaN is below no bound
        return list(map(self._told, found.tolist()))

    def test(self, condition: Condition, rows: Rows) -> Mask:
        """Which of ``rows`` match a condition."""
        values, op, wanted = self._values[rows], condition.op, condition.value
        match op:
            case "exists":
                return np.asarray(self._missing(values) ^ bool(wanted))
            case "eq":
                return self._among(values, (wanted,))
            case "in":
                return self._among(values, wanted)
            case "ne":
                return np.asarray(~(self._among(values, (wanted,)) | self._missing(values)))
            case "nin":
                return np.asarray(~(self._among(values, wanted) | self._missing(values)))
        return self._beyond(values, op, wanted)

    def keys(self, rows: Rows) -> Floats:
        """What some rows sort by, NaN where absent."""
        values = self._values[rows]
        if self.width > 1:
            return values
        keys = values.astype(np.float32)
        keys[values == _ABSENT] = math.nan
        return keys

    def count(self) -> int:
        """How many rows have a value."""
        return int(np.count_nonzero(~self._missing(self._values)))

    def span(self) -> Span | None:
        """Which values there are."""
        held = self._values[~self._missing(self._values)]
        return Span(held.min().item(), held.max().item()) if len(held) else None

    def taken(self, rows: npt.NDArray[np.intp]) -> Numbers:
        """A copy of some rows, for many tests of the same ones."""
        made = copy(self)
        made._values = self._values[rows]  # noqa: SLF001 - our own kind
        return made

    def _begin(self, values: npt.NDArray[Any]) -> None:
        self._values = values
        # Setting one item through a memoryview costs half of what it costs through the array.
        self._view: Any = values.data
        self._absent = _ABSENT if values.itemsize == 1 else math.nan
        self._wide = values.itemsize == 8

    def _hold(self, row: int, value: Any) -> bool:
        """Write a value if it fits; what stands there if not is written over once there is room."""
        try:
            self._view[row] = value
        except (TypeError, ValueError):  # no whole number, or none of one byte
            return False
        held = self._view[row]
        return bool(held == value and (self.width > 1 or held != _ABSENT))

    def _widen(self) -> None:
        if self.width == 1:
            self._begin(self.keys(slice(None)))
        else:
            self._begin(self._values.astype(np.float64))

    def _told(self, value: Any) -> Value | None:
        if value == self._absent or value != value:  # noqa: PLR0124 - NaN is what differs from itself
            return None
        return int(value) if self._whole else float(value)

    def _missing(self, values: npt.NDArray[Any]) -> Mask:
        return np.asarray(values == _ABSENT if self.width == 1 else np.isnan(values))

    def _among(self, values: npt.NDArray[Any], wanted: tuple[Any, ...]) -> Mask:
        held = [one for one in map(self._exactly, wanted) if one is not None]
        if not held:
            return np.zeros(len(values), np.bool_)
        if len(held) > _FEW_VALUES:
            return np.isin(values, np.array(held, values.dtype))
        first, *more = held
        mask = np.asarray(values == first)
        for one in more:
            mask |= values == one
        return mask

    def _exactly(self, wanted: Any) -> Any:
        """A number in the width of this column; None where no row can hold it."""
        if self.width == 1:
            return int(wanted) if _ABSENT < wanted <= 127 and wanted == int(wanted) else None
        if self._wide:
            return wanted
        with np.errstate(over="ignore"):
            held = np.float32(wanted)
        return held if float(held) == wanted else None

    def _beyond(self, values: npt.NDArray[Any], op: str, wanted: Any) -> Mask:
        """Which are on one side of a bound."""
        below = op in ("lt", "lte")
        if self._wide:
            return np.asarray(_COMPARE[op](values, wanted))
        if self.width == 4:
            with np.errstate(over="ignore"):
                bound = np.float32(wanted)
            # Of what this width can hold, nothing lies between the bound as told and as rounded.
            if float(bound) != wanted:
                inside = (float(bound) < wanted) == below
                op = ("lte" if below else "gte") if inside else ("lt" if below else "gt")
            return np.asarray(_COMPARE[op](values, bound))
        wanted = min(max(wanted, _ABSENT), 128)
        bound = math.floor(wanted) if op in ("lte", "gt") else math.ceil(wanted)
        if below:
            mask = np.asarray(_COMPARE[op](values, bound))
            mask &= values != _ABSENT
            return mask
        return np.asarray(_COMPARE[op](values, max(bound, _ABSENT + (op == "gte"))))
