"""What the rids of different miniclouds say to each other on the links between them (seed 2.3, Figure 3).

A heartbeat tells that a minicloud is there and how far its changes have come; a peer asks for an answer
of its own index, or for the nodes that changed since it last asked.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field

from schemas.event import EventData
from schemas.names import Token


class Heartbeat(EventData):
    """That a minicloud is there, once a second, by the one of its rids that writes its change log.

    Attributes:
        minicloud: whose.
        epoch: one life of that rid; sequences of another life mean nothing.
        sequence: the last block of changes; who copied up to it lacks nothing.
        nodes: how many it has.
        revision: of its resource-change log.
        heard: seconds since anything was heard from its nodes; None where nothing was.
        names: attributes of its nodes that nobody foresaw, so that others may ask for them.
        every: seconds until the next heartbeat.
    """

    event_type: ClassVar[str] = "minicloud.federation.heartbeat.v1"

    minicloud: Token
    epoch: Token
    sequence: int = Field(ge=0)
    nodes: int = Field(ge=0)
    revision: int = Field(ge=0)
    heard: float | None = None
    names: list[str] = Field(default=[], max_length=100_000)
    every: float = Field(default=1.0, gt=0)


class PeerQuery(BaseModel):
    """A query for one index.

    Attributes:
        query: the query document, as :func:`schemas.query.parse_query` reads it.
        seen: attributes in it that nobody foresaw and that some minicloud has.
    """

    query: dict[str, Any]
    seen: list[str] = Field(default=[], max_length=1000)


class ChangesAsked(BaseModel):
    """The wish for the nodes that changed.

    Attributes:
        since: the block up to which the asker has all.
        page: the page of which the asker has a part already; empty for the first part.
        part: which part of it.
    """

    since: int = Field(default=0, ge=0)
    page: str = Field(default="", max_length=64)
    part: int = Field(default=0, ge=0)


class Changes(BaseModel):
    """A part of the nodes that changed; after its last part the asker has all up to ``reached``.

    Attributes:
        page: to ask for the other parts.
        part: which part this is.
        parts: how many there are.
        reached: the block up to which the page goes.
        sequence: the last block there is.
        nodes: whole nodes, every attribute.
        metrics: nodes of which only metrics changed: all their metrics, nothing else.
        gone: nodes that are no more.
    """

    page: str
    part: int
    parts: int
    reached: int
    sequence: int
    nodes: dict[str, dict[str, Any]] = {}
    metrics: dict[str, dict[str, Any]] = {}
    gone: list[str] = []
