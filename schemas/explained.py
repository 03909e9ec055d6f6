"""What the resource index says of itself: what can be asked, and how a query is executed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from schemas.attributes import Kind, Unit


class AttributeSeen(BaseModel):
    """An attribute that some node has.

    Attributes:
        name: its dotted name.
        kind: how it compares; of a ``set`` a query asks for a member.
        unit: of a number.
        dynamic: whether it changes from sample to sample.
        meaning: in a few words.
        nodes: how many nodes have it.
        least: the smallest number seen.
        most: the greatest number seen.
        distinct: how many different values there are; of sets, members.
        values: the most common of them, at most ten.
    """

    name: str
    kind: Kind
    unit: Unit | None = None
    dynamic: bool = False
    meaning: str = ""
    nodes: int
    least: float | None = None
    most: float | None = None
    distinct: int | None = None
    values: list[Any] = []


class AttributesSeen(BaseModel):
    """What can be asked."""

    attributes: list[AttributeSeen]


class ScanStep(BaseModel):
    """One condition as it was tested.

    Attributes:
        condition: as a sentence, ``load.5m < 1.5``.
        attributes: which ones it asks about.
        by: ``mask`` tests every row, ``gather`` only those that are left, ``row`` one node after the other.
        tested: how many rows it tested.
        left: how many rows were left after it.
        selectivity: the part of the tested rows that was left.
        seconds: how long it took.
    """

    condition: str
    attributes: list[str]
    by: Literal["mask", "gather", "row"]
    tested: int
    left: int
    selectivity: float
    seconds: float


class Explanation(BaseModel):
    """How a query is executed.

    Attributes:
        engine: which index answers: ``columns`` or ``rows``.
        nodes: how many nodes it holds.
        steps: the conditions in the order in which they are tested, those that go without saying included.
        sorted_by: the sort keys, ``-`` for descending; ties go by name.
        total: how many nodes match.
        seconds: how long the whole query takes, sorting and documents included.
    """

    engine: Literal["columns", "rows"]
    nodes: int
    steps: list[ScanStep]
    sorted_by: list[str]
    total: int
    seconds: float
