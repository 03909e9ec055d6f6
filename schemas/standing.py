"""What a standing query says: the nodes that match now, then whatever comes, changes and goes.

``ITEM… SYNC (ENTER|UPDATE|LEAVE|BOOKMARK)…``. A reader that keeps ``{node: attributes}`` and applies each
item holds the query's answer. Whoever could not keep up is told ``RESYNC``: forget all, it begins anew.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, StringConstraints

from schemas.event import Document
from schemas.quantities import Seconds

StandingKind = Literal["ITEM", "SYNC", "ENTER", "UPDATE", "LEAVE", "BOOKMARK", "RESYNC"]

#: Items that a reader of the bus may be behind before it must acknowledge.
WINDOW: Final = 1024
#: Seconds without a word from a reader of the bus until it is forgotten.
LEASE: Final = 30.0
#: Seconds between bookmarks while nothing changes.
HEARTBEAT: Final = 5.0


class StandingItem(BaseModel):
    """One thing that a standing query says.

    Attributes:
        kind: ``ITEM`` matches now; ``SYNC`` says that all that match were told; ``ENTER`` matches from now on,
            ``UPDATE`` still matches with other attributes, ``LEAVE`` matches no more; ``BOOKMARK`` is a
            revision to resume from while nothing changes; ``RESYNC`` empties what the reader holds.
        revision: of the resource-change log; resume after it and nothing is missed.
        node: whose name; None for SYNC, BOOKMARK and RESYNC.
        attributes: what was asked for of it; None for LEAVE and where there is no node.
    """

    kind: StandingKind
    revision: int
    node: str | None = None
    attributes: dict[str, Any] | None = None

    def apply(self, held: dict[str, dict[str, Any]]) -> None:
        """Bring what a reader holds to what this item says."""
        if self.kind == "RESYNC":
            held.clear()
        elif self.node is not None and self.attributes is None:
            held.pop(self.node, None)
        elif self.node is not None and self.attributes is not None:
            held[self.node] = self.attributes


class Watching(Document):
    """The wish to be told, over the bus.

    Attributes:
        query: what is asked; ``sort``, ``limit`` and ``explain`` mean nothing here and are refused.
        deliver: the inbox that the items go to, as :class:`Delivery` documents.
        since: resume after this revision of the resource-change log.
        every: seconds between deliveries at least; of a node that changes more often only the newest is told.
    """

    query: dict[str, Any] = {}
    deliver: str = Field(pattern=r"^_INBOX\.[^*> ]+$", max_length=256)
    since: int | None = Field(default=None, ge=0)
    every: Seconds = Field(default=0.0, le=3600)


class Delivery(BaseModel):
    """Some items of a standing query on their way over the bus.

    Attributes:
        watch: which one.
        sequence: counts the deliveries of one watch from 1; a gap means that one was lost.
        items: in order.
    """

    watch: str
    sequence: int
    items: list[StandingItem]


class Acknowledgement(BaseModel):
    """How far a reader has come: its lease, and its wish for more.

    Attributes:
        watch: which one.
        sequence: the last delivery that was taken in.
        done: whether the reader wants no more.
    """

    watch: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    sequence: int = Field(ge=0)
    done: bool = False


class Watched(BaseModel):
    """The answer to :class:`Watching`.

    Attributes:
        watch: its name, for acknowledgements.
        acknowledge: the subject that they go to.
        window: items that may be on their way unacknowledged.
        lease: seconds without an acknowledgement until it is forgotten.
        heartbeat: seconds between bookmarks while nothing changes.
    """

    watch: str
    acknowledge: str
    window: int = WINDOW
    lease: float = LEASE
    heartbeat: float = HEARTBEAT
