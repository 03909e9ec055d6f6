"""The index as its writer sees it: what is written is noted for the standing queries, then written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from schemas.attributes import Value
from schemas.predicate import Predicate
from services.rid.index import Index, Selection, Span, Step
from services.rid.sieve import Sieve


class Noting:
    """An index that tells a sieve.

    Args:
        index: where everything goes.
        sieve: what is told which attributes of which node were written.
        wrote: called after each write, at no cost.
    """

    def __init__(self, index: Index, sieve: Sieve, wrote: Callable[[], None]) -> None:
        self._index = index
        self._sieve = sieve
        self._wrote = wrote

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, node: object) -> bool:
        return node in self._index

    @property
    def refused(self) -> int:
        """How many values were left out because there were too many attributes already."""
        return self._index.refused

    def put(self, node: str, attributes: Mapping[str, Value]) -> None:
        """Add a node, or replace all of its attributes."""
        held = self._index.get(node) or {}
        self._index.put(node, attributes)
        self._sieve.wrote(node, {"name": None, **held, **attributes})
        self._wrote()

    def update(self, node: str, changes: Mapping[str, Value | None]) -> None:
        """Change some attributes of a node; None takes one away."""
        self._index.update(node, changes)
        self._sieve.wrote(node, changes)
        self._wrote()

    def remove(self, node: str) -> None:
        """Forget a node; no error where there is none."""
        self._sieve.removed(node)
        self._index.remove(node)
        self._wrote()

    def sampling(self, now: float) -> Iterator[None]:
        """Add to the running means; the standing queries on them are told by ``Standing.sampled``."""
        return self._index.sampling(now)

    def get(self, node: str, fields: Iterable[str] | None = None) -> dict[str, Value] | None:
        """The attributes of a node; all of them by default."""
        return self._index.get(node, fields)

    def select(
        self,
        predicate: Predicate,
        *,
        order: Sequence[tuple[str, bool]] = (),
        limit: int | None = None,
        fields: Iterable[str] | None = None,
    ) -> Selection:
        """The nodes that match; see :class:`services.rid.index.Index`."""
        return self._index.select(predicate, order=order, limit=limit, fields=fields)

    def attributes(self) -> dict[str, int]:
        """Every attribute that some node has, with how many nodes have it."""
        return self._index.attributes()

    def span(self, name: str) -> Span | None:
        """Which values of an attribute there are."""
        return self._index.span(name)

    def trace(self, predicate: Predicate) -> list[Step]:
        """How :meth:`select` finds what matches, step by step."""
        return self._index.trace(predicate)

    def names(self) -> Collection[str]:
        """The names of all attributes that it holds."""
        return self._index.names()
