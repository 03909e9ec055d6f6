"""A standing query from its document: begun, resumed, and told in order; for the bus and HTTP alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from bus.bus import Bus
from schemas.query import parse_query
from schemas.standing import HEARTBEAT, StandingItem
from services.rid.changes import touched_since
from services.rid.standing import Standing, Watcher

#: How many items are told at once.
AT_ONCE: Final = 200


async def begin(standing: Standing, bus: Bus, document: Any, since: int | None = None) -> Watcher:
    """A reader's standing query.

    Resumed, it tells what came, changed and went since, where the change log knows; a query on metrics,
    which move between two entries of the log, is told RESYNC and from the beginning.

    Args:
        standing: the standing queries here.
        bus: where the change log is.
        document: the query.
        since: the revision up to which the reader was told.

    Raises:
        InvalidQuery: names what is wrong with it.
        TooOld: the log no longer keeps what came after ``since``.
    """
    watcher = standing.add(parse_query(document, standing.index.names()))
    if since is None:
        return watcher
    try:
        touched = await touched_since(bus, since)
    except BaseException:
        watcher.close()
        raise
    if watcher.lasting and touched is not None:
        watcher.resume(since, touched)
    else:
        watcher.begin(anew=True)
    return watcher


async def told(watcher: Watcher, every: float = 0.0) -> AsyncIterator[list[StandingItem]]:
    """What there is to tell, as it comes; a bookmark whenever nothing does for a while. Ends with the watcher.

    Args:
        watcher: the standing query.
        every: seconds between two tellings at least.
    """
    loop = asyncio.get_running_loop()
    spoken = loop.time()
    while not watcher.closed:
        items = watcher.pull(AT_ONCE)
        if not items and loop.time() - spoken >= HEARTBEAT:
            items = [watcher.bookmark()]
        if items:
            yield items
            spoken = loop.time()
            if every and not watcher.closed:
                await asyncio.sleep(every)
        await watcher.news(max(0.0, spoken + HEARTBEAT - loop.time()))
