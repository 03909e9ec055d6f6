"""The life of one deployment as it was told: everything that is kept, in order, then what comes.

In: a deployment and which kinds of its events. Out: each event as it travelled, with its revision, so that
a reader that was away goes on after the last one it had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final, Literal, NamedTuple

from bus.bus import Bus
from bus.merge import merged
from bus.streams import stream_of
from bus.watch import Reader, WatchItem

Kind = Literal["request", "cancel", "migrate", "decision", "status"]
#: What vim says; the others are what users wished.
TOLD: Final[tuple[Kind, ...]] = ("status", "decision")


class Told(NamedTuple):
    """One event of a life.

    Attributes:
        kind: what it is; None says that everything which is kept was told, and what follows is new.
        revision: read on after it and nothing is missed.
        payload: the event as it travelled.
    """

    kind: Kind | None
    revision: int
    payload: bytes = b""


async def lifecycle(
    bus: Bus, deployment: str, kinds: Collection[Kind] = TOLD, *, since: int | None = None
) -> AsyncGenerator[Told, None]:
    """The events of a deployment for ever; close it (``contextlib.aclosing``).

    Args:
        bus: the connection.
        deployment: its id.
        kinds: which of its events.
        since: resume after this revision instead of beginning with the first that is kept.

    Raises:
        TooOld: ``since`` is no longer kept.
    """
    waiting: dict[str, deque[WatchItem[Any]]] = {}
    reading: set[str] = set()
    last = since or 0
    async with AsyncExitStack() as stack:
        readers = []
        # A reader for each kind: a user's credential may read one subject of deployments a consumer.
        for kind in kinds:
            subject = getattr(bus.subjects, kind)(deployment)
            reader = Reader(
                bus.jetstream,
                stream_of(subject),
                bus.minicloud,
                [subject],
                since=since,
                everything=since is None,
            )
            await reader.start()
            stack.push_async_callback(reader.stop)
            waiting[kind] = deque()
            reading.add(kind)
            readers.append(_named(kind, reader))
        items = await stack.enter_async_context(aclosing(merged(*readers)))
        async for name, item in items:
            if item.kind == "SYNC":
                reading.discard(name)
            elif item.subject:
                waiting[name].append(item)
            else:
                continue
            # The oldest is told once none that is older can come.
            while any(waiting.values()) and all(waiting[one] for one in reading):
                oldest = min(
                    (name for name in waiting if waiting[name]), key=lambda n: waiting[n][0].revision
                )
                told = waiting[oldest].popleft()
                last = max(last, told.revision)
                yield Told(oldest, told.revision, told.payload)  # type: ignore[arg-type]
            if item.kind == "SYNC" and not reading:
                yield Told(None, last)


async def _named(kind: str, reader: Reader) -> AsyncIterator[tuple[str, WatchItem[Any]]]:
    async for item in reader:
        yield kind, item
