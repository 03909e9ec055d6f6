"""What our rid does for those of other miniclouds: a heartbeat, answers from our index, the nodes that changed.

In: requests on the links, notes of changes. Out: answers of our own nodes only, whoever asks, and pages of
changes that are made once, however many copies ask for the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from bus.bus import Bus
from schemas.attributes import ATTRIBUTES, FAMILIES
from schemas.errors import InvalidQuery, Unavailable
from schemas.event import new_id
from schemas.federation import Changes, ChangesAsked, Heartbeat, PeerQuery
from schemas.flatten import may_be_metric
from schemas.predicate import Condition
from services.rid.answer import Answers
from services.rid.fresh import HEARD
from services.rid.index import Index
from services.rid.topology_journal import Journal

log = structlog.get_logger("rid")

_PAGES: Final = 8
_PAGE_LIVES: Final = 30.0
_FRAME: Final = 1024
#: Nodes read between two turns of others in the loop.
_TOGETHER: Final = 32


@dataclass(frozen=True, slots=True)
class _Page:
    """Changes after one block, in parts that the broker takes."""

    since: int
    reached: int
    parts: list[str]
    made: float


class Serving:
    """Our side of the links.

    Args:
        link: our connection to them.
        index: our nodes.
        answers: who answers from it.
        revision: of our change log.
        publishing: whether it is this rid's to speak for the minicloud.
        every: seconds between heartbeats.
    """

    def __init__(
        self,
        link: Bus,
        index: Index,
        answers: Answers,
        revision: Callable[[], int],
        publishing: Callable[[], bool],
        every: float,
    ) -> None:
        self._link = link
        self._index = index
        self._answers = answers
        self._revision = revision
        self._publishing = publishing
        self._every = every
        self._pages: dict[str, _Page] = {}
        self.journal = Journal()

    async def start(self) -> None:
        """Answer from now on."""
        await self._link.serve("rid", "query", PeerQuery, self._query)
        await self._link.serve("rid", "changes", ChangesAsked, self._changes, instance=self.journal.epoch)

    async def beat(self) -> None:
        """Tell that we are there, for ever; only the rid that holds the lease does."""
        while True:
            if self._publishing():
                self.journal.close()
                with suppress(Unavailable):  # our own broker is away: the link stands again with it
                    await self._link.emit(self._link.subjects.heartbeat(), self._heartbeat())
            await asyncio.sleep(self._every)

    def _heartbeat(self) -> Heartbeat:
        own = self._answers.coverage()
        return Heartbeat(
            minicloud=self._link.minicloud,
            epoch=self.journal.epoch,
            sequence=self.journal.sequence,
            nodes=own.nodes,
            revision=self._revision(),
            heard=own.age,
            names=sorted(name for name in self._index.names() if _unforeseen(name)),
            every=self._every,
        )

    async def _query(self, ask: PeerQuery) -> bytes:
        # Our own nodes only, whatever the asker's scope says: a question never travels on.
        scope = {**(ask.query.get("scope") or {}), "mode": "local", "miniclouds": ["*"]}
        said = self._answers.query({**ask.query, "scope": scope}, ask.seen).model_dump_json().encode()
        most = self._link.wire.max_payload
        if len(said) > most:
            raise InvalidQuery(
                f"the answer has {len(said)} bytes, the link takes {most}",
                field="limit",
                expected="fewer fields or a lower limit",
            )
        return said

    # -- changes -----------------------------------------------------------------------------------

    async def _changes(self, asked: ChangesAsked) -> bytes:
        key, page = await self._page(asked)
        # Where the page that was begun is gone, this one is begun.
        part = min(asked.part, len(page.parts) - 1) if asked.page in ("", key) else 0
        head = Changes(
            page=key,
            part=part,
            parts=len(page.parts),
            reached=page.reached,
            sequence=self.journal.sequence,
        )
        told = head.model_dump_json(exclude={"nodes", "metrics", "gone"})
        return f"{told[:-1]},{page.parts[part]}}}".encode()

    async def _page(self, asked: ChangesAsked) -> tuple[str, _Page]:
        if asked.page in self._pages:
            return asked.page, self._pages[asked.page]
        now = time.monotonic()
        for key, page in list(self._pages.items()):
            if now - page.made > _PAGE_LIVES:
                del self._pages[key]
            elif page.since == asked.since and page.reached > asked.since:
                return key, page  # whatever changed since it was made is in a later block, too
        nodes, reached = self.journal.since(asked.since)
        page = _Page(asked.since, reached, await self._parts(nodes), now)
        key = new_id()[:16]
        self._pages[key] = page
        while len(self._pages) > _PAGES:
            del self._pages[next(iter(self._pages))]
        return key, page

    async def _parts(self, nodes: dict[str, bool]) -> list[str]:
        """The nodes as members of a JSON object, in as many parts as the broker makes of them."""
        whole = await self._documents([node for node, all_of_it in nodes.items() if all_of_it], None)
        metrics = await self._documents(
            [node for node, all_of_it in nodes.items() if not all_of_it],
            [name for name in self._index.names() if name == HEARD or may_be_metric(name)],
        )
        gone = [node for node in nodes if node not in whole and node not in metrics]
        parts = [f'"gone":{json.dumps(gone)}']
        room = self._link.wire.max_payload - _FRAME
        for kind, documents in (("nodes", whole), ("metrics", metrics)):
            held: list[str] = []
            used = 0
            for node, document in documents.items():
                text = f'"{node}":{json.dumps(document, separators=(",", ":"))}'
                if len(text) > room:
                    log.warning("a node is too large for the links", node=node, size=len(text))
                    continue
                if used + len(text) > room:
                    parts.append(_member(kind, held))
                    held, used = [], 0
                held.append(text)
                used += len(text) + 1
            if held and len(parts[-1]) + used < room:
                parts[-1] += f",{_member(kind, held)}"
            elif held:
                parts.append(_member(kind, held))
        return parts

    async def _documents(self, nodes: list[str], fields: list[str] | None) -> dict[str, dict[str, Any]]:
        """What changes between two steps is in a later block, so a page need not be of one moment."""
        found: dict[str, dict[str, Any]] = {}
        for begin in range(0, len(nodes), _TOGETHER):
            some = Condition("name", "string", "in", tuple(nodes[begin : begin + _TOGETHER]))
            for document in self._index.select(some, fields=fields).nodes:
                found[document.pop("name")] = document
            await asyncio.sleep(0)
        return found


def _member(kind: str, nodes: list[str]) -> str:
    return f'"{kind}":{{{",".join(nodes)}}}'


def _unforeseen(name: str) -> bool:
    return name != HEARD and name not in ATTRIBUTES and not name.startswith(tuple(FAMILIES))
