"""A lease: of several services of one kind, exactly one acts and the others stand by.

The lease is the last message of ``mc.<mc>.lease.<name>`` in a stream whose messages live a few
seconds; it is taken and renewed by compare-and-set. Its holder trusts it for less time than the
broker keeps it, counted from before the renewal was sent, so two holders never overlap.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Final

import structlog

from bus.ending import end
from bus.jetstream import JetStream
from schemas.errors import Conflict, MinicloudError
from schemas.event import new_id

log = structlog.get_logger("bus")

LIFETIME: Final = 6.0
_TRUST: Final = 4.5
_RENEW: Final = 1.5
_NOBODY: Final = ""


class Lease:
    """One holder's view of a lease.

    Args:
        jetstream: the connection.
        subject: the lease's subject.
        holder: who we are. Whoever starts a service again after its death gives it the same name, and it
            takes its own lease back at once.

    Attributes:
        lost: set when it can no longer be trusted; the holder must stop acting.
    """

    def __init__(self, jetstream: JetStream, subject: str, holder: str) -> None:
        self._js = jetstream
        self._subject = subject
        self._holder = holder
        self._revision = 0
        self._trusted_until = 0.0
        self._renewer: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether we may act at this moment."""
        return asyncio.get_running_loop().time() < self._trusted_until

    async def acquire(self) -> None:
        """Wait until the lease is ours, then keep it."""
        while not await self._take():
            await asyncio.sleep(0 if self._revision else 0.5)
        self.lost.clear()
        self._renewer = asyncio.create_task(self._renew())

    async def release(self) -> None:
        """Give it up, so that a standby takes over at once."""
        if self._renewer:
            await end([self._renewer])
        self._trusted_until = 0.0
        if self._revision:
            with suppress(MinicloudError):
                await self._js.publish(
                    self._subject, _held_by(_NOBODY), new_id(), expect=self._revision, timeout=1.0
                )
            self._revision = 0

    @property
    def _stream(self) -> str:
        return f"{self._subject.split('.')[1]}_leases"

    async def _take(self) -> bool:
        begun = asyncio.get_running_loop().time()
        try:
            self._revision = await self._js.publish(
                self._subject,
                _held_by(self._holder),
                new_id(),
                expect=self._revision,
                timeout=_TRUST,
            )
        except Conflict:
            self._revision = await self._own_revision()
            return False
        except MinicloudError as error:
            log.debug("lease not renewed yet", lease=self._subject, error=str(error))
            return False
        self._trusted_until = begun + _TRUST
        return True

    async def _own_revision(self) -> int:
        """The revision of the lease if our own former life holds it, which is dead, or nobody does; else 0."""
        with suppress(MinicloudError):
            stored = await self._js.last(self._stream, self._subject)
            if stored and json.loads(stored[1])["holder"] in (_NOBODY, self._holder):
                return stored[0]
        return 0

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW)
            if not await self._take() and not self.held:
                log.warning("lease lost", lease=self._subject)
                self.lost.set()
                return


def _held_by(holder: str) -> bytes:
    return json.dumps({"holder": holder}).encode()
