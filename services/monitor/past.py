"""What a node was, read from the bus: the last few characterizations of each node are kept there."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from bus.bus import Bus
from bus.streams import stream_of
from bus.watch import Reader
from schemas.errors import InvalidDocument, Unavailable
from schemas.event import read_event
from schemas.node import Characterization
from services.monitor.views import Past

_LONGEST: Final = 10.0


async def past_on_bus(bus: Bus, node: str, limit: int, before: datetime | None) -> list[Past]:
    """What a node was, the newest first.

    Args:
        bus: where it is kept.
        node: its name.
        limit: so many at most.
        before: only what was said before this moment.

    Raises:
        Unavailable: the bus cannot be read now.
    """
    subject = bus.subjects.characterization(node)
    reader = Reader(bus.jetstream, stream_of(subject), bus.minicloud, [subject], everything=True)
    told: list[Past] = []
    try:
        async with asyncio.timeout(_LONGEST):
            await reader.start()
            async for item in reader:
                if item.kind == "SYNC":
                    break
                try:
                    event = read_event(item.payload, Characterization)
                except InvalidDocument:
                    continue
                if before is None or event.time < before:
                    told.append(Past(event=event.id, at=event.time, characterization=event.data))
    except TimeoutError:
        raise Unavailable(f"the bus was not read within {_LONGEST:g} s") from None
    finally:
        await reader.stop()
    told.sort(key=lambda one: one.at, reverse=True)
    return told[:limit]
