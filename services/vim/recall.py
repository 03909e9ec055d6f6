"""Read back what was decided and told last, where something else was written over it.

The present state of a subject is its last message. When that is noise, the last good one lies
further back in the log; without it a restart would decide and count anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import structlog

from bus.bus import Bus
from bus.streams import stream_of
from bus.watch import Reader
from schemas.decision import Decision, DeploymentStatus
from schemas.deployment import Migration
from schemas.errors import InvalidDocument
from schemas.event import EventData, read_event
from services.vim.state import Life

log = structlog.get_logger("vim")
Told = TypeVar("Told", Decision, DeploymentStatus)
Data = TypeVar("Data", Decision, DeploymentStatus, Migration)


async def recall(bus: Bus, life: Life) -> None:
    """Complete a life whose last decision or status cannot be read."""
    if life.decision is None and life.decision_revision:
        decision = await _last(bus, bus.subjects.decision(life.deployment), Decision, life.deployment)
        if decision is not None:
            life.decided_revision, life.decision = decision
    if life.status is None and life.status_spoiled:
        status = await _last(bus, bus.subjects.status(life.deployment), DeploymentStatus, life.deployment)
        if status is not None:
            life.status = status[1]
    await _recall_migrations(bus, life)


async def _recall_migrations(bus: Bus, life: Life) -> None:
    """Every wish to migrate is answered, and the present state holds the last one only."""
    decision = life.decision
    if decision is None or life.migration_revision <= max(decision.migrations, life.cancel_revision):
        return
    async for revision, payload in _all(bus, bus.subjects.migrate(life.deployment)):
        wish = _read(payload, Migration)
        if wish is not None:
            life.migrations[revision] = wish
    life.migrations = life.open_migrations(decision)


async def _last(bus: Bus, subject: str, kind: type[Told], deployment: str) -> tuple[int, Told] | None:
    """The last of a subject that can be read and speaks of this deployment, with its revision."""
    log.warning("read back beyond what cannot be read", subject=subject)
    found = None
    async for revision, payload in _all(bus, subject):
        data = _read(payload, kind)
        if data is not None and data.deployment == deployment:
            found = (revision, data)
    return found


async def _all(bus: Bus, subject: str) -> AsyncIterator[tuple[int, bytes]]:
    """Everything that is kept of a subject, the oldest first."""
    reader = Reader(bus.jetstream, stream_of(subject), bus.minicloud, [subject], everything=True)
    await reader.start()
    try:
        async for item in reader:
            if item.kind == "SYNC":
                return
            yield item.revision, item.payload
    finally:
        await reader.stop()


def _read(payload: bytes, kind: type[Data]) -> Data | None:
    data: EventData
    try:
        data = read_event(payload, kind).data
    except InvalidDocument:
        return None
    return data if isinstance(data, kind) else None
