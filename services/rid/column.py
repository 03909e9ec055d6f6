"""The columns of the index: one attribute of all nodes in one array.

Numbers stand as themselves, all else as codes of their values (``column_numbers.py``, ``column_codes.py``),
each in as few bytes a row as its values allow: reading them from memory is what a query costs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.attributes import Value
from schemas.predicate import Condition
from services.rid.index import Span

Rows = npt.NDArray[np.intp] | slice
Mask = npt.NDArray[np.bool_]
#: Floats of some width.
Floats = npt.NDArray[np.floating[Any]]


class Column(Protocol):
    """One attribute of all rows."""

    @property
    def width(self) -> int:
        """Bytes a row."""

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

    def keys(self, rows: Rows) -> Floats:
        """What some rows sort by, NaN where absent."""

    def count(self) -> int:
        """How many rows have a value."""

    def span(self) -> Span | None:
        """Which values there are; None where there is none."""

    def taken(self, rows: npt.NDArray[np.intp]) -> Column:
        """A copy of some rows, for many tests of the same ones."""
