"""The query to the resource index and its answer (contract, Query; seed 4).

Ranges on numbers, exact strings, boolean features, and what joins them.
``Query`` is read strictly: what it names must exist, and an error names the nearest neighbour.
``Answer`` says how fresh and how complete it is, and with ``explain`` why each other node is not in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    computed_field,
    model_validator,
)

from schemas.errors import InvalidQuery
from schemas.event import Document, invalid
from schemas.moment import Moment
from schemas.names import TOKEN_PATTERN
from schemas.predicate import Predicate
from schemas.quantities import Seconds
from schemas.shortform import parse_shortform
from schemas.where import attribute, parse_where

Direction = Literal["asc", "desc"]
_Minicloud = Annotated[str, Field(pattern=rf"^\*$|{TOKEN_PATTERN}")]


class Scope(Document):
    """Whose nodes are asked for and how fresh they must be.

    Attributes:
        miniclouds: names, or ``*`` for all that are known.
        mode: how other miniclouds are asked; ``local`` asks none.
        max_age: nodes heard longer ago are left out, seconds.
        deadline: how long to wait for others, seconds.
    """

    miniclouds: list[_Minicloud] = Field(default=["*"], min_length=1, max_length=1000)
    mode: Literal["auto", "local", "replicate", "scatter"] = "auto"
    max_age: Seconds | None = Field(default=None, alias="maxAge")
    deadline: Seconds = Field(default=0.3, gt=0, le=60)


class Query(Document):
    """What is asked of the resource index.

    Attributes:
        where: conditions as a document, or in the short form; empty for every node. Kubernetes' ``matchLabels``,
            ``matchExpressions`` and ``nodeSelectorTerms`` may stand among them and ask for labels.
        sort: keys in order, ``[{"load.5m": "asc"}]``; nodes without the attribute come last, ties by name.
        limit: how many nodes at most; all by default.
        fields: attributes to answer with; all by default. The name is always there.
        scope: whose nodes.
        explain: whether to say why every other node does not match.
        at: as of a past moment: RFC 3339, a time ago such as ``-10m``, or a revision of the change log.

    Raises:
        InvalidQuery: something is named that does not exist, or unlike things are compared.
    """

    where: dict[str, Any] | str = {}
    sort: list[dict[str, Direction]] = Field(default=[], max_length=8)
    limit: int | None = Field(default=None, ge=1)
    fields: list[str] | None = Field(default=None, min_length=1, max_length=512)
    scope: Scope = Scope()
    explain: bool = False
    at: Moment | None = None

    _predicate: Predicate = PrivateAttr()

    @property
    def predicate(self) -> Predicate:
        """The conditions, parsed."""
        return self._predicate

    @property
    def order(self) -> list[tuple[str, bool]]:
        """The sort keys as ``(attribute, descending)``."""
        return [(name, direction == "desc") for key in self.sort for name, direction in key.items()]

    @model_validator(mode="before")
    @classmethod
    def _known_parts(cls, document: Any) -> Any:
        if isinstance(document, dict):
            for name in document:
                if name not in cls.model_fields:
                    close = difflib.get_close_matches(str(name), cls.model_fields, 1, cutoff=0.5)
                    raise InvalidQuery(
                        "a query has no such part",
                        field=str(name)[:80],
                        expected=close[0] if close else ", ".join(cls.model_fields),
                    )
        return document

    @model_validator(mode="after")
    def _known_names(self, info: ValidationInfo) -> Self:
        seen: Collection[str] = (info.context or {}).get("seen", ())
        where = parse_shortform(self.where, seen) if isinstance(self.where, str) else self.where
        self._predicate = parse_where(where, seen)
        for number, key in enumerate(self.sort):
            if len(key) != 1:
                raise InvalidQuery(
                    "a sort key is one attribute", field=f"sort.{number}", expected='{"load.5m": "asc"}'
                )
            for name in key:
                attribute(name, f"sort.{number}", seen)
        for number, name in enumerate(self.fields or ()):
            attribute(name, f"fields.{number}", seen)
        return self


def parse_query(document: Any, seen: Collection[str] = ()) -> Query:
    """The query in ``document``.

    Args:
        document: a JSON object.
        seen: names of metrics that arrived though nobody foresaw them; they may be asked for, too.

    Raises:
        InvalidQuery: with every problem of its shape, or the first of its meaning.
    """
    try:
        return Query.model_validate(document, context={"seen": seen})
    except ValidationError as error:
        problem = invalid(error, "query")
        raise InvalidQuery(
            problem.message, field=problem.field, expected=problem.expected, problems=problem.problems
        ) from None


class Coverage(BaseModel):
    """How complete and fresh an answer is, for one minicloud.

    Attributes:
        minicloud: which one.
        asked: whether it was asked.
        answered: whether it answered.
        age: seconds since anything was heard from its nodes; None where nothing was.
        nodes: how many nodes it knows.
        via: how it answered: ``index`` is our own, ``copy`` our copy of its nodes, ``link`` its own rid.
        behind: of a copy, seconds since it was known to lack nothing.
        means: for how many seconds the running means that are asked for reach back, where that is less than
            their longest window, since rid began so lately; None otherwise.
        horizon: of a past moment, how far back the change log reaches, where it is no longer whole; a node is
            missing that wrote nothing since then until the moment, unless what it wrote last is still known.
        missing: of a past moment, how many nodes are known to be missing for that.
        reason: why there is no answer, a sentence.
    """

    minicloud: str
    asked: bool = True
    answered: bool = True
    age: float | None = None
    nodes: int = 0
    via: Literal["index", "copy", "link"] | None = None
    behind: float | None = None
    means: float | None = None
    horizon: datetime | None = None
    missing: int = 0
    reason: str | None = None


class Rejected(BaseModel):
    """Nodes that do not match, by the first condition that they fail and what they had instead.

    Attributes:
        reason: a sentence, ``memory.available 64MiB < 128MiB``.
        attribute: what was asked about; None where a choice of conditions failed.
        wanted: what would match, as text.
        had: what these nodes had, numbers rounded to two digits; None where they have nothing.
        nodes: their names, cut where there are very many.
        count: how many they are.
        minicloud: whose they are, where several miniclouds answered.
    """

    reason: str
    attribute: str | None = None
    wanted: str | None = None
    had: str | None = None
    nodes: list[str]
    count: int
    minicloud: str | None = None


class Answer(BaseModel):
    """The nodes that match.

    Attributes:
        nodes: their attributes as flat documents, ``name`` always among them.
        total: how many match, however many were asked for.
        revision: of the resource-change log; a watch that resumes from it misses nothing.
        coverage: how complete and fresh it is.
        took: seconds.
        rejected: with ``explain``, why the others do not match.
        complete: whether everybody who was meant has answered; ``coverage`` says who did not.
        as_of: the past moment that was asked about; None for now. Metrics are then as the log has them.
    """

    nodes: list[dict[str, Any]]
    total: int
    revision: int
    coverage: list[Coverage]
    took: float
    rejected: list[Rejected] = []
    as_of: datetime | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def complete(self) -> bool:
        """Whether everybody who was meant has answered."""
        return all(part.answered for part in self.coverage)
