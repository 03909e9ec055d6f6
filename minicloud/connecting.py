"""The time between ``connect()`` and the end of its block: who is let in, and who is thrown out.

A client whose credential is revoked hears so at once, wherever in its block it waits. Whoever forgets that the
client is asynchronous is told so, instead of how Python's context managers work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Final, Generic, NoReturn, TypeVar

from bus.bus import Bus
from minicloud.site import Site
from schemas.errors import Forbidden

T = TypeVar("T")
_ASYNC_ONLY: Final = (
    "the client is asynchronous; write `async with minicloud.connect() as cloud:` in an async function"
)


class Connecting(Generic[T]):
    """What ``minicloud.connect()`` returns: an async context manager, and clear words for any other use."""

    def __init__(self, context: AbstractAsyncContextManager[T]) -> None:
        self._context = context

    async def __aenter__(self) -> T:
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, trace)

    def __enter__(self) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def __exit__(self, *_: object) -> None:
        """Never comes to that."""

    def __await__(self) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"not connected yet, so there is no {name!r}: {_ASYNC_ONLY}")


@asynccontextmanager
async def while_welcome(bus: Bus, site: Site) -> AsyncIterator[None]:
    """Cancel what is inside when the broker ends the connection for good, and say so."""
    inside = asyncio.current_task()
    thrown_out = False

    async def listen() -> None:
        nonlocal thrown_out
        await bus.wire.ended.wait()
        thrown_out = True
        if inside:
            inside.cancel()

    listening = asyncio.ensure_future(listen())
    try:
        yield
    except asyncio.CancelledError:
        if thrown_out and inside and inside.uncancel() == 0:
            raise Forbidden(
                f"the broker at {site.broker} ended the connection of user {site.user}",
                expected="a credential that is not revoked or rotated",
            ) from None
        raise
    finally:
        listening.cancel()
