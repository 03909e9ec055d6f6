"""The sieve: of all that is written to the index, what concerns which standing query.

In: which attributes of which node were written. Out, for each standing query, marks: nodes that began to
match, no longer do, or have other attributes than before. A mark is a hint to look: whoever looks tells the
sieve what it found. So marks may be too many, never too few.

``sieve_columns.py`` does it for the column engine by whole arrays; here is the plain one, and the port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from schemas.predicate import Predicate, conditions, matches
from services.rid.index import Index

#: How many marked nodes one standing query may have waiting.
BOUND = 1024


class Interest(Protocol):
    """One standing query as the sieve knows it.

    Attributes:
        overflown: whether marks were dropped because too many waited; cleared by :meth:`begin`.
    """

    overflown: bool

    @property
    def waiting(self) -> bool:
        """Whether some node is marked, or marks were dropped."""

    def begin(self) -> list[str]:
        """The nodes that match now, by name; no mark is left."""

    def take(self, most: int) -> list[str]:
        """Up to ``most`` marked nodes, which are marked no longer."""

    def settle(self, node: str, *, member: bool) -> None:
        """Whoever looked has found a node to match, or not to."""


class Sieve(Protocol):
    """The standing queries over one index."""

    def add(self, predicate: Predicate, fields: frozenset[str] | None, bound: int = BOUND) -> Interest:
        """Take a standing query in; it must then :meth:`Interest.begin`.

        Args:
            predicate: what must match.
            fields: attributes whose change marks a node that matches; None for any of them.
            bound: how many marks may wait.
        """

    def drop(self, interest: Interest) -> None:
        """Mark no more."""

    def again(self, interest: Interest, predicate: Predicate) -> None:
        """Its predicate changed, as one on ``age`` does by the passing of time: mark the difference."""

    def wrote(self, node: str, names: Iterable[str]) -> None:
        """Attributes of a node were written, with other values or the same."""

    def removed(self, node: str) -> None:
        """A node is about to leave the index."""

    def sift(self) -> Iterator[None]:
        """Mark for all that was written; in steps, so that others get a turn in between."""


class RowInterest:
    """A standing query over the plain engine."""

    def __init__(self, index: Index, predicate: Predicate, fields: frozenset[str] | None, bound: int) -> None:
        self.predicate = predicate
        self.fields = fields
        self.overflown = False
        self._index = index
        self._bound = bound
        self._members: set[str] = set()
        self._marked: dict[str, None] = {}

    @property
    def asks(self) -> frozenset[str]:
        """The attributes that decide."""
        return frozenset(condition.attribute for condition in conditions(self.predicate))

    @property
    def waiting(self) -> bool:
        """Whether some node is marked, or marks were dropped."""
        return self.overflown or bool(self._marked)

    def begin(self) -> list[str]:
        """The nodes that match now, by name; no mark is left."""
        found = [str(node["name"]) for node in self._index.select(self.predicate, fields=()).nodes]
        self._members = set(found)
        self._marked.clear()
        self.overflown = False
        return found

    def take(self, most: int) -> list[str]:
        """Up to ``most`` marked nodes, which are marked no longer."""
        taken = list(self._marked)[:most]
        for node in taken:
            del self._marked[node]
        return taken

    def settle(self, node: str, *, member: bool) -> None:
        """Whoever looked has found a node to match, or not to."""
        (self._members.add if member else self._members.discard)(node)

    def sift(self, node: str, *, changed: bool) -> None:
        """Look at one node; ``changed`` says that a match is to be marked again."""
        row = self._index.get(node)
        member = row is not None and matches(self.predicate, row)
        if member != (node in self._members) or (member and changed):
            self.mark(node)
        self.settle(node, member=member)

    def sift_all(self) -> None:
        """Look at every node."""
        found = {str(node["name"]) for node in self._index.select(self.predicate, fields=()).nodes}
        for node in found ^ self._members:
            self.mark(node)
        self._members = found

    def leave(self, node: str) -> None:
        """A node leaves the index."""
        if node in self._members:
            self._members.discard(node)
            self.mark(node)

    def mark(self, node: str) -> None:
        """Somebody should look at this node."""
        if self.overflown:
            return
        self._marked[node] = None
        if len(self._marked) > self._bound:
            self._marked.clear()
            self.overflown = True


class RowSieve:
    """The sieve over the plain engine."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._interests: dict[RowInterest, frozenset[str]] = {}
        self._written: dict[str, set[str]] = {}

    def add(self, predicate: Predicate, fields: frozenset[str] | None, bound: int = BOUND) -> RowInterest:
        """Take a standing query in."""
        interest = RowInterest(self._index, predicate, fields, bound)
        self._interests[interest] = interest.asks
        return interest

    def drop(self, interest: Interest) -> None:
        """Mark no more."""
        if isinstance(interest, RowInterest):
            self._interests.pop(interest, None)

    def again(self, interest: Interest, predicate: Predicate) -> None:
        """Its predicate changed: mark the difference."""
        if isinstance(interest, RowInterest):
            interest.predicate = predicate
            interest.sift_all()

    def wrote(self, node: str, names: Iterable[str]) -> None:
        """Attributes of a node were written."""
        if self._interests:
            self._written.setdefault(node, set()).update(names)

    def removed(self, node: str) -> None:
        """A node is about to leave the index."""
        for interest in self._interests:
            interest.leave(node)

    def sift(self) -> Iterator[None]:
        """Mark for all that was written."""
        written, self._written = self._written, {}
        for node, names in written.items():
            for interest, asks in list(self._interests.items()):
                changed = interest.fields is None or not names.isdisjoint(interest.fields)
                if changed or not names.isdisjoint(asks):
                    interest.sift(node, changed=changed)
            yield
