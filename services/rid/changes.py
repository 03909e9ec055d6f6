"""Reading the resource-change log back: who was touched since a revision."""

from __future__ import annotations

from typing import Final

from bus.bus import Bus
from bus.streams import stream_of
from bus.watch import Reader
from schemas.names import name_in

#: From so many nodes on it is cheaper to tell everything anew.
_MOST: Final = 10_000


async def touched_since(bus: Bus, revision: int) -> list[str] | None:
    """The nodes that the log speaks of after a revision; None where they are very many.

    Raises:
        TooOld: the log no longer keeps what came after it.
    """
    subject = bus.subjects.resource()
    reader = Reader(bus.jetstream, stream_of(subject), bus.minicloud, [subject], since=revision)
    touched: dict[str, None] = {}
    await reader.start()
    try:
        async for item in reader:
            if item.kind == "SYNC":
                return list(touched)
            touched[name_in(item.subject)] = None
            if len(touched) > _MOST:
                return None
    finally:
        await reader.stop()
    return None
