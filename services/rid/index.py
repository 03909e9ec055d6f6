"""The port of the index: what the service asks of an engine that holds nodes' attributes.

``columns.py`` (NumPy) and ``rows.py`` (plain dicts, for machines without NumPy) stand behind it, and
one test suite holds both to the same meaning. One writer in one loop, so each answer is a snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from schemas.attributes import Value
from schemas.predicate import Condition, Predicate

#: Whose metrics are news: what a silent node said last is no longer so.
ALIVE: Final = Condition("state", "string", "eq", "alive")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a select found.

    Attributes:
        nodes: flat documents, ``name`` always among the attributes, in order.
        total: how many nodes match, however many were asked for.
    """

    nodes: list[dict[str, Any]]
    total: int


@dataclass(frozen=True, slots=True)
class Span:
    """Which values of an attribute there are.

    Attributes:
        least: the smallest number.
        most: the greatest number.
        distinct: how many different values; of sets, members.
        values: the most common of them, at most ten.
    """

    least: float | None = None
    most: float | None = None
    distinct: int | None = None
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a scan.

    Attributes:
        condition: what was tested.
        by: ``mask`` tests every row, ``gather`` only those that are left, ``row`` one node after the other.
        tested: how many rows it tested.
        left: how many rows were left after it.
        seconds: how long it took.
    """

    condition: Predicate
    by: Literal["mask", "gather", "row"]
    tested: int
    left: int
    seconds: float


class Index(Protocol):
    """Nodes by name, each with flat attributes."""

    def __len__(self) -> int:
        """How many nodes it holds."""

    def __contains__(self, node: object) -> bool:
        """Whether it holds a node of this name."""

    @property
    def refused(self) -> int:
        """How many values were left out because there were too many attributes already."""

    def put(self, node: str, attributes: Mapping[str, Value]) -> None:
        """Add a node, or replace all of its attributes."""

    def update(self, node: str, changes: Mapping[str, Value | None]) -> None:
        """Change some attributes of a node; None takes one away.

        Raises:
            KeyError: there is no such node.
        """

    def remove(self, node: str) -> None:
        """Forget a node; no error where there is none."""

    def get(self, node: str, fields: Iterable[str] | None = None) -> dict[str, Value] | None:
        """The attributes of a node; all of them by default."""

    def select(
        self,
        predicate: Predicate,
        *,
        order: Sequence[tuple[str, bool]] = (),
        limit: int | None = None,
        fields: Iterable[str] | None = None,
    ) -> Selection:
        """The nodes that match.

        Args:
            predicate: the condition.
            order: sort keys, ``(attribute, descending)``; nodes without the attribute come last, and
                ties go by name.
            limit: how many nodes at most; None for all.
            fields: attributes to answer with; None for all.
        """

    def sampling(self, now: float) -> Iterator[None]:
        """Add the present metrics of every node that is alive to its running means, in steps.

        To be called every few seconds; between two steps others may read and write.

        Args:
            now: seconds since the epoch.
        """

    def attributes(self) -> dict[str, int]:
        """Every attribute that some node has, with how many nodes have it."""

    def span(self, name: str) -> Span | None:
        """Which values of an attribute there are; None where no node has it."""

    def trace(self, predicate: Predicate) -> list[Step]:
        """How :meth:`select` finds what matches, step by step."""

    def names(self) -> Collection[str]:
        """The names of all attributes that it holds, at no cost; some may have no node any more."""
