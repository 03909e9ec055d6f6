"""Several streams of items as one, in the order in which they come.

For a credential that may read only one subject a watch: two watches in, one flow out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

Item = TypeVar("Item")


async def merged(*sources: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """The items of every source as they come, until all have ended; the first failure is raised.

    Close it (``contextlib.aclosing``) before its sources end.
    """
    waiting = {asyncio.ensure_future(anext(source)): source for source in sources}
    try:
        while waiting:
            ready, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for step in ready:
                source = waiting.pop(step)
                try:
                    item = step.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(source))] = source
                yield item
    finally:
        for step in waiting:
            step.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
