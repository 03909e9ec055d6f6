"""A change of a node as the resource index saw it: the log that subscribers follow and replay."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal

from schemas.event import EventData
from schemas.names import Token

ChangeKind = Literal["joined", "changed", "stale", "lost", "returned", "left"]


class ResourceChange(EventData):
    """One step in a node's life.

    ``joined`` is its first characterization, ``stale`` and ``lost`` are silence, ``left`` is an agent
    that was stopped in order, ``returned`` is the end of any of these, ``changed`` is all else.

    Attributes:
        node: whose.
        kind: what happened.
        changed: the attributes that are new or different since the last event; None for those that went.
        attributes: all attributes; with the last event of each node the index can be rebuilt.
        observed_at: when the index saw it.
    """

    event_type: ClassVar[str] = "minicloud.resource.changed.v1"

    node: Token
    kind: ChangeKind
    changed: dict[str, Any]
    attributes: dict[str, Any]
    observed_at: datetime
