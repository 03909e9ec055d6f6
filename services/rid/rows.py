"""The plain-dict engine: one document a node, scanned for each query.

For machines without NumPy (32-bit Raspberry Pis): fine to about a thousand nodes, and the meaning
that the column engine is held to.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from schemas.attributes import METRICS, WINDOWS, Value, kind_of, mean_of
from schemas.predicate import Predicate, conjuncts, matches
from schemas.version import version_key
from services.rid.index import ALIVE, Selection, Span, Step
from services.rid.vocabulary import MOST, Vocabulary


class RowIndex:
    """Nodes as dictionaries.

    Args:
        most: how many attributes beyond the foreseen ones.
    """

    def __init__(self, most: int = MOST) -> None:
        self._rows: dict[str, dict[str, Value]] = {}
        self._vocabulary = Vocabulary(most)
        self._counts: Counter[str] = Counter()
        self._minutes: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self._minute = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, node: object) -> bool:
        return node in self._rows

    @property
    def refused(self) -> int:
        """How many values were left out because there were too many attributes already."""
        return self._vocabulary.refused

    def put(self, node: str, attributes: Mapping[str, Value]) -> None:
        """Add a node, or replace all of its attributes."""
        row = self._rows.setdefault(node, {})
        gone: dict[str, Value | None] = dict.fromkeys(row.keys() - attributes.keys())
        self.update(node, {**gone, **attributes, "name": node})

    def update(self, node: str, changes: Mapping[str, Value | None]) -> None:
        """Change some attributes of a node; None takes one away."""
        row = self._rows[node]
        for name, value in changes.items():
            if value is None:
                if row.pop(name, None) is not None:
                    self._uncount(name)
            elif name in row:
                row[name] = value
            elif self._vocabulary.admits(name):
                row[name] = value
                self._counts[name] += 1

    def remove(self, node: str) -> None:
        """Forget a node; no error where there is none."""
        for name in self._rows.pop(node, {}):
            self._uncount(name)
        self._minutes.pop(node, None)

    def get(self, node: str, fields: Iterable[str] | None = None) -> dict[str, Value] | None:
        """The attributes of a node; all of them by default."""
        row = self._rows.get(node)
        if row is None or fields is None:
            return dict(row) if row is not None else None
        return {name: row[name] for name in fields if name in row}

    def select(
        self,
        predicate: Predicate,
        *,
        order: Sequence[tuple[str, bool]] = (),
        limit: int | None = None,
        fields: Iterable[str] | None = None,
    ) -> Selection:
        """The nodes that match; see :class:`services.rid.index.Index`."""
        found = [row for row in self._rows.values() if matches(predicate, row)]
        total = len(found)
        found.sort(key=lambda row: str(row["name"]))
        # Sorting is stable, so the least important key goes first.
        for name, descending in reversed(order):
            found = _sorted(found, name, descending=descending)
        if limit is not None:
            found = found[:limit]
        if fields is None:
            return Selection([dict(row) for row in found], total)
        wanted = dict.fromkeys(["name", *fields])
        return Selection([{name: row[name] for name in wanted if name in row} for row in found], total)

    def sampling(self, now: float) -> Iterator[None]:
        """Bring the running means up to date, a node a step; see :class:`services.rid.index.Index`."""
        self._minute = max(self._minute, int(now // 60))
        for node in list(self._rows):
            if node in self._rows:
                self._sample(node)
            yield

    def _sample(self, node: str) -> None:
        row = self._rows[node]
        kept = self._minutes.setdefault(node, {})
        for metric in METRICS:
            value = row.get(metric)
            samples = kept.setdefault(metric, []) if value is not None else kept.get(metric, [])
            if matches(ALIVE, row) and isinstance(value, (int, float)):
                samples.append((self._minute, float(value)))
            while samples and samples[0][0] < self._minute - max(WINDOWS.values()):
                samples.pop(0)
            for window, minutes in WINDOWS.items():
                within = [sample for minute, sample in samples if minute >= self._minute - minutes]
                name = mean_of(metric, window)
                if within or name in row:
                    self.update(node, {name: sum(within) / len(within) if within else None})

    def names(self) -> Collection[str]:
        """The names of all attributes that it holds."""
        return self._counts.keys()

    def attributes(self) -> dict[str, int]:
        """Every attribute that some node has, with how many nodes have it."""
        return dict(self._counts)

    def span(self, name: str) -> Span | None:
        """Which values of an attribute there are."""
        held = [row[name] for row in self._rows.values() if name in row]
        if not held:
            return None
        if kind_of(name) == "number":
            numbers = [value for value in held if isinstance(value, (int, float))]
            return Span(min(numbers), max(numbers))
        counted = Counter(one for value in held for one in (value if isinstance(value, list) else [value]))
        return Span(distinct=len(counted), values=common(counted))

    def trace(self, predicate: Predicate) -> list[Step]:
        """How :meth:`select` finds what matches, step by step."""
        left = list(self._rows.values())
        steps = []
        for part in conjuncts(predicate):
            begun, tested = time.perf_counter(), len(left)
            left = [row for row in left if matches(part, row)]
            steps.append(Step(part, "row", tested, len(left), time.perf_counter() - begun))
        return steps

    def _uncount(self, name: str) -> None:
        self._counts[name] -= 1
        if not self._counts[name]:
            del self._counts[name]
            self._vocabulary.release(name)


def common(counted: Mapping[Any, int]) -> tuple[Any, ...]:
    """The most common values, at most ten; of equally common ones in their own order."""
    return tuple(sorted(counted, key=lambda value: (-counted[value], value))[:10])


def _sorted(rows: list[dict[str, Value]], name: str, *, descending: bool) -> list[dict[str, Value]]:
    key = sort_key(name)
    having = [row for row in rows if name in row]
    missing = [row for row in rows if name not in row]
    return sorted(having, key=lambda row: key(row[name]), reverse=descending) + missing


def sort_key(name: str) -> Any:
    """What values of an attribute are sorted by: versions by age, sets by their text."""
    match kind_of(name):
        case "version":
            return version_key
        case "set":
            return ",".join
        case _:
            return lambda value: value
