"""How rid comes back: from its store where one is configured, from the bus alone where not.

In: what was taken in of each stream. Out: after a start, what was known and from where each stream must
be read on; while it runs, what must be written; and nodes that only the change log still knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from bus.frame import Frame
from bus.streams import Stream
from schemas.flatten import may_be_metric
from services.rid.ingest import Ingest
from services.rid.known import LAZY, Document, Positions, from_document, to_document, unpublished
from services.rid.settings import RidSettings
from services.rid.watch import ChangeLog

if TYPE_CHECKING:
    from services.rid.store import Store

log = structlog.get_logger("rid")

#: A last write at the end may take so long, seconds.
_FAREWELL: Final = 5.0


class Recovery:
    """What must survive a restart, and how it does.

    Args:
        frame: settings and metrics.
        ingest: what is known of each node.
        changes: what was published of it.
    """

    def __init__(self, frame: Frame[RidSettings], ingest: Ingest, changes: ChangeLog) -> None:
        settings = frame.settings
        self._js = frame.bus.jetstream
        self._minicloud = settings.minicloud
        self._ingest = ingest
        self._changes = changes
        self._loaded = Positions()
        self._positions = Positions()
        self._made: dict[str, str] = {}
        self._restored = 0
        self.store: Store | None = None
        if settings.mongodb_url:
            from services.rid.store import Store  # noqa: PLC0415 - pymongo's 10 MB are for those who use it

            database = settings.mongodb_database or f"minicloud_{settings.minicloud}"
            self.store = store = Store(
                settings.mongodb_url, database, self._look, settings.store_every, settings.store_metrics_every
            )
            pending = frame.gauge("rid_store_pending", "Nodes that wait to be written to MongoDB")
            pending.set_function(lambda: float(store.pending))
            failing = frame.gauge("rid_store_failing", "1 while MongoDB does not take what is written")
            failing.set_function(lambda: float(bool(store.failing)))

    async def load(self) -> None:
        """Take in what the store kept."""
        if self.store is None:
            return
        begun = time.monotonic()
        self._loaded = await self.store.load(self._restore)
        self._positions.update(self._loaded)
        log.info(
            "read back from MongoDB",
            nodes=self._restored,
            whole=bool(self._loaded),
            seconds=round(time.monotonic() - begun, 2),
        )

    async def since(self, stream: Stream) -> int | None:
        """The revision after which a stream must be read on; None for its present state.

        None, too, where the store knew another stream of this name, where a log no longer reaches back so
        far, and where the present state is shorter than what happened since.
        """
        if self.store is None:
            return None
        info = await self._js.api(f"STREAM.INFO.{stream.name(self._minicloud)}")
        state, made = info["state"], str(info["created"])
        self._made[stream.kind] = made
        known, revision = self._loaded.get(stream.kind, ("", 0))
        if known != made or revision > state["last_seq"]:
            self._positions.pop(stream.kind, None)
            if stream.kind == "resources":
                self._changes.begin_anew()
            return None
        if stream.log and state["first_seq"] > revision + 1:
            return None
        if stream.kind in LAZY and state["last_seq"] - revision > state.get("num_subjects", 0):
            return None
        return revision

    def took(self, stream: Stream, node: str, revision: int) -> None:
        """An event of a node is part of what is known now."""
        if self.store is None:
            return
        self._positions[stream.kind] = (self._made[stream.kind], revision)
        self.touch(node, stream.kind not in LAZY)

    def touch(self, node: str, urgent: bool) -> None:
        """What is known of a node changed; ``urgent`` if by more than its metrics."""
        if self.store is not None:
            self.store.touch(node, urgent)

    def adopt(self) -> None:
        """Nodes whose characterization the bus dropped for want of space are taken from the change log."""
        adopted = 0
        for node, published in list(self._changes.everything().items()):
            known = self._ingest.known(node)
            if published.attributes and (known is None or known.static is None):
                self._ingest.adopt(node, published.attributes, published.observed)
                adopted += 1
        if adopted:
            log.warning("the bus no longer keeps what some nodes are: taken from the log", nodes=adopted)

    async def keep(self, ours: Callable[[], bool]) -> None:
        """Write what changes, while it is ours to write."""
        if self.store is not None:
            await self.store.keep(lambda: Positions(self._positions), ours)

    async def close(self, ours: Callable[[], bool]) -> None:
        """Write what waits, if it is ours and does not take long, and let go."""
        if self.store is None:
            return
        try:
            async with asyncio.timeout(_FAREWELL):
                if ours():
                    await self.store.flush(Positions(self._positions), ours)
        except TimeoutError:
            log.warning("MongoDB was too slow to write all: the bus has it", waiting=self.store.pending)
        await self.store.close()

    def _restore(self, document: Document) -> None:
        node, known, published = from_document(document)
        if published is not None:
            self._changes.restore(node, published)
        # Only what the log lacks is looked at again: a restart is no news of a whole fleet.
        if lacking := unpublished(document):
            self._changes.note(node, urgent=not all(map(may_be_metric, lacking)))
        self._ingest.restore(node, known)
        self._restored += 1

    def _look(self, node: str) -> dict[str, Any] | None:
        known = self._ingest.known(node)
        return None if known is None else to_document(node, known, self._changes.last(node))
