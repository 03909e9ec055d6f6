"""What does run in the cluster, onto the bus: of each workload at each node the last word, and only what is new.

In: observations. Out: events, many at once. Nothing is lost by a broker that is away: what waits is replaced by
what is newer, and published when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from bus.bus import Bus
from schemas.errors import MinicloudError
from schemas.event import EventData, now
from schemas.workload import DesiredWorkload, Endpoint, ObservedWorkload
from services.vim.cluster.kind import Observation

log = structlog.get_logger("cluster")
Place = tuple[str, int]
_AT_ONCE: Final = 200
_RETRY: Final = 0.5


class Telling:
    """Publishes levels.

    Args:
        bus: where to.
        cluster: whose.
    """

    def __init__(self, bus: Bus, cluster: str) -> None:
        self._bus = bus
        self._cluster = cluster
        self._told: dict[str, dict[Place, tuple[dict[str, Any], Observation]]] = {}
        self._waiting: dict[str, tuple[EventData, str]] = {}
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def recall(self, level: ObservedWorkload) -> None:
        """What an earlier worker told."""
        document = level.model_dump(mode="json", exclude={"observed_at"})
        known = self._told.setdefault(level.deployment, {})
        known[level.node, level.replica] = (document, _observation(level))

    def told(self, deployment: str) -> Mapping[Place, Observation]:
        """What was last told of a deployment."""
        return {place: observation for place, (_, observation) in self._told.get(deployment, {}).items()}

    def tell(self, desired: DesiredWorkload, seen: Observation) -> bool:
        """Publish what is observed of a level, if it says anything new; whether it does."""
        level = ObservedWorkload(
            workload=desired.workload,
            deployment=desired.deployment,
            generation=desired.generation,
            replica=desired.replica,
            node=desired.node,
            moved_to=seen.moved_to,
            state=seen.state,
            reason=seen.reason,
            message=seen.message,
            runtime=desired.runtime,
            engine=seen.engine or desired.engine,
            acceleration=seen.acceleration,
            reference=seen.reference,
            endpoints=[Endpoint.model_validate(endpoint) for endpoint in seen.endpoints],
            limits=dict(seen.limits),
            restarts=seen.restarts,
            cluster=self._cluster,
            exit=seen.exit,
            started_at=seen.started_at,
            observed_at=now(),
        )
        document = level.model_dump(mode="json", exclude={"observed_at"})
        known = self._told.setdefault(desired.deployment, {})
        place = (desired.node, desired.replica)
        if place in known and known[place][0] == document:
            return False
        known[place] = (document, _observation(level))
        log.info(
            "workload",
            workload=level.workload,
            node=level.node,
            state=level.state,
            reason=level.reason,
            message=level.message,
        )
        self.publish(self._bus.subjects.observed(level.node, level.workload), level, level.node)
        return True

    def publish(self, subject: str, data: EventData, about: str) -> None:
        """Publish a level of any kind soon; called in the event loop."""
        self._waiting.pop(subject, None)
        self._waiting[subject] = (data, about)
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                batch = dict(list(self._waiting.items())[:_AT_ONCE])
                for subject in batch:
                    del self._waiting[subject]
                results = await asyncio.gather(
                    *(
                        self._bus.publish(subject, data, about=about, timeout=5.0)
                        for subject, (data, about) in batch.items()
                    ),
                    return_exceptions=True,
                )
                failed = False
                for (subject, waiting), result in zip(batch.items(), results, strict=True):
                    if isinstance(result, MinicloudError):
                        failed = True
                        self._waiting.setdefault(subject, waiting)  # else something newer waits already
                        log.info("a level waits", subject=subject, error=str(result))
                    elif isinstance(result, BaseException):
                        raise result
                if failed:
                    await asyncio.sleep(_RETRY)
            self._idle.set()

    async def flushed(self, seconds: float) -> bool:
        """Await that all is published, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


def _observation(level: ObservedWorkload) -> Observation:
    return Observation(
        state=level.state,
        reason=level.reason,
        message=level.message,
        reference=level.reference,
        endpoints=tuple(endpoint.model_dump(mode="json") for endpoint in level.endpoints),
        limits=level.limits,
        restarts=level.restarts,
        exit=level.exit,
        started_at=level.started_at.isoformat() if level.started_at else None,
        moved_to=level.moved_to,
        engine=level.engine,
        acceleration=level.acceleration,
        generation=level.generation,
    )
