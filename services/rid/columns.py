"""The column engine: one row a node, one array an attribute; NumPy scans them.

Measured at 100,000 nodes a query takes a fraction of a millisecond and an update a few microseconds
(``bench/rid_query.py``). Rows of nodes that left are used again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from schemas.attributes import Kind, Value, kind_of
from schemas.predicate import Predicate
from services.rid.column import Column, Floats, Mask
from services.rid.column_codes import Codes
from services.rid.column_numbers import Numbers
from services.rid.index import ALIVE, Selection, Span, Step
from services.rid.means import Means
from services.rid.order import NameOrder
from services.rid.plan import least, scan, scan_least
from services.rid.vocabulary import MOST, Vocabulary, foreseen

_FIRST_CAPACITY: Final = 1024


class ColumnIndex:
    """Nodes as rows over columns.

    Args:
        most: how many attributes beyond the foreseen ones.
    """

    def __init__(self, most: int = MOST) -> None:
        self._capacity = _FIRST_CAPACITY
        self._columns: dict[str, Column] = {}
        self._row_of: dict[str, int] = {}
        self._live = np.zeros(self._capacity, np.bool_)
        self._free: list[int] = []
        self._used = 0
        self._vacated = False
        self._order = NameOrder()
        self._vocabulary = Vocabulary(most)
        self._means = Means()
        # Where floats and whole numbers go without a question: most of what is ever written.
        self._floats: dict[str, Any] = {}
        self._wholes: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, node: object) -> bool:
        return node in self._row_of

    @property
    def refused(self) -> int:
        """How many values were left out because there were too many attributes already."""
        return self._vocabulary.refused

    def put(self, node: str, attributes: Mapping[str, Value]) -> None:
        """Add a node, or replace all of its attributes."""
        row = self._row_of.get(node)
        if row is None:
            row = self._new_row(node)
        else:
            for name, held in self._columns.items():
                if name not in attributes and held.read(row) is not None:
                    held.write(row, None)
                    self._vacated = True
        self.update(node, attributes)
        self.update(node, {"name": node})

    def update(self, node: str, changes: Mapping[str, Value | None]) -> None:
        """Change some attributes of a node; None takes one away."""
        row = self._row_of[node]
        floats, wholes = self._floats, self._wholes
        for name, value in changes.items():
            kind = value.__class__
            view = floats.get(name) if kind is float else wholes.get(name) if kind is int else None
            if view is not None:
                view[row] = value
            else:
                self._write(row, name, value)

    def remove(self, node: str) -> None:
        """Forget a node; no error where there is none."""
        row = self._row_of.pop(node, None)
        if row is None:
            return
        for held in self._columns.values():
            held.write(row, None)
        self._means.forget(row)
        self._live[row] = False
        self._vacated = True
        self._free.append(row)
        self._order.discard(node)

    def get(self, node: str, fields: Iterable[str] | None = None) -> dict[str, Value] | None:
        """The attributes of a node; all of them by default."""
        row = self._row_of.get(node)
        if row is None:
            return None
        columns = self._columns
        names = columns if fields is None else [name for name in fields if name in columns]
        found = {name: columns[name].read(row) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def select(
        self,
        predicate: Predicate,
        *,
        order: Sequence[tuple[str, bool]] = (),
        limit: int | None = None,
        fields: Iterable[str] | None = None,
    ) -> Selection:
        """The nodes that match; see :class:`services.rid.index.Index`."""
        live = self._live[: self._used]
        first = self._columns.get(order[0][0]) if order else None
        if limit is not None and isinstance(first, Numbers):
            keys = first.keys(slice(0, self._used))
            rows, total = scan_least(predicate, self._columns, live, keys, limit, descending=order[0][1])
        else:
            rows = scan(predicate, self._columns, live)
            total = len(rows)
        rows = self._arrange(rows, order, limit)
        return Selection(self._documents(rows, fields), total)

    def sampling(self, now: float) -> Iterator[None]:
        """Bring the running means up to date, in steps; see :class:`services.rid.index.Index`."""
        alive = np.zeros(self._used, np.bool_)
        alive[scan(ALIVE, self._columns, self._live[: self._used])] = True
        return self._means.sampling(now, self._columns, alive, self._capacity)

    def names(self) -> Collection[str]:
        """The names of all attributes that it holds."""
        return self._columns.keys()

    def attributes(self) -> dict[str, int]:
        """Every attribute that some node has, with how many nodes have it."""
        counts = {name: held.count() for name, held in self._columns.items()}
        return {name: count for name, count in counts.items() if count}

    def span(self, name: str) -> Span | None:
        """Which values of an attribute there are."""
        held = self._columns.get(name)
        return held.span() if held is not None else None

    def trace(self, predicate: Predicate) -> list[Step]:
        """How :meth:`select` finds what matches, step by step."""
        steps: list[Step] = []
        scan(predicate, self._columns, self._live[: self._used], steps.append)
        return steps

    # -- rows, for the sieve of standing queries -------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return self._capacity

    @property
    def used(self) -> int:
        """How many rows are or were in use, from the first on."""
        return self._used

    def row_of(self, node: str) -> int | None:
        """The row of a node."""
        return self._row_of.get(node)

    def rows_of(self, nodes: Iterable[str]) -> npt.NDArray[np.intp]:
        """The rows of those nodes that it holds."""
        found = [row for row in map(self._row_of.get, nodes) if row is not None]
        return np.fromiter(found, np.intp, len(found))

    def names_of(self, rows: npt.NDArray[np.intp]) -> list[str]:
        """The nodes in these rows; rows without one are left out."""
        held = self._columns.get("name")
        return [name for name in held.values(rows) if name is not None] if held is not None else []

    def held(self, name: str) -> Column | None:
        """The column of an attribute; None where no node has it."""
        return self._columns.get(name)

    @property
    def live(self) -> Mask:
        """Which rows hold a node."""
        return self._live

    def matching(self, predicate: Predicate) -> npt.NDArray[np.intp]:
        """The rows that match, ascending."""
        return scan(predicate, self._columns, self._live[: self._used])

    # --------------------------------------------------------------------------------------------

    def _arrange(
        self, rows: npt.NDArray[np.intp], order: Sequence[tuple[str, bool]], limit: int | None
    ) -> npt.NDArray[np.intp]:
        """``rows`` sorted and cut to ``limit``; the first key alone decides who may be among them."""
        ranks = self._order.ranks(self._capacity)
        first = self._keys(rows, *order[0]) if order else ranks[rows]
        if limit is not None and len(rows) > limit:
            chosen = least(first, limit)
            rows, first = rows[chosen], first[chosen]
        if len(rows) < 2:
            return rows
        rest = (ranks[rows], *(self._keys(rows, *key) for key in reversed(order[1:]))) if order else ()
        return rows[np.lexsort((*rest, first))[:limit]]

    def _keys(self, rows: npt.NDArray[np.intp], name: str, descending: bool) -> Floats:
        """Sort keys, least first; infinity for absent values, which come last either way."""
        held = self._columns.get(name)
        if held is None:
            return np.full(len(rows), np.inf)
        keys = held.keys(rows)
        if descending:
            keys = -keys
        keys[np.isnan(keys)] = np.inf
        return keys

    def _documents(self, rows: npt.NDArray[np.intp], fields: Iterable[str] | None) -> list[dict[str, Any]]:
        columns = self._columns
        names = dict.fromkeys(["name", *(columns if fields is None else fields)])
        # Copies of one dictionary with all the keys: cheaper than dictionaries that grow.
        whole: dict[str, Any] = {name: None for name in names if name in columns}
        documents = [whole.copy() for _ in range(len(rows))]
        for name in whole:
            for document, value in zip(documents, columns[name].values(rows), strict=True):
                if value is not None:
                    document[name] = value
                else:
                    del document[name]
        return documents

    def _write(self, row: int, name: str, value: Value | None) -> None:
        held = self._columns.get(name)
        if held is None and value is not None:
            held = self._new_column(name)
        if held is None:
            return
        held.write(row, value)
        if value is None:
            self._vacated = True
        elif isinstance(held, Numbers):
            for kind, ready in ((float, self._floats), (int, self._wholes)):
                view = held.ready_for(kind)
                if view is not None:
                    ready[name] = view
                else:
                    ready.pop(name, None)

    def _new_row(self, node: str) -> int:
        if self._free:
            row = self._free.pop()
        else:
            row = self._used
            self._used += 1
            if row >= self._capacity:
                self._grow()
        self._row_of[node] = row
        self._live[row] = True
        self._order.add(node, row)
        return row

    def _grow(self) -> None:
        self._capacity *= 2
        grown = np.zeros(self._capacity, np.bool_)
        grown[: len(self._live)] = self._live
        self._live = grown
        for held in self._columns.values():
            held.grow(self._capacity)
        self._floats.clear()
        self._wholes.clear()
        self._means.grow(self._capacity)

    def _new_column(self, name: str) -> Column | None:
        if self._vacated and not self._vocabulary.has_room(name):
            self._drop_empty()
        if not self._vocabulary.admits(name):
            return None
        made = self._columns[name] = _column(name, kind_of(name), self._capacity)
        return made

    def _drop_empty(self) -> None:
        """Make room: a column that no node has any more goes. Looked for only after something went."""
        self._vacated = False
        for name in [name for name, held in self._columns.items() if not held.count()]:
            del self._columns[name]
            self._floats.pop(name, None)
            self._wholes.pop(name, None)
            if not foreseen(name):
                self._vocabulary.release(name)


def _column(name: str, kind: Kind, capacity: int) -> Column:
    """A column for an attribute."""
    return Numbers(capacity) if kind == "number" else Codes(capacity, name, kind)
