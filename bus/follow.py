"""Follow: take in some levels of one stream and whatever changes them, for as long as the service runs.

In: the kinds to watch and what takes an item. Out: nothing; what cannot be taken is buried with the reason, and
the flow goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from bus.frame import Frame
from bus.streams import stream_of
from bus.watch import WatchItem
from schemas.errors import InvalidDocument
from schemas.event import EventData
from schemas.names import name_in


async def follow(
    frame: Frame[Any],
    kinds: Mapping[str, type[EventData]],
    take: Callable[[Any, WatchItem[Any]], None],
    *,
    since: int | None = None,
    quick: Callable[[bytes], Any] | None = None,
    at_once: int | None = None,
) -> None:
    """Return once the present state is in; go on with what changes.

    Args:
        frame: of the service.
        kinds: what is published on which subjects, all of one stream.
        take: takes in an event and the item that it came as.
        since: as in :meth:`bus.bus.Bus.watch`.
        quick: likewise.
        at_once: so many items are taken in before others get a turn; unless given, as many as are there.
    """
    bus = frame.bus
    synced = asyncio.Event()
    stream = stream_of(next(iter(kinds))).name(bus.minicloud)

    async def on_and_on() -> None:
        async with bus.watch(kinds, since=since, quick=quick) as items:
            taken = 0
            async for item in items:
                taken += 1
                if at_once and taken % at_once == 0:
                    await asyncio.sleep(0)
                if item.kind == "SYNC":
                    synced.set()
                elif item.event is not None:
                    try:
                        take(item.event, item)
                    except Exception as error:  # noqa: BLE001 - whatever it is, the flow goes on
                        await bus.bury(
                            item.subject, item.payload, error, stream=stream, revision=item.revision
                        )

    task = frame.spawn(on_and_on())
    waiting = asyncio.ensure_future(synced.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def check_speaker(subject: str, node: str) -> None:
    """That an event is about the node whose subject it came on.

    The broker lets an agent write on its own subject only, so the subject tells who speaks.

    Raises:
        InvalidDocument: it speaks of another.
    """
    if node != name_in(subject):
        raise InvalidDocument(f"speaks of node {node!r}", field="data.node", expected=name_in(subject))
