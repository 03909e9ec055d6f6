"""Ending a task for certain: what awaits inside of a library may lose a cancellation, so it is told again."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

_PATIENCE: Final = 1.0


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel ``tasks`` until all of them have ended; their results and errors are not looked at.

    ``asyncio.wait_for`` of Python 3.11 drops a cancellation that comes together with what it waits for, and
    nats-py uses it. Our own cancellation while we wait is not lost: it is raised.
    """
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=_PATIENCE)
