"""Time travel: the index as it was at a past moment, rebuilt from the resource-change log.

In: a query with ``at``. Out: its answer by the last event of each node up to then. What the log never said
is not known: metrics are as of a node's last event, and how long ago a node was heard is not there at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bus.bus import Bus
from bus.streams import stream_of
from bus.watch import Reader
from schemas.errors import InvalidDocument, InvalidQuery, NotFound, TooOld, Unavailable
from schemas.event import read_event
from schemas.moment import parse_moment
from schemas.query import Answer
from schemas.resource import ResourceChange
from services.rid.answer import Answers
from services.rid.index import Index

#: How many past moments are kept ready, and for how long after they were last asked for, seconds.
_KEPT: Final = 2
_KEPT_FOR: Final = 60.0
#: Seconds that rebuilding may take.
_LONGEST: Final = 60.0
_AT_ONCE: Final = 50


@dataclass(slots=True)
class _Past:
    """The index after one revision, and when it was last asked for."""

    index: Index
    heard: float | None
    asked: float


class History:
    """Past states of one minicloud's nodes.

    Args:
        bus: where the log is.
        new_index: an empty index.
    """

    def __init__(self, bus: Bus, new_index: Callable[[], Index]) -> None:
        self._bus = bus
        self._new_index = new_index
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
        revision, as_of = await self._revision(moment)
        async with self._one:  # so that many who ask cost no more than one
            past = self._kept.get(revision)
            if past is None:
                past = await self._rebuild(revision)
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
        return answers.query(asked).model_copy(update={"as_of": as_of})

    def _forget(self) -> None:
        """Drop what nobody asked for lately."""
        limit = time.monotonic() - _KEPT_FOR
        for revision, past in list(self._kept.items()):
            if past.asked < limit:
                del self._kept[revision]
        while len(self._kept) > _KEPT:
            del self._kept[min(self._kept, key=lambda revision: self._kept[revision].asked)]

    async def _revision(self, moment: int | datetime) -> tuple[int, datetime]:
        """The last revision at a moment, and the moment itself."""
        state = (await self._bus.jetstream.api(f"STREAM.INFO.{self._name}"))["state"]
        first, last = state["first_seq"], state["last_seq"]
        if not state["messages"]:
            raise TooOld("the log is empty", field="at", expected="a moment after the first change")
        if isinstance(moment, int):
            if moment > last:
                raise InvalidQuery(
                    f"the log has no revision {moment} yet", field="at", expected=f"at most {last}"
                )
            if moment < first:
                raise TooOld(f"revision {moment} is no longer kept", field="at", expected=f"{first} or later")
            return moment, await self._time(moment)
        oldest = _parsed(state["first_ts"])
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
        return low, moment

    async def _time(self, revision: int) -> datetime:
        """When a revision was stored."""
        try:
            found = await self._bus.jetstream.api(f"STREAM.MSG.GET.{self._name}", {"seq": revision})
        except NotFound:
            raise TooOld(f"revision {revision} is no longer kept", field="at") from None
        return _parsed(found["message"]["time"])

    async def _rebuild(self, revision: int) -> _Past:
        newest: dict[str, bytes] = {}
        reader = Reader(
            self._bus.jetstream, self._stream, self._bus.minicloud, [self._subject], everything=True
        )
        try:
            async with asyncio.timeout(_LONGEST):
                await reader.start()
                async for item in reader:
                    if item.revision > revision or item.kind == "SYNC":
                        break
                    newest[item.subject] = item.payload
                    if item.revision == revision:
                        break
        except TimeoutError:
            raise Unavailable(f"the log was not read within {_LONGEST:g} s", field="at") from None
        finally:
            await reader.stop()
        index, heard = self._new_index(), None
        for at, payload in enumerate(newest.values()):
            try:
                change = read_event(payload, ResourceChange).data
            except InvalidDocument:
                continue
            index.put(change.node, change.attributes)
            heard = max(heard or 0.0, change.observed_at.timestamp())
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return _Past(index, heard, 0.0)


def _parsed(text: str) -> datetime:
    """A time of the broker, which counts nanoseconds."""
    head, _, tail = text.partition(".")
    digits = tail.rstrip("Z").split("+")[0][:6]
    return datetime.fromisoformat(f"{head.rstrip('Z')}.{digits or '0'}+00:00")
