"""One run of a workload, from its start or its adoption to its end.

In comes a place and its runtime; out come the pid, the moment it ends and how. A run that another
worker started before this one was killed is taken over from its files and its lock.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace

from services.vim.worker import shim
from services.vim.worker.runtime import Place, Runtime, limit_of
from services.vim.worker.shim import Launch, Proc
from services.vim.worker.workload import CannotRun, Exit

_ADOPTION: float = 5.0  # seconds that a shim, once it holds the lock, may take to say who it is


class Instance:
    """A run whose shim holds the workload's lock."""

    def __init__(
        self, place: Place, runtime: Runtime, parent: Proc, own: subprocess.Popen[bytes] | None
    ) -> None:
        self.place = place
        self.runtime = runtime
        self._shim = parent
        self._own = own
        self.since = time.monotonic()

    @classmethod
    async def start(cls, place: Place, runtime: Runtime, launch: Launch, lock: int) -> Instance:
        """Start a run; ``lock`` is taken over.

        Raises:
            CannotRun: if the system lets no process start.
        """
        own = shim.start(launch, place.run, lock, place.folder.log)
        parent = await _appears(place, own)
        return cls(place, runtime, parent, own)

    @classmethod
    async def adopt(cls, place: Place, runtime: Runtime) -> Instance | None:
        """The run that is under way in ``place``; None if its shim is gone by now.

        Raises:
            CannotRun: if something holds the lock and does not say what it is.
        """
        deadline = time.monotonic() + _ADOPTION
        while place.folder.lock.held:
            parent = shim.shim_of(place.run)
            if parent is not None and parent.alive:
                return cls(place, runtime, parent, None)
            if time.monotonic() > deadline:
                raise CannotRun("UnknownInstance", f"something unknown holds {place.folder.path / 'lock'}")
            await asyncio.sleep(0.005)
        return None

    @property
    def child(self) -> Proc | None:
        """The workload's first process; None for the instant before it starts."""
        return shim.child_of(self.place.run)

    async def begun(self) -> None:
        """Return when the workload's first process is there, or the run is over."""
        while self.child is None and self._shim.alive:
            await asyncio.sleep(0.001)

    async def ended(self) -> None:
        """Return when the run is over and its exit code, if there is one, is written."""
        await shim.ended(self._shim)
        if self._own is not None:
            self._own.wait()

    async def pause(self) -> None:
        """Have it stand still.

        Raises:
            CannotRun: ``CannotPause``.
        """
        child = self.child
        if child is not None and self._shim.alive:
            await self.runtime.pause(self.place, child)

    async def resume(self) -> None:
        """Have it go on, be it paused or not."""
        child = self.child
        if child is not None and self._shim.alive:
            await self.runtime.resume(self.place, child)

    async def stop(self) -> None:
        """Ask it to end, wait for the node's grace, then kill what is left."""
        await self.begun()
        child = self.child
        if child is not None and self._shim.alive:
            with suppress(OSError, CannotRun):
                await self.runtime.ask_to_end(self.place, child)
            try:
                async with asyncio.timeout(self.place.settings.stop_grace):
                    await self.ended()
            except TimeoutError:
                await self.kill()
        await self.ended()

    async def kill(self) -> None:
        """End it now."""
        child = self.child
        if child is not None:
            with suppress(OSError, CannotRun):
                await self.runtime.kill(self.place, child)
        if self.place.group is not None:
            await self.place.group.kill()
        for pid in shim.marked(self.place.instance):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def tidy(place: Place, runtime: Runtime) -> Exit:
    """After a run: say how it ended and remove every trace of it outside of its folder.

    Processes that left the session, and those of a shim that was killed, are killed here.
    """
    out_of_memory = place.group is not None and place.group.usage().oom_kills > 0
    child = shim.child_of(place.run)
    if child is not None:
        child.signal_group(signal.SIGKILL)
    if place.group is not None:
        await place.group.kill()
    else:
        for pid in shim.marked(place.instance):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    await runtime.clean(place)
    if place.group is not None:
        await place.group.remove()
    code = shim.exit_of(place.run)
    if code is None:
        return Exit(oom=out_of_memory, reason="Lost", message="it was killed together with what watched it")
    found = runtime.outcome(place, code)
    if out_of_memory and not found.clean:
        limit = limit_of(place.workload)
        message = f"it needed more than its {limit} B of memory"
        return replace(found, oom=True, reason="OOMKilled", message=message)
    return found


async def _appears(place: Place, own: subprocess.Popen[bytes]) -> Proc:
    while (parent := shim.shim_of(place.run)) is None:
        if own.poll() is not None:
            raise CannotRun("CannotStart", f"the shim ended with {own.returncode}; its output is in the log")
        await asyncio.sleep(0.0005)
    return parent
