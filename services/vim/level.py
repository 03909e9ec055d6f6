"""The last level of a subject, read from the log at the moment it is asked for."""

from __future__ import annotations

from typing import TypeVar

from bus.bus import Bus
from bus.streams import stream_of
from schemas.errors import InvalidDocument
from schemas.event import EventData, read_event

Level = TypeVar("Level", bound=EventData)


async def last_level(bus: Bus, subject: str, kind: type[Level]) -> tuple[int, Level | None]:
    """The level with its revision, whether or not it can be read; 0 for none."""
    stored = await bus.jetstream.last(stream_of(subject).name(bus.minicloud), subject)
    if stored is None:
        return 0, None
    try:
        return stored[0], read_event(stored[1], kind).data
    except InvalidDocument:
        return stored[0], None
