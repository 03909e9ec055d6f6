"""A query under a name, whose answer is always there: for whoever is too small to ask.

rid publishes the names of the nodes that match, in order, retained on ``mc/<minicloud>/query/<name>/answer``: a
JSON list, ``["pi-3"]``. A microcontroller subscribes to that one topic and has the best node's name.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import BaseModel, Field

from schemas.event import Document, EventData
from schemas.names import Token

#: How many names an answer has at most, so that it fits into a small device's buffer.
MOST_NAMES: Final = 32


class Keeping(Document):
    """The wish that a query is answered for as long as nobody wishes otherwise.

    Attributes:
        name: under which name; again under the same name is another query in its place.
        query: ``where``, ``sort``, ``limit`` (1 by default) and ``scope``.
    """

    name: Token
    query: dict[str, Any] = {}


class Forgetting(Document):
    """The wish that a kept query is answered no more."""

    name: Token


class KeptAnswer(BaseModel):
    """Where the answer of a kept query is.

    Attributes:
        name: of the query.
        topic: of MQTT, retained.
        query: the document.
    """

    name: Token
    topic: str
    query: dict[str, Any] = {}


class KeptQueries(BaseModel):
    """The queries that are kept, by name."""

    queries: list[KeptAnswer]


class KeptQuery(EventData):
    """A kept query, as every rid knows it.

    Attributes:
        name: its name.
        query: the document; None once it is kept no more.
    """

    event_type: ClassVar[str] = "minicloud.query.kept.v1"

    name: Token
    query: dict[str, Any] | None = Field(default=None)
