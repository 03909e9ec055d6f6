"""Time travel: the index as it was at a past moment, rebuilt from the resource-change log.

In: a query with ``at``. Out: its answer by the last event of each node up to then. What the log never said
is not known: metrics are as of a node's last event, and how long ago a node was heard is not there at all.
Where the log has dropped a node's last event before the moment, what rid still knows of it stands in; where
it knows no more, the coverage of the answer counts the node as missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bus.bus import Bus
from bus.streams import stream_of
from bus.watch import Reader
from schemas.errors import InvalidDocument, InvalidQuery, NotFound, TooOld, Unavailable
from schemas.event import read_event
from schemas.moment import parse_moment
from schemas.names import name_in
from schemas.query import Answer
from schemas.resource import ResourceChange
from services.rid.answer import Answers
from services.rid.index import Index
from services.rid.watch import Published

#: How many past moments are kept ready, and for how long after they were last asked for, seconds.
_KEPT: Final = 2
_KEPT_FOR: Final = 60.0
#: Seconds that rebuilding may take.
_LONGEST: Final = 60.0
_AT_ONCE: Final = 50


@dataclass(slots=True)
class _Past:
    """The index after one revision.

    Attributes:
        index: the nodes.
        heard: when the latest of their events was written, seconds since the epoch.
        horizon: when the log begins, where it has dropped something.
        missing: how many nodes that were there are not in the index.
        asked: when it was last asked for.
    """

    index: Index
    heard: float | None
    horizon: datetime | None
    missing: int
    asked: float = 0.0


class History:
    """Past states of one minicloud's nodes.

    Args:
        bus: where the log is.
        new_index: an empty index.
        published: the last event of each node, also of those whose events the log no longer keeps.
    """

    def __init__(
        self, bus: Bus, new_index: Callable[[], Index], published: Callable[[], Mapping[str, Published]]
    ) -> None:
        self._bus = bus
        self._new_index = new_index
        self._published = published
        self._subject = bus.subjects.resource()
        self._stream = stream_of(self._subject)
        self._name = self._stream.name(bus.minicloud)
        self._kept: dict[int, _Past] = {}
        self._one = asyncio.Lock()

    async def query(self, document: dict[str, Any]) -> Answer:
        """The answer to a query as of its moment ``at``.

        Args:
            document: the query.

        Raises:
            InvalidQuery: names what is wrong with it.
            TooOld: the log no longer reaches back so far; names the oldest moment that can be had.
            Unavailable: the log cannot be read now.
        """
        now = datetime.now(UTC)
        moment = parse_moment(document["at"], now)
        revision, as_of, horizon = await self._revision(moment)
        async with self._one:  # so that many who ask cost no more than one
            past = self._kept.get(revision)
            if past is None:
                past = await self._rebuild(revision, horizon)
            past.asked = time.monotonic()
            self._kept[revision] = past
            self._forget()
        asked = {**document, "at": None}
        answers = Answers(
            past.index,
            self._bus.minicloud,
            lambda: past.heard,
            lambda: revision,
            clock=as_of.timestamp,
        )
        answer = answers.query(asked)
        for part in answer.coverage:
            if part.via is not None:
                part.horizon, part.missing = past.horizon, past.missing
        return answer.model_copy(update={"as_of": as_of})

    def _forget(self) -> None:
        """Drop what nobody asked for lately."""
        limit = time.monotonic() - _KEPT_FOR
        for revision, past in list(self._kept.items()):
            if past.asked < limit:
                del self._kept[revision]
        while len(self._kept) > _KEPT:
            del self._kept[min(self._kept, key=lambda revision: self._kept[revision].asked)]

    async def _revision(self, moment: int | datetime) -> tuple[int, datetime, datetime | None]:
        """The last revision at a moment, the moment itself, and when the log begins if it is not whole."""
        state = (await self._bus.jetstream.api(f"STREAM.INFO.{self._name}"))["state"]
        first, last = state["first_seq"], state["last_seq"]
        if not state["messages"]:
            raise TooOld("the log is empty", field="at", expected="a moment after the first change")
        oldest = _parsed(state["first_ts"])
        horizon = oldest if first > 1 else None
        if isinstance(moment, int):
            if moment > last:
                raise InvalidQuery(
                    f"the log has no revision {moment} yet", field="at", expected=f"at most {last}"
                )
            if moment < first:
                raise TooOld(f"revision {moment} is no longer kept", field="at", expected=f"{first} or later")
            return moment, await self._time(moment), horizon
        if moment < oldest:
            raise TooOld(
                f"the log does not reach back to {moment.isoformat()}",
                field="at",
                expected=f"{oldest.isoformat()} or later",
            )
        low, high = first, last  # the first is from before the moment
        while low < high:
            middle = (low + high + 1) // 2
            if await self._time(middle) <= moment:
                low = middle
            else:
                high = middle - 1
        return low, moment, horizon

    async def _time(self, revision: int) -> datetime:
        """When a revision was stored."""
        try:
            found = await self._bus.jetstream.api(f"STREAM.MSG.GET.{self._name}", {"seq": revision})
        except NotFound:
            raise TooOld(f"revision {revision} is no longer kept", field="at") from None
        return _parsed(found["message"]["time"])

    async def _rebuild(self, revision: int, horizon: datetime | None) -> _Past:
        newest: dict[str, bytes] = {}
        later: dict[str, Published] = {}
        index, heard, missing = self._new_index(), None, 0
        async with self._read() as items:
            async for item in items:
                if item.kind == "SYNC":
                    break
                if item.revision <= revision:
                    newest[item.subject] = item.payload
                elif item.subject in later:  # the first event of a node that is left
                    del later[item.subject]
                    missing += _was_there(item.payload)
                if item.revision == revision and horizon is not None:
                    for subject, published in self._beyond(newest):
                        if published.revision > revision:
                            later[subject] = published
                        elif published.attributes is None:
                            missing += 1
                        else:
                            index.put(name_in(subject), published.attributes)
                            heard = max(heard or 0.0, published.observed)
                if item.revision >= revision and not later:
                    break
        for at, payload in enumerate(newest.values()):
            try:
                change = read_event(payload, ResourceChange).data
            except InvalidDocument:
                continue
            index.put(change.node, change.attributes)
            heard = max(heard or 0.0, change.observed_at.timestamp())
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return _Past(index, heard, horizon, missing)

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[Reader]:
        """The whole log, from its beginning."""
        reader = Reader(
            self._bus.jetstream, self._stream, self._bus.minicloud, [self._subject], everything=True
        )
        try:
            async with asyncio.timeout(_LONGEST):
                await reader.start()
                yield reader
        except TimeoutError:
            raise Unavailable(f"the log was not read within {_LONGEST:g} s", field="at") from None
        finally:
            await reader.stop()

    def _beyond(self, newest: Container[str]) -> Iterator[tuple[str, Published]]:
        """Nodes that are known and not among ``newest``, by their subject."""
        for node, published in list(self._published().items()):
            subject = self._bus.subjects.resource(node)
            if subject not in newest:
                yield subject, published


def _was_there(payload: bytes) -> bool:
    """Whether an event is about a node that had some before."""
    try:
        return read_event(payload, ResourceChange).data.kind != "joined"
    except InvalidDocument:
        return False


def _parsed(text: str) -> datetime:
    """A time of the broker, which counts nanoseconds."""
    head, _, tail = text.partition(".")
    digits = tail.rstrip("Z").split("+")[0][:6]
    return datetime.fromisoformat(f"{head.rstrip('Z')}.{digits or '0'}+00:00")
